"""How a picture becomes a tensor: the words of an image specification and its two written forms.

Reading and resizing pixels is left to `edgert.runtime.images`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgert.errors import BadInput, EdgertError, UsageError, nearest

COLORS = ("rgb", "bgr", "gray")
RESIZES = ("stretch", "pad", "crop")
FILTERS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")
MAX_EDGE = 1 << 16  # pixels
_KEYS = ("color", "mean", "std", "resize", "filter", "shortest_edge")
_LARGEST = 1e9  # far beyond any pixel; an integer of JSON has no limit of its own


@dataclass(frozen=True)
class ImageSpec:
    """One way to turn an 8-bit picture into model input: value = (pixel - mean) / std, pixel in 0..255.

    `mean` and `std` hold one number for all channels or three in the order of `color`. `resize`: "stretch"
    ignores the aspect ratio; "pad" fits the whole picture at the top left and fills the rest with `mean`,
    so the values there are 0; "crop" covers the whole area and cuts what sticks out evenly on both sides.
    With `shortest_edge` (pixels; only with "crop", 0 for none) the shorter side is resized to that length first,
    then the middle is cut, as torchvision and Hugging Face do. `filter` is one of Pillow's.
    """

    color: str = "rgb"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    resize: str = "stretch"
    filter: str = "bilinear"
    shortest_edge: int = 0

    @property
    def channels(self) -> int:
        """The number of channels: 1 for gray, otherwise 3."""
        return 1 if self.color == "gray" else 3

    def to_json(self) -> dict[str, object]:
        """Return the form that a manifest holds; `filter` and `shortest_edge` are left out where default."""
        members: dict[str, object] = {"color": self.color, "mean": list(self.mean), "std": list(self.std)}
        members["resize"] = self.resize
        if self.filter != "bilinear":
            members["filter"] = self.filter
        if self.shortest_edge:
            members["shortest_edge"] = self.shortest_edge
        return members

    @classmethod
    def from_json(cls, document: object, what: str = "image specification") -> "ImageSpec":
        """Read what `to_json` wrote; `what` names the document in the BadInput that any defect raises."""
        if not isinstance(document, Mapping):
            raise BadInput(f"{what} is {type(document).__name__}, an object is expected", _AGAIN)
        _check_keys(document, what, _bad_input)
        found: dict[str, Any] = {key: _word(document, key, what) for key in ("color", "resize", "filter")}
        found |= {key: _number_list(document, key, what) for key in ("mean", "std")}
        found["shortest_edge"] = _edge(document, what)
        return _checked(found, what, _bad_input)


def parse_image_spec(text: str) -> ImageSpec:
    """Parse the command line form, such as `color=bgr,mean=123.7/116.3/103.5,std=58,resize=pad`.

    Keys that are absent take the default; UsageError on anything else.
    """
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UsageError(f"image specification '{text}': '{part}' is not key=value", _EXAMPLE)
        if key in found:
            raise UsageError(f"image specification '{text}' gives '{key}' twice", _EXAMPLE)
        found[key] = value
    where = f"image specification '{text}'"
    _check_keys(found, where, _usage_error)
    values: dict[str, Any] = dict(found)
    values |= {key: _split_numbers(text, key, found[key]) for key in ("mean", "std") if key in found}
    if "shortest_edge" in found:
        values["shortest_edge"] = _split_edge(text, found["shortest_edge"])
    return _checked(values, where, _usage_error)


_EXAMPLE = "write for example color=bgr,mean=127.5,std=127.5,resize=pad or mean=123.7/116.3/103.5"
_AGAIN = "make the file again with the tool that wrote it"


def _usage_error(message: str) -> EdgertError:
    return UsageError(message, _EXAMPLE)


def _bad_input(message: str) -> EdgertError:
    return BadInput(message, _AGAIN)


def _split_numbers(text: str, key: str, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(piece) for piece in value.split("/"))
    except ValueError as exc:
        message = f"image specification '{text}': {key} '{value}' is not one number or three joined by '/'"
        raise UsageError(message, _EXAMPLE) from exc


def _word(document: Mapping[str, object], key: str, what: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise BadInput(f"{what}: '{key}' is {type(value).__name__}, a string is expected", _AGAIN)
    return value


def _number_list(document: Mapping[str, object], key: str, what: str) -> tuple[float, ...] | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadInput(f"{what}: '{key}' is {type(value).__name__}, a list of numbers is expected", _AGAIN)
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | float) or abs(item) > _LARGEST:
            raise BadInput(f"{what}: '{key}' holds {item!r}, numbers below 1e9 are expected", _AGAIN)
    return tuple(float(item) for item in value)


def _edge(document: Mapping[str, object], what: str) -> int | None:
    value = document.get("shortest_edge")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadInput(f"{what}: 'shortest_edge' is {type(value).__name__}, a whole number is expected", _AGAIN)
    return value


def _split_edge(text: str, value: str) -> int:
    try:
        return int(value)
    except ValueError as exc:
        message = f"image specification '{text}': shortest_edge '{value}' is not a whole number"
        raise UsageError(message, _EXAMPLE) from exc


def _check_keys(keys: Iterable[str], where: str, error: Callable[[str], EdgertError]) -> None:
    for key in keys:
        if key not in _KEYS:
            raise error(f"{where}: unknown key '{key}'{_did_you_mean(key, _KEYS)}")


def _checked(found: Mapping[str, Any], where: str, error: Callable[[str], EdgertError]) -> ImageSpec:
    """Build the specification, with the default for what is None or absent.

    Raises `error(message)` on a word or number that makes no sense.
    """
    for key, known in (("color", COLORS), ("resize", RESIZES), ("filter", FILTERS)):
        word = found.get(key)
        if word is not None and word not in known:
            raise error(f"{where}: {key} '{word}' is not one of {', '.join(known)}{_did_you_mean(word, known)}")
    spec = ImageSpec(**{key: value for key, value in found.items() if value is not None})
    for key, numbers in (("mean", spec.mean), ("std", spec.std)):
        if len(numbers) not in (1, spec.channels):
            raise error(f"{where}: {key} has {len(numbers)} numbers, {spec.color} takes {_counts(spec.channels)}")
        if not all(math.isfinite(number) for number in numbers):
            raise error(f"{where}: {key} holds a number that is not finite")
    if 0.0 in spec.std:
        raise error(f"{where}: std holds 0, which would divide by zero")
    _check_edge(found.get("shortest_edge"), spec, where, error)
    return spec


def _check_edge(edge: int | None, spec: ImageSpec, where: str, error: Callable[[str], EdgertError]) -> None:
    if edge is None:
        return
    if not 1 <= edge <= MAX_EDGE:
        raise error(f"{where}: shortest_edge is out of range, 1 to {MAX_EDGE} pixels are allowed")
    if spec.resize != "crop":
        raise error(f"{where}: shortest_edge needs resize=crop, not {spec.resize}")


def _counts(channels: int) -> str:
    return "1" if channels == 1 else f"1 or {channels}"


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = nearest(word, known)
    return f"; did you mean '{near}'?" if near else f"; known: {', '.join(known)}"
