"""What a command line feeds a model: one run for each batch of texts, picture or sound, or one for arrays.

Reading the items is left to `edgert.runtime.inputs` and `edgert.runtime.prepare`.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from edgert.errors import UsageError
from edgert.manifest import TensorSpec
from edgert.runtime.audio import is_sound_file
from edgert.runtime.images import is_image_file
from edgert.runtime.inputs import check_complete, read_inputs, read_items
from edgert.runtime.prepare import Feeds, Preparer
from edgert.task import Task

log = logging.getLogger("edgert")


@dataclass(frozen=True)
class Run:
    """One run: what each of its rows is called, a text or a file, and whether it goes on with the sound before."""

    names: tuple[str, ...]
    feeds: Feeds
    continues: bool = False


def plan_runs(
    items: Sequence[str], texts: Sequence[str], task: Task | None, inputs: Sequence[TensorSpec], preparer: Preparer
) -> Iterator[Run]:
    """Yield the runs on what a command line gives.

    Sounds, and pictures where the model has a task, are prepared one by one; what else the `items` give goes into
    every run. Raises UsageError for what the model does not take, BadInput for files that cannot be read.
    """
    pictures = _files(items, is_image_file) if task is not None and preparer.takes_picture else []
    sounds = _files(items, is_sound_file) if preparer.takes_sound else []
    given = [kind for kind in (texts, pictures, sounds) if kind]
    if len(given) > 1:
        raise UsageError("texts, pictures and sounds are given together", "give those of one kind")
    if not given:
        yield Run((), read_inputs(items, inputs))
        return
    rest = read_items([item for item in items if item not in (*pictures, *sounds)], inputs)
    sound_runs = (_sound_runs(name, task, preparer) for name in sounds)
    for run in chain(_text_runs(texts, preparer), _picture_runs(pictures, preparer), *sound_runs):
        yield _with_rest(run, rest, inputs)


def _files(items: Sequence[str], is_kind: Callable[[Path], bool]) -> list[str]:
    """Return the items that name a file of the kind, without `NAME=` before it."""
    return [item for item in items if is_kind(Path(item)) and ("=" not in item or os.path.exists(item))]  # noqa: PTH110


def _text_runs(texts: Sequence[str], preparer: Preparer) -> Iterator[Run]:
    most = preparer.most_texts or len(texts)
    for start in range(0, len(texts), most or 1):
        batch = texts[start : start + most]
        yield Run(tuple(batch), preparer.texts(batch))


def _picture_runs(pictures: Sequence[str], preparer: Preparer) -> Iterator[Run]:
    for name in pictures:
        yield Run((name,), preparer.picture(Path(name)))


def _sound_runs(name: str, task: Task | None, preparer: Preparer) -> Iterator[Run]:
    windows = preparer.windows(Path(name))
    if task is not None and task.kind == "speech-to-text":
        yield from (Run((name,), feeds, continues=index > 0) for index, feeds in enumerate(windows))
        return
    yield Run((name,), next(windows))
    if next(windows, None) is not None:
        log.warning("%s: only its beginning is used, as much as the model takes", name)


def _with_rest(run: Run, rest: Feeds, inputs: Sequence[TensorSpec]) -> Run:
    twice = sorted(run.feeds.keys() & rest.keys())
    if twice:
        raise UsageError(f"input '{twice[0]}' is given twice, once by '{run.names[0][:80]}'", "give it once")
    feeds = {**rest, **run.feeds}
    check_complete(feeds, inputs)
    return replace(run, feeds=feeds)
