"""Pictures as model input: decode, orient, convert, resize, normalise.

Needs Pillow, the extra `media`. What the rules mean is defined by `edgert.image_spec`.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgert.errors import BadInput, MissingExtra
from edgert.image_spec import ImageSpec

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_MAX_RESIZED_PIXELS = 100_000_000  # of a picture whose shorter side is resized: its longer one may be of any length
_SHAPE_REMEDY = "give --shape NAME=DIMS with the picture's height and width, as in --shape x=1,3,224,224"


def is_image_file(path: Path) -> bool:
    """Return whether the file's name ends like a picture that `load_image` may read."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def takes_image(shape: Sequence[int | str | None], dtype: str) -> bool:
    """Return whether an input looks like a picture: rank 4, floats or uint8, 1 or 3 channels."""
    is_number = dtype == "uint8" or dtype.startswith("float")
    return is_number and len(shape) == 4 and any(shape[axis] in (1, 3) for axis in (1, 3))


def default_image_spec(shape: Sequence[int | str | None], dtype: str) -> ImageSpec:
    """Return the rules for an input without any: gray for one channel, 0..1 for float, 0..255 for uint8."""
    gray = 3 not in (shape[1], shape[3])
    return ImageSpec(color="gray" if gray else "rgb", std=(1.0,) if dtype == "uint8" else (255.0,))


def load_image(
    path: Path,
    spec: ImageSpec,
    shape: Sequence[int | str | None],
    dtype: str,
    *,
    max_pixels: int | None = None,
) -> NDArray[Any]:
    """Return the picture as an array of `shape` and `dtype`.

    The layout is NCHW or NHWC, by where the channels are; N is 1. BadInput when the file is not an 8-bit picture of at
    most `max_pixels` (None: what Pillow allows), or when the shape has no room for it; MissingExtra without Pillow.
    """
    area = _area(str(path), spec, shape, dtype)
    return _filled(area, _decoded(path, spec, max_pixels), spec, dtype, str(path))


def frame_input(
    pixels: NDArray[np.uint8], spec: ImageSpec, shape: Sequence[int | str | None], dtype: str, name: str = "frame"
) -> NDArray[Any]:
    """Return RGB pixels, uint8 [height, width, 3], as `load_image` returns a picture file of the same pixels.

    `name` says in errors which frame it is.
    """
    area = _area(name, spec, shape, dtype)
    image = _pillow("PIL.Image").fromarray(np.ascontiguousarray(pixels)).convert(_mode(spec))
    return _filled(area, image, spec, dtype, name)


def _area(name: str, spec: ImageSpec, shape: Sequence[int | str | None], dtype: str) -> tuple[int, int, int]:
    """Return the axis of the channels, the height and the width, once the rules fit the input."""
    area = _layout(name, spec, shape)
    if not (dtype == "uint8" or dtype.startswith("float")):
        raise BadInput(f"'{name}' is a picture, but the input takes {dtype}", "give the array as .npz or .npy")
    if dtype == "uint8" and (set(spec.mean) != {0.0} or set(spec.std) != {1.0}):
        raise BadInput("the input takes uint8 pixels as they are, but mean and std are given", "use mean=0,std=1")
    return area


