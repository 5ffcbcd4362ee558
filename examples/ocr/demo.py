"""One real text recogniser on an NPU, an integrated GPU and CPUs: convert, run every bundle, read text, compare.

    python -m examples.ocr.demo              what `make demo` runs
    python -m examples.ocr.demo --lines 20   shorter

Prints a table and writes `demo/report.html`. NPU and GPU are emulated unless this machine has them: what they read is
real, their time is not, and the table says so.
"""

import argparse
import base64
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import onnx

import edgert
from converters.pipeline import convert
from converters.report import page
from converters.request import BundleReport, Conversion, ProfileFailure
from edgert.bundle import open_bundle
from edgert.commands.printing import ProgressLine, megabytes, table
from edgert.errors import EdgertError
from edgert.host import host_facts
from edgert.image_spec import ImageSpec
from edgert.profile import detect_profile, load_profile
from edgert.runtime.images import load_image
from edgert.runtime.providers import ProviderDevice, find_device
from edgert.runtime.session import Session
from examples.models import fetch
from examples.ocr.lines import HEIGHT, WIDTH, character_error_rate, characters, decode, render_lines

PROFILES = ("snapdragon-8-gen-3", "intel-core-ultra-s2-igpu", "raspberry-pi-5")
IMAGE = ImageSpec(color="bgr", mean=(127.5,), std=(127.5,), resize="pad")
SHAPE = (1, 3, HEIGHT, WIDTH)
SHOWN = 4
SAMPLES = 24
EMULATED_LINES = 5


@dataclass(frozen=True)
class Picture:
    """One line to read: its text, its file, and the recogniser's input made of it, float32 [1, 3, 48, 320]."""

    text: str
    path: Path
    array: np.ndarray


@dataclass(frozen=True)
class Reading:
    """What one bundle read on one processor: a text per line, the error rate, median time per line, where and why."""

    profile: str
    variant: str
    provider: str
    where: str
    texts: Sequence[str]
    cer: float
    original_cer: float
    latency_ms: float
    size: int
    reason: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when every bundle was made and reads as well as the original within 0.01."""
    options = _options(arguments)
    started, progress = time.monotonic(), ProgressLine()
    say("fetching the PP-OCRv4 text recogniser and rendering text")
    model = fetch("ppocr-rec")
    lines = write_lines(options.output / "lines", options.lines, seed=7)
    write_lines(options.output / "calibration", options.samples, seed=1)
    try:
        conversion = convert_recogniser(model, options.output / "calibration", options.output, progress)
        progress.clear()
        readings = read_all(conversion, model, lines, options.emulated_lines, progress)
    finally:
        progress.clear()
    failures = [entry for entry in conversion.bundles if isinstance(entry, ProfileFailure)]
    show(readings, failures, lines)
    report = options.output / "report.html"
    report.write_text(render_page(readings, conversion, lines), encoding="utf-8")
    say(f"report: {report}   ({time.monotonic() - started:.0f} s)")
    worse = [reading for reading in readings if reading.cer > reading.original_cer + 0.01]
    return 1 if failures or worse else 0


def say(text: str) -> None:
    """Print one line about what is going on."""
    print(text, flush=True)


def own_profile() -> str | None:
    """Return the profile of this machine's CPU, or None where none fits."""
    try:
        return detect_profile(host_facts())
    except EdgertError:
        return None


