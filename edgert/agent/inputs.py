"""Where inputs come from: a source is asked for the next one, and says when there will be no more."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgert.agent.config import InputConfig
from edgert.errors import BadInput, EdgertError
from edgert.imported import imported
from edgert.manifest import TensorSpec
from edgert.runtime.inputs import Array, read_inputs
from edgert.runtime.prepare import Preparer

Feeds = Mapping[str, Array]

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
    answer: Callable[[Mapping[str, Array] | EdgertError], None] | None = None


class Source(Protocol):
    """Gives inputs. `dropped` counts those that were thrown away, for the model was busy; `queued` those that wait."""

    ended: bool
    dropped: int
    queued: int

    def take(self, timeout_s: float) -> Item | None:
        """Return the next input; None where none comes in `timeout_s`, or where there will be no more."""

    def close(self) -> None:
        """Let go of what was opened."""


@dataclass
class Reader:
    """How a file becomes the feeds of the model that runs now; `use` takes those of another one."""

    inputs: Sequence[TensorSpec]
    preparer: Preparer

    def use(self, other: "Reader") -> None:
        """Read for another model from now on."""
        self.inputs, self.preparer = other.inputs, other.preparer

    def read(self, path: Path) -> Feeds:
        """Return the feeds in a file: a sound, a picture, or arrays."""
        if self.preparer.takes_sound and path.suffix.lower() in SOUNDS:
            return self.preparer.sound(path)
        if self.preparer.takes_picture and path.suffix.lower() not in (".npy", ".npz"):
            return self.preparer.picture(path)
        return read_inputs([path], self.inputs)


def open_source(config: InputConfig, reader: Reader) -> Source:
    """Return the source that the configuration names; BadInput where it cannot be."""
    if config.kind == "callable":
        return Paced(_from_callable(config.function), config.every_s)
    assert config.folder is not None, "parse_agent_config checks it"
    return Paced(_from_folder(config.folder, reader), config.every_s)


class Paced:
    """Inputs that wait until they are asked for: one every `every_s` seconds, none is dropped.

    `items` yields None where there is nothing now.
    """

    def __init__(self, items: Iterator[Item | None], every_s: float) -> None:
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
        """Nothing is open between two inputs."""


def _from_callable(name: str) -> Iterator[Item]:
    made = imported(name, "a generator of feeds")
    for number, feeds in enumerate(made()):
        yield Item(f"{name}[{number}]", lambda feeds=feeds: feeds)  # type: ignore[misc]


def _from_folder(folder: Path, reader: Reader) -> Iterator[Item | None]:
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
