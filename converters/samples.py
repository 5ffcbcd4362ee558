"""Calibration samples from files, a Python callable or random numbers: checked, streamed, counted, hashed.

Reading files is left to `sample_files`, what is learnt from the samples to `quantize` and `verify`.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.callables import import_callable, is_callable_name, working_folder_importable
from converters.sample_files import FORMS, Found, check_usable, image_rules, read_files, shape_text, usable_files
from edgert.errors import BadInput, EdgertError, UsageError, nearest
from edgert.image_spec import ImageSpec
from edgert.manifest import TensorSpec
from edgert.runtime.arrays import storable
from edgert.runtime.images import takes_image
from edgert.runtime.prepare import Preparer

Sample = dict[str, NDArray[Any]]
Source = Callable[[], Iterable[Mapping[str, object]]]

RANDOM_COUNT = 16
RANDOM_WARNING = (
    "RANDOM CALIBRATION: ranges, accuracy and reference.json were taken from random numbers and say nothing "
    "about real data; use this only to see whether a model converts"
)
SCORED_WARNING = (
    "calibrated on the files of --labels, for there were no others: the score is one of data that was calibrated with"
)


@dataclass(frozen=True)
class Samples:
    """Calibration samples; each iteration reads them anew, in the same order.

    `kind` is folder, file, callable or random. `digest` is the SHA-256 over names, dtypes, shapes and bytes
    of all samples in order. `warning` is empty or must be shown. `images` holds the rules that pictures
    were read by.
    """

    spec: str
    kind: str
    count: int
    digest: str
    warning: str
    read: Callable[[], Iterator[Sample]] = field(repr=False)
    images: Mapping[str, ImageSpec] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Sample]:
        return self.read()


def open_samples(
    spec: str | Source,
    inputs: Sequence[TensorSpec],
    *,
    limit: int | None = None,
    seed: int = 0,
    preparer: Preparer | None = None,
    missing: bool = False,
    scored: Collection[Path] = (),
) -> Samples:
    """Open and check the samples that `spec` names for a model with `inputs`, at most the first `limit`.

    `spec` is a folder, an image, `.npz`, `.npy`, text or sound file, `module:function`, `random`, or a callable that
    returns an iterable of samples each time it is called. `preparer` makes feeds of texts, one a line, and of sounds;
    `missing` lets NaN pass, which then stands for a value that is missing. Files that are `scored`, by their resolved
    paths, are left out; where no other is there they are read, and the warning says so. Reads everything once.
    BadInput names the file and the input, or the callable and what it raised; MissingExtra for pictures without Pillow.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"{limit} samples are asked for", "ask for at least 1")
    if not inputs:
        raise BadInput("the model takes no input, so there is nothing to compare", "export it with an input")
    random_count = RANDOM_COUNT if limit is None else min(limit, RANDOM_COUNT)
    kind, name, read, fitted = _reader(spec, inputs, preparer, random_count, seed, scored)
    passes = partial(_checked, read, inputs, limit, missing)
    marks: list[bytes] = []
    count, digest = _count_and_hash(_marked(passes(), marks) if kind == "callable" else passes())
    if count == 0:
        raise BadInput(f"'{name}' gives no samples", FORMS)
    warning = RANDOM_WARNING if kind == "random" else SCORED_WARNING if fitted else ""
    again = partial(_repeated, passes, marks, name) if kind == "callable" else passes
    return Samples(name, kind, count, digest, warning, again, image_rules(kind, name, inputs, preparer))


_Read = Callable[[], Iterator[Found]]


def read_sample(
    path: Path, inputs: Sequence[TensorSpec], preparer: Preparer | None = None, missing: bool = False
) -> Sample:
    """Return the one sample of a file, checked like those of `open_samples`; BadInput where it holds more."""
    check_usable(path, preparer)
    found = list(itertools.islice(read_files((path,), inputs, preparer), 2))
    if len(found) != 1:
        many = "more than one sample" if found else "no sample"
        raise BadInput(f"'{path}' holds {many}, and has one label", "give a file of its own to each sample")
    return _check_sample(found[0], inputs, missing)