def write_lines(folder: Path, count: int, seed: int) -> list[Picture]:
    """Render `count` lines into `folder` and return them as the recogniser's inputs; other seeds give other lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    pictures = []
    for number, line in enumerate(render_lines(count, seed)):
        path = folder / f"{number:03d}.png"
        line.picture.save(path)
        pictures.append(Picture(line.text, path, load_image(path, IMAGE, SHAPE, "float32")))
    return pictures


def convert_recogniser(model: Path, calibration: Path, output: Path, progress: ProgressLine) -> Conversion:
    """Convert the recogniser for all profiles of the demo."""
    own = own_profile()
    profiles = [*PROFILES, *([own] if own and own not in PROFILES else [])]
    say(f"converting for {', '.join(profiles)}")
    return convert(
        model,
        profiles,
        calibration=str(calibration),
        output=output,
        shapes={"x": SHAPE},
        images={"x": IMAGE},
        license="Apache-2.0",
        name="ppocr-rec",
        emulator_samples=1,
        progress=progress,
    )


def read_all(
    conversion: Conversion, model: Path, lines: Sequence[Picture], emulated_lines: int, progress: ProgressLine
) -> list[Reading]:
    """Read the lines with every bundle of the conversion, beside the original model."""
    classes = characters({entry.key: entry.value for entry in onnx.load(model).metadata_props}["character"])
    progress("reading with the original model", 0, 0)
    baseline = _read_original(model, lines, classes)
    return [
        reading
        for bundle in conversion.bundles
        if isinstance(bundle, BundleReport)
        for reading in read_bundle(bundle, baseline, lines, emulated_lines, classes, progress)
    ]


def read_bundle(
    report: BundleReport,
    baseline: Sequence[str],
    lines: Sequence[Picture],
    emulated_lines: int,
    classes: Sequence[str],
    progress: ProgressLine,
) -> list[Reading]:
    """Load the bundle on the processor it is for and read; an emulated NPU or GPU reads only the first lines.

    The variant that such a processor runs then reads all lines on this CPU, as a reading of its own.
    """
    processor = load_profile(report.profile).processor
    truth = [line.text for line in lines]
    with edgert.load(report.path, device=processor) as model:
        explained = model.explain()
        count = emulated_lines if processor != "cpu" and explained["where"] == "emulated" else len(lines)
        texts, median = _read(model, lines[:count], classes, f"{report.profile}: reading", progress)
    readings = [
        Reading(
            profile=report.profile,
            variant=explained["variant"],
            provider=explained["provider"],
            where=explained["where"],
            texts=texts,
            cer=character_error_rate(truth[:count], texts),
            original_cer=character_error_rate(truth[:count], baseline[:count]),
            latency_ms=median,
            size=next(one.bytes for one in report.variants if one.name == explained["variant"]),
            reason=_why(explained, report),
        )
    ]
    if count < len(lines):
        same = explained["variant"] == report.chosen
        why = "the same file" if same else f"{report.chosen}, which this {processor} cannot run,"
        readings.append(_read_on_cpu(report, lines, baseline, classes, f"{why} on this CPU, over more lines", progress))
    return readings


def _read_on_cpu(
    report: BundleReport,
    lines: Sequence[Picture],
    baseline: Sequence[str],
    classes: Sequence[str],
    reason: str,
    progress: ProgressLine,
) -> Reading:
    """Read all lines with the bundle's chosen variant on this CPU, to have more lines than an emulator can do."""
    bundle = open_bundle(report.path)
    cpu = find_device("CPUExecutionProvider")
    assert isinstance(cpu, ProviderDevice)
    truth = [line.text for line in lines]
    with Session.open(bundle.file(bundle.manifest.variant(report.chosen).file), cpu) as session:
        texts, median = _read(session, lines, classes, f"{report.profile}: reading on the CPU", progress)
    return Reading(
        profile=report.profile,
        variant=report.chosen,
        provider="CPUExecutionProvider",
        where="emulated",
        texts=texts,
        cer=character_error_rate(truth, texts),
        original_cer=character_error_rate(truth, baseline),
        latency_ms=median,
        size=next(one.bytes for one in report.variants if one.name == report.chosen),
        reason=reason,
    )


def _read_original(model: Path, lines: Sequence[Picture], classes: Sequence[str]) -> list[str]:
    cpu = find_device("CPUExecutionProvider")
    assert isinstance(cpu, ProviderDevice)
    with Session.open(model, cpu) as session:
        return [_text(session.run({"x": line.array}), classes) for line in lines]


def _read(
    runner: "edgert.Model | Session",
    lines: Sequence[Picture],
    classes: Sequence[str],
    stage: str,
    progress: ProgressLine,
) -> tuple[list[str], float]:
    """Return the texts and the median milliseconds of a run, the first one left out where there are more."""
    texts, times = [], []
    for number, line in enumerate(lines):
        progress(stage, number, len(lines))
        feeds = {"x": line.array}
        start = time.perf_counter()
        outputs = runner.run(feeds)
        times.append((time.perf_counter() - start) * 1000)
        texts.append(_text(outputs, classes))
    return texts, float(np.median(times[1:] or times))


