"""Samples from files: `.npz`, `.npy` and pictures, alone or in a folder.

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
from edgert.runtime.images import IMAGE_SUFFIXES, default_image_spec, is_image_file, load_image, takes_image

ARRAY_SUFFIXES = (".npz", ".npy")
FORMS = "give a folder of images, .npz or .npy files, one such file, module:function, or random"


@dataclass(frozen=True)
class Found:
    """One sample as it was found, before any check, and where."""

    arrays: Mapping[str, NDArray[Any]]
    where: str


def is_usable(path: Path) -> bool:
    """Return whether the file's name ends like something that samples can be read from."""
    return path.suffix.lower() in ARRAY_SUFFIXES or is_image_file(path)


def usable_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of the folder itself that samples can be read from, sorted by name."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as exc:
        raise BadInput(f"the folder '{folder}' cannot be read: {exc.strerror}", FORMS) from exc
    files = tuple(path for path in entries if path.is_file() and is_usable(path) and path.name[0] != ".")
    if not files:
        usable = ", ".join((*ARRAY_SUFFIXES, *IMAGE_SUFFIXES))
        seen = f"{len(entries)} entries, none of them" if entries else "no entry, so nothing"
        message = f"the folder '{folder}' has {seen} usable for calibration"
        raise BadInput(message, f"put files that end in {usable} into the folder itself")
    return files


def read_files(files: Sequence[Path], inputs: Sequence[TensorSpec]) -> Iterator[Found]:
    """Yield the samples of `files`, one file after the other."""
    for path in files:
        if is_image_file(path):
            yield _read_image(path, inputs)
        elif path.suffix.lower() == ".npz":
            yield from _split(read_npz(path), inputs, str(path))
        else:
            yield from _split({_only_input(path, inputs).name: read_npy(path, mapped=True)}, inputs, str(path))


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


def image_rules(kind: str, name: str, inputs: Sequence[TensorSpec]) -> dict[str, ImageSpec]:
    """Return the image rules that a pass over these samples uses, by input."""
    if kind not in ("folder", "file"):
        return {}
    files = usable_files(Path(name)) if kind == "folder" else (Path(name),)
    pictures = [path for path in files if is_image_file(path)]
    if not pictures:
        return {}
    spec = _image_input(pictures[0], inputs)
    return {spec.name: spec.image or default_image_spec(spec.shape, spec.dtype)}


def shape_text(shape: Sequence[int | str | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
