"""Hugging Face folders: `config.json` and `.safetensors`, with the tokenizer or preprocessor that belongs to them.

What is unsafe or incomplete is refused here, before a framework runs; transformers and optimum work in a child process,
see `exporters/export_huggingface.py`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from converters.sources import child
from converters.sources.imported import Imported, Options
from edgert import strict_json
from edgert.errors import BadInput, UsageError

KIND = "huggingface"
SCRIPT = "export_huggingface.py"
ENVIRONMENTS = ("huggingface",)

PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SHARD = re.compile(r"[\w][\w.-]*\.safetensors")
_SPECIFICATION = re.compile(rb".{5}\0\w+Spec\0", re.DOTALL)  # version, length of the name, name
_WHOLE = "give the whole folder as it was saved: config.json, model.safetensors, tokenizer.json"


def matches(path: Path) -> bool:
    """Return whether the folder was saved by transformers, sentence-transformers or CTranslate2."""
    if not path.is_dir():
        return False
    if next(path.glob("*.safetensors"), None) is not None or _is_ctranslate2(path):
        return True
    try:
        return bool({"model_type", "architectures"} & _config(path).keys())
    except BadInput:
        return False


def load(path: Path, options: Options) -> Imported:
    """Import the model of a Hugging Face folder.

    Raises BadInput for anything that is no such folder, code or pickles in it, and damaged weights; UsageError for
    options of other sources; GateFailed for an architecture or operator that the exporter does not know; MissingExtra
    without transformers and optimum.
    """
    _check_options(options)
    _check_folder(path)
    config = _config(path)
    if "auto_map" in config:
        raise BadInput(
            f"{path}: config.json asks for Python code that comes with the model ('auto_map'), which is never run",
            "take a model of an architecture that transformers has itself, or export this one where you trust it",
        )
    _check_weights(path, options.trust_pickle)
    return child.export(KIND, SCRIPT, ENVIRONMENTS, path, options)


def _check_options(options: Options) -> None:
    if options.dynamic:
        raise UsageError(
            "--dynamic is for PyTorch: in a Hugging Face model batch and length are free anyway",
            "leave --dynamic out; fix a size with --shape",
        )
    if options.factory or options.submodule:
        raise UsageError(
            "--factory and --submodule are for PyTorch: config.json says what makes a Hugging Face model",
            "leave them out",
        )


def _check_folder(path: Path) -> None:
    if not path.exists() and _HUB_NAME.fullmatch(str(path)):
        raise BadInput(
            f"there is no folder '{path}'; hub names are not looked up, for nothing here reaches the network",
            "download the model and give its folder",
        )
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise BadInput(f"{path} {what}; a Hugging Face model is a folder", "give the folder that holds config.json")
    if next(path.iterdir(), None) is None:
        raise BadInput(f"{path}: the folder is empty", _WHOLE)
    if _is_ctranslate2(path):
        raise BadInput(
            f"{path}: the weights are in CTranslate2's format",
            "for Whisper: python -m examples.whisper.ct2 makes a Hugging Face folder; else give the original",
        )


def _config(path: Path) -> Mapping[str, object]:
    file = path / "config.json"
    if not file.is_file():
        raise BadInput(f"{path}: there is no config.json", _WHOLE)
    return _read_object(file)


def _read_object(file: Path) -> Mapping[str, object]:
    try:
        document = strict_json.loads(file.read_bytes(), str(file))
    except OSError as exc:
        raise BadInput(f"{file}: cannot be read: {exc.strerror}", "check the file's permissions") from exc
    if not isinstance(document, dict):
        raise BadInput(f"{file} holds {type(document).__name__}, an object is expected", _WHOLE)
    return document


def _check_weights(path: Path, trust_pickle: bool) -> None:
    if next(path.glob("*.safetensors"), None) is not None:
        _check_shards(path)
        return
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if not pickles:
        raise BadInput(f"{path}: there are no weights (.safetensors)", _WHOLE)
    if not trust_pickle:
        raise BadInput(
            f"{path}: the weights are pickled ({', '.join(pickles[:3])}); loading a pickle can run any code in it",
            "take the .safetensors of the same model, or add --trust-pickle if you trust whoever made the file",
        )


def _check_shards(path: Path) -> None:
    """Check that an index names files that are there, in this very folder."""
    index = path / "model.safetensors.index.json"
    if not index.is_file() or (path / "model.safetensors").is_file():
        return
    shards = _read_object(index).get("weight_map")
    if not isinstance(shards, dict):
        raise BadInput(f"{index}: there is no weight_map", _WHOLE)
    for name in sorted({str(name) for name in shards.values()}):
        if not _SHARD.fullmatch(name):
            raise BadInput(f"{index} names the file '{name}', which is no .safetensors of this folder", _WHOLE)
        if not (path / name).is_file():
            raise BadInput(f"{path}: the weights '{name}' are missing", f"copy '{name}' into the folder")


def _is_ctranslate2(path: Path) -> bool:
    file = path / "model.bin"
    if not file.is_file():
        return False
    with file.open("rb") as start:
        return _SPECIFICATION.match(start.read(64)) is not None