def _text(outputs: dict[str, np.ndarray], classes: Sequence[str]) -> str:
    return decode(next(iter(outputs.values()))[0], classes)


def _why(explained: dict[str, object], report: BundleReport) -> str:
    fallback = explained["fallback"]
    if isinstance(fallback, dict):
        return f"instead of {report.chosen}: {fallback['reason']}"
    return report.reason


def show(readings: Sequence[Reading], failures: Sequence[ProfileFailure], lines: Sequence[Picture]) -> None:
    """Print what each bundle read, the table, and what failed."""
    for reading in readings:
        say(f"\n{reading.profile}: {reading.variant} on {reading.provider} ({reading.where})")
        for line, text in zip(lines[:SHOWN], reading.texts, strict=False):
            say(f"  {text!r}" + ("" if text == line.text else f"   (is {line.text!r})"))
        say(f"  why: {reading.reason}")
    header = ("profile", "variant", "ran on", "where", "lines", "CER", "CER fp32", "size", "ms per line")
    rows = [
        (
            reading.profile,
            reading.variant,
            _short(reading.provider),
            reading.where,
            str(len(reading.texts)),
            f"{reading.cer:.4f}",
            f"{reading.original_cer:.4f}",
            megabytes(reading.size),
            f"{reading.latency_ms:.1f}" + (" (emulated)" if reading.where == "emulated" else ""),
        )
        for reading in readings
    ]
    say("\n" + table(header, rows))
    for failure in failures:
        say(f"\n{failure.profile}: no bundle: {failure.message}\n  remedy: {failure.remedy}")


def render_page(readings: Sequence[Reading], conversion: Conversion, lines: Sequence[Picture]) -> str:
    """Return the HTML page: what each device reads, the table of figures, and the conversion report below."""
    body = (
        "<p class='soft'>PP-OCRv4 text recogniser, one model, one command, every class of device. "
        "CER: character error rate on noisy rendered lines, beside the original fp32 model's on the same ones.</p>"
        + _figures(readings)
        + "<h2>What each device reads</h2>"
        + _samples(readings, lines)
        + page.profiles(conversion.to_json()["bundles"])
    )
    return page.page("One text recogniser on NPU, GPU and CPU", body)


def _figures(readings: Sequence[Reading]) -> str:
    header = ("Profile", "Variant", "Ran on", "Measured", "Lines", "CER", "CER fp32", "Size", "ms per line", "Why")
    rows = [
        (
            escape(reading.profile),
            escape(reading.variant),
            escape(_short(reading.provider)),
            page.where_tag(reading.where),
            str(len(reading.texts)),
            f"{reading.cer:.4f}",
            f"{reading.original_cer:.4f}",
            megabytes(reading.size),
            f"{reading.latency_ms:.1f}"
            + ("<br><span class='soft'>not the device's</span>" if reading.where == "emulated" else ""),
            escape(reading.reason),
        )
        for reading in readings
    ]
    return page.table(header, rows, numbers=(4, 5, 6, 7, 8))


def _samples(readings: Sequence[Reading], lines: Sequence[Picture]) -> str:
    first = {one.profile: one for one in reversed(readings)}
    readings = [one for one in readings if first[one.profile] is one]
    columns = [f"{escape(one.profile)}<br>{escape(one.variant)} on {escape(_short(one.provider))}" for one in readings]
    rows = []
    for number, line in enumerate(lines[: 2 * SHOWN]):
        picture = f"<img alt='{escape(line.text)}' src='{_data_url(line.path)}'>"
        rows.append((picture, escape(line.text), *(_seen(reading, number, line.text) for reading in readings)))
    return page.table(("Picture", "Text", *columns), rows)


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _seen(reading: Reading, number: int, truth: str) -> str:
    if number >= len(reading.texts):
        return "<span class='soft'>not run</span>"
    text = reading.texts[number]
    return f"<span class='{'good' if text == truth else 'bad'}'>{escape(text)}</span>"


def _data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for bundles and report")
    parser.add_argument("--lines", type=int, default=200, help="lines that a CPU reads")
    parser.add_argument(
        "--emulated-lines", type=int, default=EMULATED_LINES, help="lines that an emulated NPU or GPU reads"
    )
    parser.add_argument("--samples", type=int, default=SAMPLES, help="calibration lines")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