def _reader(
    spec: str | Source,
    inputs: Sequence[TensorSpec],
    preparer: Preparer | None,
    random_count: int,
    seed: int,
    scored: Collection[Path],
) -> tuple[str, str, _Read, bool]:
    """Return the kind of samples, their name, a function that starts one pass, and whether they are `scored` too."""
    if not isinstance(spec, str):
        name = getattr(spec, "__qualname__", repr(spec))
        return "callable", name, partial(_call, spec, name), False
    if spec == "random":
        return "random", spec, partial(_random, inputs, random_count, seed), False
    path = Path(spec)
    if path.is_dir():
        files = usable_files(path, preparer)
        others = tuple(file for file in files if file.resolve() not in scored)
        return "folder", spec, partial(read_files, others or files, inputs, preparer), not others
    if path.is_file():
        check_usable(path, preparer)
        return "file", spec, partial(read_files, (path,), inputs, preparer), path.resolve() in scored
    if is_callable_name(spec):
        function = import_callable(spec, "a function without arguments")
        return "callable", spec, partial(_call, function, spec), False
    raise BadInput(f"there is no file or folder '{spec}'", FORMS)


def _checked(read: _Read, inputs: Sequence[TensorSpec], limit: int | None, missing: bool) -> Iterator[Sample]:
    for found in itertools.islice(read(), limit):
        yield _check_sample(found, inputs, missing)


def _count_and_hash(samples: Iterable[Sample]) -> tuple[int, str]:
    count, digest = 0, hashlib.sha256()
    for sample in samples:
        count += 1
        for name, array in sorted(sample.items()):
            is_text = array.dtype.kind == "U"  # its width is that of the longest entry, and says nothing
            digest.update(json.dumps([name, "str" if is_text else array.dtype.name, array.shape]).encode())
            if is_text:
                digest.update(json.dumps(array.tolist()).encode())
            else:
                digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return count, digest.hexdigest()


def _marked(samples: Iterable[Sample], marks: list[bytes]) -> Iterator[Sample]:
    """Hand the samples on, and append the hash of each to `marks`."""
    for sample in samples:
        marks.append(_mark(sample))
        yield sample


def _mark(sample: Sample) -> bytes:
    return bytes.fromhex(_count_and_hash([sample])[1])


def _repeated(passes: Callable[[], Iterator[Sample]], marks: Sequence[bytes], name: str) -> Iterator[Sample]:
    """Hand on a later pass over a callable's samples; BadInput as soon as it is not the first one again."""
    for index, (sample, mark) in enumerate(itertools.zip_longest(passes(), marks)):
        if sample is None or mark is None or _mark(sample) != mark:
            raise BadInput(
                f"'{name}' gave other samples the second time, from sample {index} on",
                "make each call give the same samples: fix the seed, and start anew instead of going on",
            )
        yield sample


def _check_sample(found: Found, inputs: Sequence[TensorSpec], missing: bool) -> Sample:
    names = [spec.name for spec in inputs]
    for name in found.arrays:
        if name not in names:
            near = nearest(name, names)
            hint = f"did you mean '{near}'?" if near else f"the model takes {', '.join(names)}"
            raise BadInput(f"{found.where}: the model has no input '{name}'", hint)
    for name in names:
        if name not in found.arrays:
            raise BadInput(
                f"{found.where}: there is nothing for input '{name}'", f"give arrays named {', '.join(names)}"
            )
    return {spec.name: _check_array(found.arrays[spec.name], spec, found.where, missing) for spec in inputs}


def _check_array(array: NDArray[Any], spec: TensorSpec, where: str, missing: bool) -> NDArray[Any]:
    """Return the array in the input's dtype, in C order; BadInput when shape, dtype or values do not fit."""
    what = f"{where}: input '{spec.name}'"
    _check_shape(array, spec, what)
    have = "str" if array.dtype.kind in "UO" else array.dtype.name
    if have != spec.dtype and not _may_cast(array.dtype, _dtype_of(spec)):
        raise BadInput(f"{what} takes {spec.dtype}, the array is {have}", f"convert it: array.astype('{spec.dtype}')")
    if spec.dtype == "str":
        return np.ascontiguousarray(storable(array, what)).reshape(array.shape)
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array, dtype=_dtype_of(spec)).reshape(array.shape)
    if cast.dtype.kind == "f":
        _check_numbers(cast, array, what, missing)
    return cast


def _check_numbers(cast: NDArray[Any], array: NDArray[Any], what: str, missing: bool) -> None:
    """Raise BadInput for a value that is infinite in the input's dtype, or NaN where that means nothing."""
    wrong = np.isinf(cast) if missing else ~np.isfinite(cast)
    if not wrong.any():
        return
    bad = np.argwhere(wrong)
    first = tuple(int(place) for place in bad[0])
    message = f"{what} holds {len(bad)} values that are NaN or infinite as {cast.dtype.name}, the first is"
    raise BadInput(f"{message} {array[first]} at {list(first)}", "remove such samples, or repair what makes them")


