"""A TCP proxy that misbehaves when told to: it cuts, delays, throttles, and leaves connections half open."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any

CHUNK = 1024


class ChaosProxy:
    """Forwards 127.0.0.1:`port` to `target_port`, in a thread of its own."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.bytes_per_s = 0.0
        self.is_closed = False
        self.is_frozen = False
        self._target_port = target_port
        self._writers = set[asyncio.StreamWriter]()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self._serve, args=(ready,), daemon=True).start()
        ready.wait()

    def cut(self) -> None:
        """Reset every connection that is open."""
        self._call(self._cut())

    def heal(self) -> None:
        """Behave again; connections that were frozen are cut, for their bytes are gone."""
        was_frozen, self.is_frozen, self.is_closed, self.delay_s, self.bytes_per_s = (
            self.is_frozen,
            False,
            False,
            0.0,
            0.0,
        )
        if was_frozen:
            self.cut()

    def stop(self) -> None:
        """End the proxy."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _serve(self, ready: threading.Event) -> None:
        async def begin() -> None:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()

        self._loop.run_until_complete(begin())
        self._loop.run_forever()

    async def _cut(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_closed:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.is_frozen:
                    continue  # swallowed: the other side waits for an answer that never comes
                if self.delay_s or self.bytes_per_s:
                    await asyncio.sleep(self.delay_s + (len(data) / self.bytes_per_s if self.bytes_per_s else 0))
                writer.write(data)
                await writer.drain()
        self._writers.discard(writer)
        writer.transport.abort()
