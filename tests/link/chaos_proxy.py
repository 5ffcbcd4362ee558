"""A TCP proxy that misbehaves when told to: it cuts, delays, throttles, and leaves connections half
open or open twice."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any

CHUNK = 1024
LINGER_S = 0.5


class ChaosProxy:
    """Forwards 127.0.0.1:`port` to `target_port`, in a thread of its own."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.bytes_per_s = 0.0
        self.is_closed = False
        self.is_frozen = False
        self.is_lingering = False
        self._target_port = target_port
        self._writers, self._near = set[asyncio.StreamWriter](), set[asyncio.StreamWriter]()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self._serve, args=(ready,), daemon=True).start()
        ready.wait()

    def cut(self) -> None:
        """Reset every connection that is open."""
        self._call(self._cut(self._writers))

    def delay(self) -> None:
        """Give everything later."""
        self.delay_s = 0.05

    def throttle(self) -> None:
        """Let through little."""
        self.bytes_per_s = 20_000

    def freeze(self) -> None:
        """Swallow everything: each side waits for an answer that never comes."""
        self.is_frozen = True

    def close(self) -> None:
        """Reset every connection, and take no more."""
        self.is_closed = True
        self.cut()

    def linger(self) -> None:
        """Reset the devices' sides alone: the broker hears their last bytes a while after they have connected anew."""
        self.is_lingering = True
        self._call(self._cut(self._near))

    def heal(self) -> None:
        """Behave again; connections that were frozen are cut, for their bytes are gone."""
        was_frozen, self.is_frozen, self.is_closed, self.is_lingering = self.is_frozen, False, False, False
        self.delay_s = self.bytes_per_s = 0.0
        if was_frozen:
            self.cut()

    def stop(self) -> None:
        """End the proxy."""
        self.is_lingering = False
        self._call(self._end())
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

    async def _cut(self, writers: set[asyncio.StreamWriter]) -> None:
        for writer in tuple(writers):
            writer.transport.abort()
        writers.clear()

    async def _end(self) -> None:
        await self._cut(self._writers)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

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
        self._near.add(writer)
        with contextlib.suppress(asyncio.CancelledError):  # the proxy's end, of which the server's task need not tell
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.is_frozen:
                    continue  # swallowed: the other side waits for an answer that never comes
                if self.is_lingering:
                    await asyncio.sleep(LINGER_S)
                if self.delay_s or self.bytes_per_s:
                    await asyncio.sleep(self.delay_s + (len(data) / self.bytes_per_s if self.bytes_per_s else 0))
                writer.write(data)
                await writer.drain()
        if self.is_lingering:
            await asyncio.sleep(LINGER_S)
        self._writers.discard(writer)
        self._near.discard(writer)
        writer.transport.abort()