def _filled(area: tuple[int, int, int], image: Any, spec: ImageSpec, dtype: str, name: str) -> NDArray[Any]:
    """Return the picture resized, normalised, and laid out as the input wants it."""
    channels_axis, height, width = area
    pixels = _resized_pixels(image, spec, height, width, name)
    values = (pixels.astype(np.float32) - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    canvas = np.zeros((height, width, spec.channels), np.float32)
    canvas[: values.shape[0], : values.shape[1]] = values
    if channels_axis == 1:
        canvas = canvas.transpose(2, 0, 1)
    return np.ascontiguousarray(canvas[np.newaxis].astype(dtype))


def _layout(name: str, spec: ImageSpec, shape: Sequence[int | str | None]) -> tuple[int, int, int]:
    """Return the axis of the channels, the height and the width of an input."""
    text = "x".join("?" if size is None else str(size) for size in shape)
    axis = next((axis for axis in (1, 3) if len(shape) == 4 and shape[axis] == spec.channels), None)
    if axis is None:
        message = f"'{name}': a {spec.color} picture has {spec.channels} channels, which shape {text} has not"
        raise BadInput(message, "choose another color in --image, give --shape, or give the array as .npy")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise BadInput(f"'{name}': one picture cannot fill {shape[0]} of shape {text}", "give a batch as .npy")
    sizes: list[int] = []
    for place, word in ((2, "height"), (3, "width")) if axis == 1 else ((1, "height"), (2, "width")):
        size = shape[place]
        if not isinstance(size, int):
            message = f"'{name}': dimension {place} ({word}, '{size or '?'}') of shape {text} is free"
            raise BadInput(f"{message}, so there is no size to resize the picture to", _SHAPE_REMEDY)
        sizes.append(size)
    return axis, sizes[0], sizes[1]


def _decoded(path: Path, spec: ImageSpec, max_pixels: int | None) -> Any:
    """Return the picture of a file, upright, gray or RGB."""
    image_module, ops = _pillow("PIL.Image"), _pillow("PIL.ImageOps")
    broken = (OSError, SyntaxError, ValueError, image_module.DecompressionBombError)
    try:
        with image_module.open(path) as opened:
            if opened.mode not in _EIGHT_BIT_MODES:
                raise BadInput(f"'{path}' has pixels of mode {opened.mode}", "save it as an 8-bit picture")
            if max_pixels is not None and opened.width * opened.height > max_pixels:
                message = f"'{path}' has {opened.width} x {opened.height} pixels, at most {max_pixels} are read"
                raise BadInput(message, "make it smaller")
            return ops.exif_transpose(opened).convert(_mode(spec))
    except FileNotFoundError as exc:
        raise BadInput(f"'{path}': no such file", "check the path of the picture") from exc
    except broken as exc:
        raise BadInput(f"'{path}' cannot be read as a picture: {exc}", "give a whole PNG, JPEG or WebP file") from exc


def _mode(spec: ImageSpec) -> str:
    return "L" if spec.color == "gray" else "RGB"


def _resized_pixels(image: Any, spec: ImageSpec, height: int, width: int, name: str) -> NDArray[np.uint8]:
    """Return pixels (height, width, channels) in the order of `spec.color`; "pad" leaves them smaller."""
    resampling = _pillow("PIL.Image").Resampling[spec.filter.upper()]
    resized = _resize(image, spec, (width, height), resampling, name)
    pixels = np.asarray(resized, np.uint8).reshape(resized.height, resized.width, spec.channels)
    return pixels[:, :, ::-1] if spec.color == "bgr" else pixels


def _resize(image: Any, spec: ImageSpec, want: tuple[int, int], resampling: Any, name: str) -> Any:
    """Return the picture resized for an area of `want`, (width, height); "pad" leaves it smaller."""
    if not spec.shortest_edge:
        box, size = _fit(image.size, want, spec.resize)
        return image.resize(size, resampling, box=box)
    size = _with_shortest_edge(image.size, spec.shortest_edge)
    if size[0] * size[1] > _MAX_RESIZED_PIXELS:
        message = f"'{name}' has {image.width} x {image.height} pixels, too narrow to resize its shorter side"
        raise BadInput(f"{message} to {spec.shortest_edge}", "cut the picture")
    left, top = ((have - room) // 2 for have, room in zip(size, want, strict=True))
    # Where the picture is smaller than the area, Pillow's crop leaves black around it, as Hugging Face does.
    return image.resize(size, resampling).crop((left, top, left + want[0], top + want[1]))


def _with_shortest_edge(have: tuple[int, int], edge: int) -> tuple[int, int]:
    """Return the size (width, height) that keeps the ratio; the longer side is rounded down as torchvision does."""
    longer = int(edge * max(have) / min(have))
    return (edge, longer) if have[0] <= have[1] else (longer, edge)


def _fit(
    have: tuple[int, int], want: tuple[int, int], resize: str
) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """Return which box (left, top, right, bottom) of a picture of size `have` is resized, and to which size.

    Sizes are (width, height), `want` is the area to fill.
    """
    whole = (0.0, 0.0, float(have[0]), float(have[1]))
    ratios = (want[0] / have[0], want[1] / have[1])
    if resize == "pad":
        width, height = (max(1, min(room, round(side * min(ratios)))) for side, room in zip(have, want, strict=True))
        return whole, (width, height)
    if resize == "crop":
        kept = (want[0] / max(ratios), want[1] / max(ratios))
        left, top = (have[0] - kept[0]) / 2, (have[1] - kept[1]) / 2
        return (left, top, min(left + kept[0], whole[2]), min(top + kept[1], whole[3])), want
    return whole, want


def _pillow(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise MissingExtra("pictures need Pillow, which is not installed", "pip install 'edgert[media]'") from exc