def _check_shape(array: NDArray[Any], spec: TensorSpec, what: str) -> None:
    fits = len(array.shape) == len(spec.shape) and all(
        not isinstance(want, int) or want == have for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        hint = f"give that shape, or one more axis in front for many samples{_batch_hint(array, spec)}"
        raise BadInput(f"{what} takes shape {shape_text(spec.shape)}, the array has {shape_text(array.shape)}", hint)
    if 0 in array.shape:
        raise BadInput(f"{what} is empty: shape {shape_text(array.shape)}", "remove such samples")


def _batch_hint(array: NDArray[Any], spec: TensorSpec) -> str:
    """Say how to turn a batch into samples where the array is one."""
    is_batch = len(array.shape) == len(spec.shape) > 0 and spec.shape[0] == 1
    return "; array[:, None] makes each row a sample" if is_batch else ""


def _may_cast(have: np.dtype[Any], want: np.dtype[Any]) -> bool:
    """Return whether a number keeps its kind: any float to any float, an integer to a wider one."""
    if have.kind == want.kind == "f":
        return True
    return have.kind in "iu" and want.kind in "iu" and np.can_cast(have, want, "safe")


def _dtype_of(spec: TensorSpec) -> np.dtype[Any]:
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError as exc:
        raise _unsupported(spec) from exc
    if dtype.kind not in "biufU":
        raise _unsupported(spec)
    return dtype


def _unsupported(spec: TensorSpec) -> BadInput:
    return BadInput(
        f"input '{spec.name}' takes {spec.dtype}, which samples cannot hold",
        "export the model with inputs of float16, float32, float64, integers, bool or text",
    )


_END = object()


def _call(source: Source, name: str) -> Iterator[Found]:
    with working_folder_importable():
        with _users_code(f"'{name}'"):
            samples = iter(source())
        for index in itertools.count():
            where = f"sample {index} of '{name}'"
            with _users_code(where):
                sample = next(samples, _END)
            if sample is _END:
                return
            if not isinstance(sample, Mapping):
                message = f"{where} is {type(sample).__name__}, a dict of arrays by input name is expected"
                raise BadInput(message, 'yield {"input": array}')
            with _users_code(where):
                arrays = {str(key): np.asarray(value) for key, value in sample.items()}
            yield Found(arrays, where)


@contextmanager
def _users_code(what: str) -> Iterator[None]:
    """Turn whatever the user's own function raises into BadInput: it can be anything, and it is no fault of ours."""
    try:
        yield
    except EdgertError:
        raise
    except (Exception, SystemExit) as exc:  # the user's code may raise anything
        raise BadInput(
            f"{what} raised {type(exc).__name__}: {exc}",
            "the function takes no argument and gives samples: dicts of one array, without gaps, per input name",
        ) from exc


def _random(inputs: Sequence[TensorSpec], count: int, seed: int) -> Iterator[Found]:
    generator = np.random.default_rng(seed)
    for index in range(count):
        arrays = {spec.name: _random_array(spec, generator) for spec in inputs}
        yield Found(arrays, f"random sample {index}")


def _random_array(spec: TensorSpec, generator: np.random.Generator) -> NDArray[Any]:
    """Return normal floats, a picture's bytes, or else 0 or 1: an index is valid whatever it is for."""
    dtype, shape = _dtype_of(spec), _random_shape(spec)
    if dtype.kind == "U":
        raise BadInput(
            f"input '{spec.name}' takes text, and random text says nothing of a model",
            "give a .npz with an array of text for each such input",
        )
    if dtype.kind == "f":
        return np.asarray(generator.standard_normal(shape, np.float32), dtype)
    top = 256 if takes_image(spec.shape, spec.dtype) else 2
    return np.asarray(generator.integers(0, top, shape), dtype)


def _random_shape(spec: TensorSpec) -> tuple[int, ...]:
    """Return the input's shape with a free first dimension as 1; any other free one is an error."""
    for place, size in enumerate(spec.shape):
        if not isinstance(size, int) and place > 0:
            shape = shape_text(spec.shape)
            message = f"input '{spec.name}': dimension {place} ('{size or '?'}') of {shape} is free"
            example = ",".join(str(known) if isinstance(known, int) else "1" for known in spec.shape)
            remedy = f"give --shape {spec.name}={example} with the sizes that you need"
            raise BadInput(f"{message}, so random samples have no size to take", remedy)
    return tuple(size if isinstance(size, int) else 1 for size in spec.shape)
