"""The table [input] of a device's TOML file: one dataclass for each kind of source.

What the sources do is left to `inputs`, `camera`, `microphone` and `http_input`.
"""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgert.strict_toml import Table

STREAMS = ("rtsp://", "http://")
MAX_EVERY_S = 86_400.0


@dataclass(frozen=True)
class FolderConfig:
    """Files that appear in `folder`."""

    folder: Path
    every_s: float


@dataclass(frozen=True)
class CallableConfig:
    """What the generator `module:function` yields."""

    function: str
    every_s: float


@dataclass(frozen=True)
class CameraConfig:
    """A live `device` (a number, a path such as /dev/video0, or the URL of a stream), or else a video `file`.

    `every_s` is seconds from one frame to the next: of the clock, or of the video, where 0 is every frame.
    """

    device: int | str | None
    file: Path | None
    every_s: float
    loop: bool


@dataclass(frozen=True)
class MicrophoneConfig:
    """A live `device` (a number or a part of its name, "" for the system's own), or else a sound `file`.

    `every_s` is seconds from one window to the next, 0 for one after another; `window_s` is how long a window is where
    the model takes any number of samples, else 0.
    """

    device: int | str | None
    file: Path | None
    every_s: float
    window_s: float
    loop: bool


@dataclass(frozen=True)
class HttpConfig:
    """A server at `host` and `port` for at most `queue` requests that wait, each whole after `timeout_s` seconds."""

    host: str
    port: int
    queue: int
    max_body_bytes: int
    timeout_s: float
    token_file: Path | None


InputConfig = FolderConfig | CallableConfig | CameraConfig | MicrophoneConfig | HttpConfig


def parse_input(table: Table, folder: Path) -> InputConfig:
    """Return what the table says; paths are relative to `folder`. BadInput names the key of what is wrong."""
    if not table.has("kind"):
        raise table.error("kind", "is missing", f"write one of {', '.join(_KINDS)}")
    return _KINDS[table.word("kind", tuple(_KINDS))](table, folder)


def _folder(table: Table, folder: Path) -> FolderConfig:
    table.allow(("kind", "folder", "every_s"), required=("folder",))
    return FolderConfig(folder / table.text("folder"), _every(table, 1.0))


def _callable(table: Table, _: Path) -> CallableConfig:
    table.allow(("kind", "function", "every_s"), required=("function",))
    return CallableConfig(table.text("function"), _every(table, 1.0))


def _camera(table: Table, folder: Path) -> CameraConfig:
    table.allow(("kind", "device", "file", "every_s", "loop"))
    device, file, loop = _device_or_file(table, folder)
    if isinstance(device, str) and "://" in device and not device.startswith(STREAMS):
        raise table.error("device", f"is '{device}'", f"a stream begins with {', '.join(STREAMS)}")
    return CameraConfig(device, file, _every(table, 0.0 if file else 1.0), loop)


def _microphone(table: Table, folder: Path) -> MicrophoneConfig:
    table.allow(("kind", "device", "file", "every_s", "window_s", "loop"))
    device, file, loop = _device_or_file(table, folder)
    window_s = table.real("window_s", 0.01, 3_600) if table.has("window_s") else 0.0
    return MicrophoneConfig(device, file, _every(table, 0.0), window_s, loop)


def _device_or_file(table: Table, folder: Path) -> tuple[int | str | None, Path | None, bool]:
    """Return the device, or the file and whether it begins again at its end; `device = ""` is the system's own."""
    if table.has("device") == table.has("file"):
        problem = "is there beside file" if table.has("file") else "is missing"
        raise table.error("device", problem, "name a live device, or a file")
    loop = table.flag("loop") if table.has("loop") else False
    if table.has("file"):
        return None, folder / table.text("file"), loop
    if loop:
        raise table.error("loop", "is true, but a live device has no end", "leave it out")
    value = table.values["device"]
    if isinstance(value, int):
        return table.integer("device", 0, 255), None, False
    return table.text("device") if value != "" else "", None, False


def _http(table: Table, folder: Path) -> HttpConfig:
    keys = ("kind", "listen", "queue", "max_body_bytes", "timeout_s", "token_file")
    table.allow(keys, required=("listen",))
    host, port = _listen(table)
    if not table.has("token_file") and not _is_loopback(host):
        reason = f"is missing, but {host} can be reached from other machines"
        raise table.error("token_file", reason, "name a file with a secret that clients send, or listen on 127.0.0.1")
    return HttpConfig(
        host,
        port,
        queue=table.integer("queue", 1, 256) if table.has("queue") else 8,
        max_body_bytes=table.integer("max_body_bytes", 1, 1 << 30) if table.has("max_body_bytes") else 10_000_000,
        timeout_s=table.real("timeout_s", 0.1, 3_600) if table.has("timeout_s") else 10.0,
        token_file=folder / table.text("token_file") if table.has("token_file") else None,
    )


def _listen(table: Table) -> tuple[str, int]:
    host, _, port = table.text("listen").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    known = host == "localhost" or _address(host) is not None
    if not known or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise table.error("listen", f"is '{table.text('listen')}'", 'write an address and a port: "127.0.0.1:8080"')
    return host, int(port)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _every(table: Table, default: float) -> float:
    return table.real("every_s", 0, MAX_EVERY_S) if table.has("every_s") else default


_KINDS: Mapping[str, Callable[[Table, Path], InputConfig]] = {
    "folder": _folder,
    "callable": _callable,
    "camera": _camera,
    "microphone": _microphone,
    "http": _http,
}
