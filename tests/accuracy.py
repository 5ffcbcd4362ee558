"""Real models of every framework, converted for three devices and measured on labelled data: `make accuracy`.

    python -m tests.accuracy [IDS…]      the models named, or all; prints a table and writes accuracy.json
    python -m tests.accuracy --imports [IDS…]      only the seconds that each takes to become ONNX

What a figure is: `source` the framework itself, `float` the bundle's float variant, `chosen` the variant the device
gets, all on the same labelled data, on this machine's CPU. The chosen variant of an accelerator is also run on it, or
its emulator, and `cosine` is its worst output there against the original. Nothing is asserted: this prints.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import converters
from converters.request import BundleReport, ProfileFailure
from converters.sources.environments import find
from converters.sources.imported import Imported, Options
from converters.sources.select import open_source
from edgert.bundle import open_bundle
from edgert.errors import EdgertError, EnvironmentFailed
from edgert.image_spec import parse_image_spec
from edgert.runtime.images import load_image
from edgert.runtime.providers import ProviderDevice, find_device
from edgert.runtime.session import Session
from examples.models import fetch
from examples.whisper import ct2
from examples.whisper.accuracy import bundle_texts, source_texts
from examples.whisper.prompts import prompts
from examples.whisper.words import word_error_rate

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT.parent / "shared" / "models" / "imagenet_sample"
CLIPS = 26
PROFILES = ("snapdragon-8-gen-3", "intel-core-ultra-s2-igpu", "x86-avx512-vnni")

Feeds = Mapping[str, np.ndarray]
Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Labelled:
    """Data with a known answer: the model's inputs, and what makes a figure of all its outputs (higher is better)."""

    metric: str
    feeds: Sequence[Feeds]
    score: Callable[[Sequence[Outputs]], float]


@dataclass(frozen=True)
class Case:
    """One model: where it is, how it is converted, and labelled data where there is some."""

    id: str
    model: Callable[[Path], Path]
    options: Mapping[str, Any] = field(default_factory=dict)
    calibration: str | Callable[[Path], str] = "random"
    labelled: Callable[[], Labelled] | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    model: str
    profile: str
    variant: str = "-"
    ran_on: str = "-"
    where: str = "-"
    cosine: float | None = None
    source_db: float | None = None
    metric: str = ""
    source: float | None = None
    float_: float | None = None
    chosen: float | None = None
    note: str = ""


def main(arguments: Sequence[str]) -> None:
    """Convert and measure the models asked for, or only import them."""
    parser = argparse.ArgumentParser(prog="python -m tests.accuracy")
    parser.add_argument("ids", nargs="*", metavar="IDS")
    parser.add_argument("--imports", action="store_true", help="only the seconds that each takes to become ONNX")
    asked = parser.parse_args(arguments)
    cases = [case for case in CASES if not asked.ids or case.id in asked.ids]
    if asked.imports:
        _time_imports(cases)
    else:
        _measure_all(cases)


def _time_imports(cases: Sequence[Case]) -> None:
    """Print how long the source of each model takes, its framework's own start included."""
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            try:
                model = case.model(Path(folder))
                start = time.monotonic()
                imported = _import(model, case.options, Path(folder) / "work")
                found = f"{time.monotonic() - start:5.1f} s  {imported.kind}: {imported.framework}"
            except EdgertError as exc:
                found = exc.message.splitlines()[0]
        print(f"{case.id:18} {found}", flush=True)


