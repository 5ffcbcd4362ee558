"""Arrays from the items of a command line and to files: `.npz`, `.npy`, `.json`, pictures, numbers, text.

Reading array files is left to `arrays`, decoding pictures to `images`; whether an array fits
the model is found out by `Session.run`.
"""

import errno
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgert import strict_json
from edgert.errors import BadInput, EnvironmentFailed, UsageError, nearest
from edgert.manifest import TensorSpec
from edgert.runtime.arrays import read_npy, read_npz, storable

Array = np.ndarray[Any, Any]

_FORMS = "give FILE.npz, FILE.npy, a picture, NAME=FILE.npy, NAME=PICTURE, NAME=NUMBER or NAME=TEXT"
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def read_inputs(items: Sequence[Path | str], inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return one array per input of the model, from the items of a command line.

    An item is an `.npz` whose keys are input names, or one array for one input: an `.npy`, a picture (shaped
    as the input's ImageSpec says), a number, or text for an input of dtype str, with `NAME=` before it where the model
    has several inputs.
    BadInput names the file; UsageError when an input is given twice or not at all.
    """
    feeds = read_items(items, inputs)
    check_complete(feeds, inputs)
    return feeds


def read_items(items: Sequence[Path | str], inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the arrays of the inputs that the items give, as `read_inputs` does; others may be missing."""
    feeds: dict[str, Array] = {}
    for item in items:
        for name, array in _read_item(str(item), inputs).items():
            if name in feeds:
                raise UsageError(f"input '{name}' is given twice, the second time by '{item}'", _FORMS)
            feeds[name] = array
    return feeds


def check_complete(feeds: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> None:
    """Raise UsageError when an input of the model is not among the feeds."""
    missing = [spec.name for spec in inputs if spec.name not in feeds]
    if missing:
        raise UsageError(f"input '{missing[0]}' is not given", f"add {missing[0]}=FILE.npy; {_FORMS}")


def write_outputs(path: Path, outputs: Mapping[str, Array]) -> dict[str, Path]:
    """Write the outputs to `path` and return the file of each one.

    A path that ends in `.npz` becomes one file with the output names as keys, `.json` nested lists with null for
    what is not finite; anything else a folder with one `.npy` per output (characters other than A-Z a-z 0-9 . _ -
    become "_"). An existing file is replaced whole or not at all.
    """
    arrays = {name: storable(array, name) for name, array in outputs.items()}
    try:
        if path.suffix == ".npz":
            _replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
            return dict.fromkeys(arrays, path)
        if path.suffix == ".json":
            text = strict_json.dumps({name: _plain(array) for name, array in arrays.items()})
            _replace(path, lambda file: file.write(text.encode("utf-8")))
            return dict.fromkeys(arrays, path)
        path.mkdir(parents=True, exist_ok=True)
        files = {name: path / f"{stem}.npy" for name, stem in _file_stems(list(arrays)).items()}
        for name, file in files.items():
            _replace(file, lambda handle, array=arrays[name]: np.save(handle, array, allow_pickle=False))
        return files
    except OSError as exc:
        raise _cannot_write(path, exc) from exc


def _plain(array: Array) -> object:
    """Return nested lists, with None for what JSON has no number for."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array.tolist()
    values = array.astype(object)
    values[~np.isfinite(array)] = None
    return values.tolist()


def summarise(outputs: Mapping[str, Array]) -> dict[str, dict[str, object]]:
    """Return shape, dtype, min, max, mean and top1 of each output, as plain values for JSON.

    `top1` is the index of the largest value of a single vector ([N] or [1, N]), None for other shapes.
    Statistics leave values out that are not finite and are None where nothing is left; text has none.
    """
    return {name: _summary(array) for name, array in outputs.items()}


def _summary(array: Array) -> dict[str, object]:
    summary: dict[str, object] = {"shape": list(array.shape), "dtype": _dtype_name(array)}
    if array.dtype.kind not in "biuf":
        return {**summary, "min": None, "max": None, "mean": None, "top1": None}
    values = array.astype(np.float64).ravel()
    finite = values[np.isfinite(values)]
    vector = array.ndim in (1, 2) and array.shape[-1] == array.size and finite.size == array.size > 1
    return {
        **summary,
        "min": float(finite.min()) if finite.size else None,
        "max": float(finite.max()) if finite.size else None,
        "mean": _mean(finite),
        "top1": int(values.argmax()) if vector else None,
    }


def _mean(finite: Array) -> float | None:
    if not finite.size:
        return None
    with np.errstate(over="ignore"):
        mean = float(finite.mean())
    return mean if math.isfinite(mean) else None


def _dtype_name(array: Array) -> str:
    return "str" if array.dtype.kind in "USO" else array.dtype.name


def _read_item(item: str, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the arrays of one item of the command line by input name."""
    name, equals, value = item.partition("=")
    whole = not equals or os.path.exists(item)  # noqa: PTH110  (Path.exists raises for a name that is too long)
    if whole and Path(item).suffix.lower() == ".npz":
        return {_named_input(key, inputs).name: array for key, array in read_npz(Path(item)).items()}
    if whole:  # a file may have an equals sign in its name
        spec, value = _only_input(item, inputs), item
    else:
        spec = _named_input(name, inputs)
    return {spec.name: _read_value(value, spec)}


def _named_input(name: str, inputs: Sequence[TensorSpec]) -> TensorSpec:
    for spec in inputs:
        if spec.name == name:
            return spec
    known = [spec.name for spec in inputs]
    near = nearest(name, known)
    hint = f"did you mean '{near}'?" if near else f"the model takes {', '.join(known)}"
    raise BadInput(f"the model has no input '{name}'", hint)


def _only_input(item: str, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the input that an item without `NAME=` is for: the only one, or a picture's only one."""
    if len(inputs) == 1:
        return inputs[0]
    pictured = [spec for spec in inputs if spec.image is not None]
    if _is_picture(Path(item)) and len(pictured) == 1:
        return pictured[0]
    names = ", ".join(spec.name for spec in inputs)
    raise (
        UsageError(f"'{item}' does not say which of the inputs {names} it is for", f"write {inputs[0].name}={item}")
        if inputs
        else UsageError(f"the model takes no input, but '{item}' is given", "leave it out")
    )


def _read_value(value: str, spec: TensorSpec) -> Array:
    path = Path(value)
    if path.suffix.lower() == ".npy":
        return read_npy(path)
    if spec.dtype == "str":
        return _text(value, spec)
    if _is_picture(path):
        return _read_picture(path, spec)
    number = _number(value, spec)
    if number is None:
        found = f"'{value}' is not a kind of file that is known" if path.is_file() else f"there is no file '{value}'"
        raise BadInput(f"input '{spec.name}': {found}", _FORMS)
    return number


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def _read_picture(path: Path, spec: TensorSpec) -> Array:
    if spec.image is None:
        raise BadInput(
            f"input '{spec.name}' does not say how a picture becomes a tensor, so '{path}' cannot be used",
            "convert the model with --image, or give the array as .npy",
        )
    from edgert.runtime.images import load_image  # Pillow is an extra

    return load_image(path, spec.image, spec.shape, spec.dtype)


def _number(text: str, spec: TensorSpec) -> Array | None:
    """Return `text` as a single value of the input's dtype and rank, None when it is not one."""
    if any(isinstance(size, int) and size != 1 for size in spec.shape):
        return None
    try:
        value: int | float = float(text) if spec.dtype.startswith("float") else int(text)
        return np.full([1] * len(spec.shape), value, dtype=spec.dtype)
    except (ValueError, TypeError, OverflowError):
        return None


def _text(text: str, spec: TensorSpec) -> Array:
    """Return one text as an array of the input's rank."""
    if any(isinstance(size, int) and size != 1 for size in spec.shape):
        message = f"input '{spec.name}' takes text of shape {list(spec.shape)}, one text does not fill it"
        raise BadInput(message, f"write an array of text: {spec.name}=FILE.npy")
    return np.full([1] * len(spec.shape), text, object)


def _file_stems(names: Sequence[str]) -> dict[str, str]:
    """Return a flat file stem for each output name, no two alike even where letter case does not count."""
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for index, name in enumerate(names):
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:80] or "output"
        if stem.lower() in taken:
            stem = f"{stem}-{index}"
        taken.add(stem.lower())
        stems[name] = stem
    return stems


def _replace(path: Path, write: Any) -> None:
    """Write a file beside `path` and move it there, so that nobody sees half of it."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _cannot_write(path: Path, exc: OSError) -> EnvironmentFailed | BadInput:
    message = f"'{path}' cannot be written: {exc.strerror or exc}"
    if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
        return BadInput(message, "give --output a file in a folder that exists")
    remedy = "free disk space" if exc.errno == errno.ENOSPC else "give a path that you may write to"
    return EnvironmentFailed(message, remedy)
