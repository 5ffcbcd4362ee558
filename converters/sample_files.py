"""Samples from files: `.npz`, `.npy`, pictures, texts and sounds, alone or in a folder.

At most one file is in memory at a time; a `.npy` is mapped. Checking arrays is left to `samples`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgert.errors import BadInput
from edgert.image_spec import ImageSpec
from edgert.manifest import TensorSpec
from edgert.runtime.arrays import read_npy, read_npz
from edgert.runtime.audio import SOUND_SUFFIXES, is_sound_file
from edgert.runtime.images import IMAGE_SUFFIXES, default_image_spec, is_image_file, load_image, takes_image
from edgert.runtime.prepare import Preparer

ARRAY_SUFFIXES = (".npz", ".npy")
TEXT_SUFFIX = ".txt"
FORMS = "give a folder of images, .npz or .npy files, texts or sounds, one such file, module:function, or random"


@dataclass(frozen=True)
class Found:
    """One sample as it was found, before any check, and where."""

    arrays: Mapping[str, NDArray[Any]]
    where: str


def is_usable(path: Path, preparer: Preparer | None = None) -> bool:
    """Return whether the file's name ends like something that samples can be read from; texts and sounds need rules."""
    if is_text_file(path):
        return preparer is not None and preparer.takes_text
    if is_sound_file(path):
        return preparer is not None and preparer.takes_sound
    return path.suffix.lower() in ARRAY_SUFFIXES or is_image_file(path)


def is_text_file(path: Path) -> bool:
    """Return whether the file's name ends like a text: one sample a line."""
    return path.suffix.lower() == TEXT_SUFFIX


def check_usable(path: Path, preparer: Preparer | None) -> None:
    """Raise BadInput, with the reason, for one file that samples cannot be read from."""
    if is_usable(path, preparer):
        return
    if not (is_text_file(path) or is_sound_file(path)):
        raise BadInput(f"'{path}' is not a kind of file that samples are read from", FORMS)
    what, tool = ("a text", "tokenizer") if is_text_file(path) else ("a sound", "sample rate")
    raise BadInput(
        f"'{path}' is {what}, and the model does not say how {what} becomes its inputs",
        f"convert it from a source that has its {tool}, such as a Hugging Face folder, or give arrays as .npz",
    )


def usable_files(folder: Path, preparer: Preparer | None = None) -> tuple[Path, ...]:
    """Return the files of the folder itself that samples can be read from, sorted by name.

    Where there is none, BadInput says what would be one, and why the first text or sound is not.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as exc:
        raise BadInput(f"the folder '{folder}' cannot be read: {exc.strerror}", FORMS) from exc
    seen = [path for path in entries if path.is_file() and path.name[0] != "."]
    files = tuple(path for path in seen if is_usable(path, preparer))
    if files:
        return files
    for path in seen:
        if is_text_file(path) or is_sound_file(path):
            check_usable(path, preparer)
    usable = ", ".join((*ARRAY_SUFFIXES, *IMAGE_SUFFIXES, TEXT_SUFFIX, *SOUND_SUFFIXES))
    what = f"{len(entries)} entries, none of them" if entries else "no entry, so nothing"
    message = f"the folder '{folder}' has {what} usable for calibration"
    raise BadInput(message, f"put files that end in {usable} into the folder itself")


def read_files(
    files: Sequence[Path], inputs: Sequence[TensorSpec], preparer: Preparer | None = None
) -> Iterator[Found]:
    """Yield the samples of `files`, one file after the other."""
    for path in files:
        if is_image_file(path):
            yield _read_image(path, inputs)
        elif preparer is not None and is_text_file(path):
            yield from _read_text(path, preparer)
        elif preparer is not None and is_sound_file(path):
            yield Found(preparer.sound(path), str(path))
        elif path.suffix.lower() == ".npz":
            yield from _split(read_npz(path), inputs, str(path))
        else:
            yield from _split({_only_input(path, inputs).name: read_npy(path, mapped=True)}, inputs, str(path))


def _read_text(path: Path, preparer: Preparer) -> Iterator[Found]:
    """Yield one sample for each line that is not empty."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield Found(preparer.texts([line.strip()]), f"{path}, line {number}")
    except UnicodeDecodeError as exc:
        raise BadInput(f"'{path}' is not text in UTF-8: {exc.reason} at byte {exc.start}", "save it as UTF-8") from exc
    except OSError as exc:
        raise BadInput(f"'{path}' cannot be read: {exc.strerror}", "check the file's permissions") from exc


def _read_image(path: Path, inputs: Sequence[TensorSpec]) -> Found:
    spec = _image_input(path, inputs)
    rules = spec.image or default_image_spec(spec.shape, spec.dtype)
    try:
        return Found({spec.name: load_image(path, rules, spec.shape, spec.dtype)}, str(path))
    except BadInput as exc:
        raise BadInput(f"input '{spec.name}': {exc.message}", exc.remedy) from exc


def _image_input(path: Path, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the input that pictures are for: the one with image rules, or the only likely one."""
    declared = [spec for spec in inputs if spec.image is not None]
    likely = declared or [spec for spec in inputs if takes_image(spec.shape, spec.dtype)]
    if len(likely) != 1:
        seen = "; ".join(f"'{spec.name}' {spec.dtype} {shape_text(spec.shape)}" for spec in inputs)
        how_many = "no input" if not likely else "more than one input"
        message = f"'{path}' is a picture, but {how_many} of the model looks like one: {seen}"
        raise BadInput(message, "give --shape and --image NAME:RULES, or arrays as .npz")
    return likely[0]


def _only_input(path: Path, inputs: Sequence[TensorSpec]) -> TensorSpec:
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise BadInput(f"'{path}' holds one array, but the model has {len(inputs)} inputs: {names}", "give .npz files")
    return inputs[0]


def _split(arrays: Mapping[str, NDArray[Any]], inputs: Sequence[TensorSpec], where: str) -> Iterator[Found]:
    """Yield the samples of one file.

    Arrays with one axis more than their input hold many samples; the others go with each of these.
    """
    ranks = {spec.name: len(spec.shape) for spec in inputs}
    stacked = {name: len(array) for name, array in arrays.items() if array.ndim == ranks.get(name, -2) + 1}
    if len(set(stacked.values())) > 1:
        counts = ", ".join(f"'{name}' {count}" for name, count in sorted(stacked.items()))
        raise BadInput(f"{where}: the arrays hold different numbers of samples: {counts}", "make them equal")
    if not stacked:
        yield Found(arrays, where)
    for index in range(next(iter(stacked.values()), 0)):
        sample = {name: array[index] if name in stacked else array for name, array in arrays.items()}
        yield Found(sample, f"{where}, sample {index}")


def image_rules(
    kind: str, name: str, inputs: Sequence[TensorSpec], preparer: Preparer | None = None
) -> dict[str, ImageSpec]:
    """Return the image rules that a pass over these samples uses, by input."""
    if kind not in ("folder", "file"):
        return {}
    files = usable_files(Path(name), preparer) if kind == "folder" else (Path(name),)
    pictures = [path for path in files if is_image_file(path)]
    if not pictures:
        return {}
    spec = _image_input(pictures[0], inputs)
    return {spec.name: spec.image or default_image_spec(spec.shape, spec.dtype)}


def shape_text(shape: Sequence[int | str | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
