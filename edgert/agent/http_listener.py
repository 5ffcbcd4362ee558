"""A small HTTP server for hostile clients: few connections, each with a deadline, and nothing read that is too much.

One request a connection. What a body means is left to `http_input`.
"""

import hmac
import http.server
import io
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgert.agent.http_message import Reply, Request, no_such_path, refusal, too_busy
from edgert.agent.input_config import HttpConfig
from edgert.errors import BadInput

log = logging.getLogger("edgert")

SPARE_CONNECTIONS = 16
"""Beside those that wait in the queue: uploads that are under way, and questions for /healthz."""

LINGER_S, LINGER_BYTES = 1.0, 1 << 20
POLL_S, CLOSE_S = 0.1, 0.5
BLOCK = 1 << 16


class Listener:
    """Listens until it is closed. `is_full` is asked before a body is read; `infer` answers, in a thread of its own."""

    def __init__(
        self,
        config: HttpConfig,
        token: bytes | None,
        folder: Path,
        is_full: Callable[[], bool],
        infer: Callable[[Request], Reply],
    ) -> None:
        self.config, self.token, self.folder, self.is_full, self.infer = config, token, folder, is_full, infer
        self.numbers = itertools.count(1)
        try:
            self._server = _Server(self, config)
        except OSError as exc:
            remedy = "choose another port, or end the program that uses it"
            raise BadInput(f"cannot listen on {config.host} port {config.port}: {exc.strerror or exc}", remedy) from exc
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), daemon=True, name="http")
        self._thread.start()

    def close(self) -> None:
        """Accept no more, and give the answers that are under way a moment."""
        self._server.end()


class _Server(http.server.ThreadingHTTPServer):
    """Threads, but a bounded number of them."""

    daemon_threads, block_on_close = True, False
    request_queue_size = 64

    def __init__(self, listener: Listener, config: HttpConfig) -> None:
        self.listener = listener
        self._most, self._open, self._ending = config.queue + SPARE_CONNECTIONS, 0, False
        self._changed = threading.Condition()
        self.address_family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        super().__init__((config.host, config.port), _Connection)

    def server_bind(self) -> None:
        """Bind without asking a name server who we are, as http.server would."""
        super(http.server.HTTPServer, self).server_bind()
        self.server_name, self.server_port = self.listener.config.host, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection; while there are too many, it and those behind it wait."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending or self._open < self._most)
            self._open += 1
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._leave()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def end(self) -> None:
        """Accept no more, and wait a moment for the answers that are under way."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self.shutdown()
        self.server_close()
        with self._changed:
            self._changed.wait_for(lambda: not self._open, CLOSE_S)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("http: a connection broke", exc_info=True)


class _Deadline(io.RawIOBase):
    """Reads of a socket that all end by one point in time, however slowly the bytes come."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._connection, self._until = connection, time.monotonic() + timeout_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request takes too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Refused(Exception):
    """A request that is answered before, or instead of, being read."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class _Connection(http.server.BaseHTTPRequestHandler):
    """One connection, one request."""

    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "edgert", ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Deadline(self.connection, self.server.listener.config.timeout_s), BLOCK)

    def handle_expect_100(self) -> bool:
        """Wait with "100 Continue" until it is known that the body is wanted."""
        return True

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._send(Reply(200, "application/json", b'{"status": "ok"}'))
        elif self.path == "/infer":
            self._send(refusal(405, f"{self.command} is not for /infer", "use POST", {"Allow": "POST"}))
        else:
            self._send(no_such_path())

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        try:
            length = self._checked_length()
            body = self.server.listener.folder / str(number := next(self.server.listener.numbers))
            self._store(body, length)
            self._send(self.server.listener.infer(Request(number, self._header("Accept"), body)))
        except _Refused as exc:
            self._send(exc.reply)
            self._linger()

    def _checked_length(self) -> int:
        """Return the length of the body once all that stands before it is right."""
        listener = self.server.listener
        if self.path != "/infer":
            raise _Refused(
                refusal(405, "POST is not for /healthz", "use GET", {"Allow": "GET"})
                if self.path == "/healthz"
                else no_such_path()
            )
        if listener.token is not None and not self._is_allowed(listener.token):
            raise _Refused(refusal(401, "the token is missing or wrong", "send it", {"WWW-Authenticate": "Bearer"}))
        lengths = self.headers.get_all("Content-Length", [])
        if self.headers.get("Transfer-Encoding") is not None or not lengths:
            raise _Refused(refusal(411, "the request has no Content-Length", "send one, and the body in one piece"))
        if len(lengths) > 1 or not lengths[0].isascii() or not lengths[0].isdigit() or len(lengths[0]) > 18:
            raise _Refused(refusal(400, "Content-Length is not a number", "send the length of the body in bytes"))
        length, most = int(lengths[0]), listener.config.max_body_bytes
        if length > most:
            raise _Refused(refusal(413, f"the body has {length} bytes, at most {most} are read", "send less"))
        if listener.is_full():
            raise _Refused(too_busy())
        return length

    def _is_allowed(self, token: bytes) -> bool:
        scheme, _, value = self._header("Authorization").partition(" ")
        given = value.strip().encode("latin-1", "replace")
        return hmac.compare_digest(given, token) and scheme.lower() == "bearer"

    def _store(self, body: Path, length: int) -> None:
        """Write the body to its file, without holding it in memory."""
        if self.headers.get("Expect", "").lower() == "100-continue":
            super().handle_expect_100()
        try:
            with body.open("xb") as file:
                while length:
                    block = self.rfile.read1(min(length, BLOCK))
                    if not block:
                        raise _Refused(refusal(400, f"the body ends {length} bytes early", "send it whole"))
                    file.write(block)
                    length -= len(block)
        except TimeoutError as exc:
            body.unlink(missing_ok=True)
            raise _Refused(refusal(408, "the body came too slowly", "send it faster, or send less")) from exc
        except OSError as exc:
            body.unlink(missing_ok=True)
            raise _Refused(refusal(503, f"the body cannot be kept: {exc.strerror}", "send it again later")) from exc
        except _Refused:
            body.unlink(missing_ok=True)
            raise

    def _header(self, name: str) -> str:
        return str(self.headers.get(name, ""))

    def _send(self, reply: Reply) -> None:
        self.connection.settimeout(self.server.listener.config.timeout_s)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def _linger(self) -> None:
        """Let the answer arrive: closing with bytes unread would reset the connection, and the answer with it."""
        self.connection.shutdown(socket.SHUT_WR)
        until, left = time.monotonic() + LINGER_S, LINGER_BYTES
        while left > 0 and (wait := until - time.monotonic()) > 0:
            self.connection.settimeout(wait)
            block = self.connection.recv(BLOCK)
            if not block:
                return
            left -= len(block)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what strangers send is not for a log."""