def _measure_all(cases: Sequence[Case]) -> None:
    """Convert and measure, and print the table as it grows."""
    rows: list[Row] = []
    for case in cases:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = list(_measure(case, Path(folder)))
            except EdgertError as exc:
                found = [Row(case.id, "-", note=f"{exc.message.splitlines()[0]}")]
        rows += found
        for row in found:
            print(_line(row), flush=True)
        print(f"# {case.id}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    Path("accuracy.json").write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def _measure(case: Case, folder: Path) -> Iterator[Row]:
    model = case.model(folder)
    calibration = case.calibration if isinstance(case.calibration, str) else case.calibration(folder)
    options = dict(case.options)
    result = converters.convert(
        model,
        PROFILES,
        calibration=calibration or None,
        output=folder / "out",
        license="NOASSERTION",
        name=case.id,
        **options,
    )
    labelled = case.labelled() if case.labelled else None
    source = _score_source(model, options, labelled, folder) if labelled else None
    for entry in result.bundles:
        if isinstance(entry, ProfileFailure):
            yield Row(case.id, entry.profile, note=" ".join(entry.message.split()))
        elif case.id == "whisper-tiny-en":
            yield _words(_row(case, entry, result.source, None, None), entry.path, model)
        else:
            yield _row(case, entry, result.source, labelled, source)


def _words(row: Row, bundle: Path, model: Path) -> Row:
    """Return the row with the share of words that are right, of transformers and of the bundle on the CPU."""
    clips = prompts(CLIPS)
    said = [clip.text for clip in clips]
    source = 1 - word_error_rate(zip(said, source_texts(model, clips), strict=True))
    heard = 1 - word_error_rate(zip(said, bundle_texts(bundle, clips, "cpu"), strict=True))
    return replace(row, metric=f"1 - WER of {CLIPS} prompts", source=source, float_=heard, chosen=heard)


def _row(
    case: Case, entry: BundleReport, source: Mapping[str, Any], labelled: Labelled | None, score: float | None
) -> Row:
    first = entry.variants[0]
    floats = [variant.name for variant in entry.variants if variant.precision == "fp32"]
    parity = source["parity"]["outputs"].values() if source["parity"] else ()
    decibels = [one["sqnr_db"] for one in parity if one["sqnr_db"] is not None]
    scores = {}
    if labelled:
        names = {*floats[-1:], entry.chosen}
        scores = {name: _score_variant(entry.path, name, labelled) for name in names}
    return Row(
        case.id,
        entry.profile,
        entry.chosen,
        first.provider.removesuffix("ExecutionProvider"),
        first.where,
        min((one.cosine_min for one in first.checks[0].outputs.values()), default=None),
        min(decibels, default=None),
        labelled.metric if labelled else "",
        score,
        scores.get(floats[-1]) if floats else None,
        scores.get(entry.chosen),
        "; ".join(entry.warnings),
    )


def _score_source(model: Path, options: Mapping[str, Any], labelled: Labelled, folder: Path) -> float:
    """Run the framework itself on the labelled data."""
    samples, outputs = folder / "score-in", folder / "score-out"
    samples.mkdir()
    outputs.mkdir()
    imported = _import(model, options, folder / "score")
    for index, feeds in enumerate(labelled.feeds):
        np.savez(samples / f"{index:04d}.npz", **feeds)
    assert imported.rerun is not None
    imported.rerun(samples, outputs, "")
    found = []
    for file in sorted(outputs.glob("*.npz")):
        with np.load(file) as arrays:
            found.append({name: arrays[name] for name in arrays.files})
    return labelled.score(found)


def _import(model: Path, options: Mapping[str, Any], work: Path) -> Imported:
    work.mkdir()
    known = {
        name: options[name] for name in ("factory", "submodule", "trust_pickle", "shapes", "task") if name in options
    }
    return open_source(model, options.get("source"), Options(work, **known))


def _score_variant(bundle: Path, name: str, labelled: Labelled) -> float:
    device = find_device("CPUExecutionProvider")
    assert isinstance(device, ProviderDevice)
    opened = open_bundle(bundle)
    with Session.open(opened.file(opened.manifest.variant(name).file), device) as session:
        return labelled.score([session.run(feeds) for feeds in labelled.feeds])


def _line(row: Row) -> str:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    ran = f"{row.variant} on {row.ran_on} ({row.where})" if row.variant != "-" else ""
    return (
        f"{row.model:18} {row.profile:25} {ran:33} "
        f"{number(row.cosine, '.5f'):>8} {number(row.source_db, '.0f'):>4} dB  "
        f"{row.metric} {number(row.source, '.4f')} {number(row.float_, '.4f')} {number(row.chosen, '.4f')}  "
        f"{row.note[:400]}"
    )


def _top1(output: str, labels: Sequence[int]) -> Callable[[Sequence[Outputs]], float]:
    def score(outputs: Sequence[Outputs]) -> float:
        hits = [int(np.argmax(one[output])) == label for one, label in zip(outputs, labels, strict=True)]
        return float(np.mean(hits))

    return score


IMAGENET = "color=rgb,mean=127,std=128,resize=crop,filter=bicubic,shortest_edge=232"


def _photos() -> tuple[list[Path], list[int]]:
    if not PHOTOS.is_dir():
        raise EnvironmentFailed("the folder 'shared' with the ImageNet photos is not beside this repository", "")
    labels = json.loads((PHOTOS / "labels.json").read_text(encoding="utf-8"))
    files = sorted(PHOTOS.glob("*.jpg"))
    return files, [labels[file.name]["class_index"] for file in files]


def _photo_labels() -> Labelled:
    files, labels = _photos()
    spec = parse_image_spec(IMAGENET)
    feeds = [{"image": load_image(file, spec, (1, 3, 224, 224), "float32")} for file in files]
    return Labelled("top-1 of 250 photos", feeds, _top1("logits", labels))


def _photo_folder(folder: Path) -> str:
    """Every fourth photo calibrates."""
    target = folder / "photos"
    target.mkdir()
    for file in _photos()[0][::4]:
        (target / file.name).write_bytes(file.read_bytes())
    return str(target)


DIGITS = """
import sys, joblib, numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
import xgboost, lightgbm
x, y = load_digits(return_X_y=True)
x = x.astype(np.float32)
folder = sys.argv[1]
model = make_pipeline(StandardScaler(), PCA(32, random_state=0), LogisticRegression(max_iter=2000))
joblib.dump(model.fit(x[:1200], y[:1200]), folder + "/digits-sklearn.joblib")
xgboost.XGBClassifier(n_estimators=40, max_depth=4).fit(x[:1200], y[:1200]).save_model(folder + "/digits-xgboost.json")
trees = lightgbm.LGBMClassifier(n_estimators=40, verbose=-1).fit(x[:1200], y[:1200])
trees.booster_.save_model(folder + "/digits-lightgbm.txt")
np.savez(folder + "/digits.npz", x=x[:, None], y=y)
"""


def _digits_folder() -> Path:
    """Train three classifiers on 1,200 of scikit-learn's digits, in the environment that has their packages."""
    folder = Path(tempfile.gettempdir()) / "edgert-digits"
    folder.mkdir(exist_ok=True)
    if not (folder / "digits.npz").is_file():
        subprocess.run([str(find(["sklearn"])), "-c", DIGITS, str(folder)], check=True, capture_output=True)
    return folder


def _digits(name: str) -> Callable[[Path], Path]:
    return lambda folder: _digits_folder() / name


def _digits_samples(input_name: str) -> Callable[[Path], str]:
    def calibration(folder: Path) -> str:
        with np.load(_digits_folder() / "digits.npz") as data:
            np.savez(folder / "calibration.npz", **{input_name: data["x"][:64]})
        return str(folder / "calibration.npz")

    return calibration


def _digits_labels(input_name: str) -> Callable[[], Labelled]:
    def labelled() -> Labelled:
        with np.load(_digits_folder() / "digits.npz") as data:
            x, y = data["x"][1200:], data["y"][1200:]
        return Labelled(
            "top-1 of 597 digits", [{input_name: row} for row in x], _top1("probabilities", [int(one) for one in y])
        )

    return labelled


def _whisper(folder: Path) -> Path:
    ct2.convert(fetch("whisper-tiny-en"), folder / "whisper-tiny-en")
    return folder / "whisper-tiny-en"


def _clips(folder: Path) -> str:
    target = folder / "clips"
    target.mkdir()
    for clip in prompts(6):
        (target / clip.file.name).write_bytes(clip.file.read_bytes())
    return str(target)


CASES = (
    Case(
        "effnet-lite0",
        lambda folder: fetch("effnet-lite0"),
        {"factory": "examples.efficientnet.model:build", "images": {"image": parse_image_spec(IMAGENET)}},
        _photo_folder,
        _photo_labels,
    ),
    Case("minilm-l6", lambda folder: fetch("minilm-l6"), calibration=""),
    Case("whisper-tiny-en", _whisper, calibration=_clips),
    Case(
        "silero-vad-jit",
        lambda folder: fetch("silero-vad-jit"),
        {"submodule": "_model", "shapes": {"x": (1, 576), "state": (2, 1, 128)}},
        "tests.real_samples:silero_vad_jit",
    ),
    Case(
        "basic-pitch-saved",
        lambda folder: fetch("basic-pitch-saved-model"),
        {},
        "tests.real_samples:basic_pitch_source",
    ),
    Case("basic-pitch-tflite", lambda folder: fetch("basic-pitch-tflite"), {}, "tests.real_samples:basic_pitch_source"),
    Case("face-detection", lambda folder: fetch("face-detection"), {}, "tests.real_samples:face_detection"),
    Case("face-mesh", lambda folder: fetch("face-mesh"), {}, "tests.real_samples:face_mesh"),
    Case("wakeword", lambda folder: fetch("wakeword"), {}, "tests.real_samples:wakeword"),
    Case(
        "ppocr-rec-paddle",
        lambda folder: fetch("ppocr-rec-paddle"),
        {"shapes": {"x": (1, 3, 48, 320)}},
        "tests.real_samples:ppocr_rec",
    ),
    Case(
        "ppocr-det-paddle",
        lambda folder: fetch("ppocr-det-paddle"),
        {"shapes": {"x": (1, 3, 320, 320)}},
        "tests.real_samples:ppocr_det",
    ),
    Case(
        "ppocr-cls-paddle",
        lambda folder: fetch("ppocr-cls-paddle"),
        {"shapes": {"x": (1, 3, 48, 192)}},
        "tests.real_samples:ppocr_cls",
    ),
    Case(
        "digits-sklearn",
        _digits("digits-sklearn.joblib"),
        {"trust_pickle": True},
        _digits_samples("x"),
        _digits_labels("x"),
    ),
    Case("digits-xgboost", _digits("digits-xgboost.json"), {}, _digits_samples("x"), _digits_labels("x")),
    Case("digits-lightgbm", _digits("digits-lightgbm.txt"), {}, _digits_samples("x"), _digits_labels("x")),
)

if __name__ == "__main__":
    main(sys.argv[1:])
