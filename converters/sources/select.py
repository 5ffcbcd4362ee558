"""Which source reads a model: told from the content of the path, or by its name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from converters.sources import huggingface, onnx_file, paddle, pytorch, sklearn, tensorflow, tflite
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput, UsageError, nearest


@dataclass(frozen=True)
class Source:
    """One kind of model: how to tell it, how to load it, and what its path may be, in words."""

    matches: Callable[[Path], bool]
    load: Callable[[Path, Options], Imported]
    path_is: str


SOURCES: Mapping[str, Source] = {
    "onnx": Source(onnx_file.matches, onnx_file.load, "an .onnx file"),
    "tflite": Source(tflite.matches, tflite.load, "a .tflite file"),
    "huggingface": Source(huggingface.matches, huggingface.load, "a folder with config.json and .safetensors"),
    "paddle": Source(paddle.matches, paddle.load, "a folder with .pdmodel or .json and .pdiparams"),
    "tensorflow": Source(tensorflow.matches, tensorflow.load, "a SavedModel folder, .keras, .h5, or frozen .pb"),
    "sklearn": Source(sklearn.matches, sklearn.load, "a .joblib, an XGBoost .json or .ubj, a LightGBM .txt"),
    "pytorch": Source(pytorch.matches, pytorch.load, "a .pt2, a TorchScript .pt, or a state_dict with --factory"),
}
"""In the order they are asked; the first that matches reads the model."""

OPTIONS = {"factory": "pytorch", "submodule": "pytorch", "dynamic": "pytorch", "task": "huggingface"}
"""Which kind of model an option is for."""

_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_URL = re.compile(r"[a-z]+:/")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def open_source(path: Path, kind: str | None, options: Options) -> Imported:
    """Import the model at `path` as `kind`, or as what its content says where that is None.

    Raises UsageError for an unknown kind and an option of another one, BadInput for a path that is nothing, empty or
    unknown, and what the source itself raises.
    """
    if kind is not None and kind not in SOURCES:
        close = nearest(kind, SOURCES)
        raise UsageError(
            f"unknown source '{kind}'", f"did you mean '{close}'?" if close else f"use one of {', '.join(SOURCES)}"
        )
    _check_path(path, kind)
    found = kind or detect(path)
    _check_options(found, options)
    return SOURCES[found].load(path, options)


def detect(path: Path) -> str:
    """Return the kind of the model at `path` by its content; BadInput where no source knows it."""
    for kind, source in SOURCES.items():
        if source.matches(path):
            return kind
    known = "; ".join(f"{kind}: {source.path_is}" for kind, source in SOURCES.items())
    what = "folder" if path.is_dir() else "file"
    raise BadInput(
        f"{path}: this is not an ONNX model, and no other {what} that is known here", f"give one of: {known}"
    )


def _check_options(kind: str, options: Options) -> None:
    """Refuse an option that this kind of model has no use for: the user expects that it does something."""
    for name, only in OPTIONS.items():
        if getattr(options, name) and kind != only:
            raise UsageError(
                f"--{name} is for models of the kind {only}, and this one is {kind}", f"leave --{name} away"
            )


def _check_path(path: Path, kind: str | None) -> None:
    if path.is_dir():
        if not any(path.iterdir()):
            raise BadInput(f"{path}: the folder is empty", "give the folder that holds the model's files")
        return
    if path.exists():
        return
    if _CALLABLE.fullmatch(str(path)):
        if kind is None:
            raise BadInput(
                f"'{path}' names a function, which can make any kind of model",
                "add --source pytorch or --source sklearn",
            )
        return
    if _URL.match(str(path)) or (_HUB_NAME.fullmatch(str(path)) and not path.suffix):
        raise BadInput(
            f"there is nothing at '{path}'; hub names and addresses stay closed: nothing here reaches the network",
            "download the model and give its folder",
        )
    raise BadInput(f"{path}: no such file or folder", "give the path of a model")
