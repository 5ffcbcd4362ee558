"""Where inputs come from: a source is asked for the next one, and says when there will be no more.

Folders and callables are read here; the others are left to `camera`, `microphone` and `http_input`.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgert.agent.input_config import CallableConfig, CameraConfig, FolderConfig, InputConfig, MicrophoneConfig
from edgert.errors import BadInput, EdgertError
from edgert.imported import imported
from edgert.manifest import TensorSpec
from edgert.runtime.audio import MAX_SAMPLES
from edgert.runtime.inputs import Array, read_inputs
from edgert.runtime.prepare import Preparer

Feeds = Mapping[str, Array]
Outcome = Mapping[str, Array] | EdgertError

SETTLED_S = 0.2
"""A file that was written to so shortly ago may still grow."""

NAP_S = 0.05
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Item:
    """One input. `read` returns its feeds; `waited_s` is how long it stood in a queue, None where there is none.

    `answer` is told what came of it, the outputs or the error, where somebody waits for that.
    """

    name: str
    read: Callable[[], Feeds]
    waited_s: float | None = None
    answer: Callable[[Outcome], None] | None = None


class Source(Protocol):
    """Gives inputs. `dropped` counts those that were thrown away, for the model was busy; `queued` those that wait."""

    @property
    def ended(self) -> bool: ...

    @property
    def dropped(self) -> int: ...

    @property
    def queued(self) -> int: ...

    def take(self, timeout_s: float) -> Item | None:
        """Return the next input; None where none comes in `timeout_s`, or where there will be no more."""

    def close(self) -> None:
        """Let go of what was opened."""


@dataclass
class Reader:
    """How a file becomes the feeds of the model that runs now; a sound or picture larger than the limits is refused.

    `use` takes the feeds of another model.
    """

    inputs: Sequence[TensorSpec]
    preparer: Preparer
    max_samples: int = MAX_SAMPLES
    max_pixels: int | None = None

    def use(self, other: "Reader") -> None:
        """Read for another model from now on."""
        self.inputs, self.preparer = other.inputs, other.preparer

    def fits(self, other: "Reader") -> bool:
        """Say whether it reads the kinds of input that the other one does."""
        mine, others = self.preparer, other.preparer
        return (mine.takes_picture, mine.takes_sound) == (others.takes_picture, others.takes_sound)

    def read(self, path: Path) -> Feeds:
        """Return the feeds in a file: a sound, a picture, or arrays."""
        if self.preparer.takes_sound and path.suffix.lower() in SOUNDS:
            return self.preparer.sound(path, max_samples=self.max_samples)
        if self.preparer.takes_picture and path.suffix.lower() not in (".npy", ".npz"):
            return self.preparer.picture(path, max_pixels=self.max_pixels)
        return read_inputs([path], self.inputs)


def open_source(config: InputConfig, reader: Reader) -> Source:
    """Return the source that the configuration names; BadInput where it cannot be, MissingExtra without its package."""
    # Imported where used: a device that reads a folder does not pay for a server.
    match config:
        case FolderConfig():
            return Paced(_from_folder(config.folder, reader), config.every_s)
        case CallableConfig():
            return Paced(_from_callable(config.function), config.every_s)
        case CameraConfig():
            from edgert.agent.camera import open_camera

            return open_camera(config, reader.preparer)
        case MicrophoneConfig():
            from edgert.agent.microphone import open_microphone

            return open_microphone(config, reader.preparer)
    from edgert.agent.http_input import HttpInput

    return HttpInput(config, reader)


class Paced:
    """Inputs that wait until they are asked for: one every `every_s` seconds, none is dropped.

    `items` yields None where there is nothing now.
    """

    def __init__(self, items: Generator[Item | None], every_s: float) -> None:
        self.ended, self.dropped, self.queued = False, 0, 0
        self._items, self._every_s, self._due = items, every_s, 0.0

    def take(self, timeout_s: float) -> Item | None:
        until = time.monotonic() + timeout_s
        while not self.ended:
            wait = min(self._due, until) - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            if self._due > until:
                return None
            try:
                item = next(self._items)
            except StopIteration:
                self.ended = True
                return None
            if item is not None:
                self._due = time.monotonic() + self._every_s
                return item
            if time.monotonic() >= until:
                return None
            time.sleep(min(NAP_S, max(0.0, until - time.monotonic())))
        return None

    def close(self) -> None:
        self.ended = True
        self._items.close()


def _from_callable(name: str) -> Generator[Item]:
    made = imported(name, "a generator of feeds")
    for number, feeds in enumerate(made()):
        yield Item(f"{name}[{number}]", lambda feeds=feeds: feeds)  # type: ignore[misc]


def _from_folder(folder: Path, reader: Reader) -> Generator[Item | None]:
    """Yield the files of a folder by name, then those that appear; one that is being written is waited for."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder", "make it, or name another one in [input]")
    done, sizes = set[str](), dict[str, int]()
    while True:
        found = False
        for path in sorted(folder.iterdir()):
            if path.name in done or path.name.startswith(".") or not path.is_file():
                continue
            size = path.stat().st_size
            if time.time() - path.stat().st_mtime < SETTLED_S and sizes.get(path.name) != size:
                sizes[path.name] = size
                continue
            done.add(path.name)
            found = True
            yield Item(path.name, lambda path=path: reader.read(path))  # type: ignore[misc]
        if not found:
            yield None
