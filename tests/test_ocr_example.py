"""The example that `make demo` runs: PP-OCRv4 reads noisy lines on every class of device as well as the original."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from converters.request import BundleReport, Conversion
from edgert.commands.printing import ProgressLine
from edgert.runtime.providers import Absent, find_device
from examples.ocr import demo
from examples.ocr.lines import character_error_rate, characters, decode, edit_distance, render_lines

ROOT = Path(__file__).resolve().parents[1]
LINES, EMULATED_LINES = 200, 8
QNN, WEBGPU, CPU = "QNNExecutionProvider", "WebGpuExecutionProvider", "CPUExecutionProvider"


@pytest.fixture(scope="module")
def demonstration(model_path, tmp_path_factory) -> tuple[Conversion, list[demo.Reading], list[demo.Picture]]:
    """Convert and read once, with the demo's own functions and its own number of lines."""
    for provider in (QNN, WEBGPU):
        found = find_device(provider, allow_emulated=True)
        if isinstance(found, Absent):
            pytest.skip(f"{provider}: {found.reason}; {found.remedy}")
    output = tmp_path_factory.mktemp("demo")
    model, progress = model_path("ppocr-rec"), ProgressLine()
    lines = demo.write_lines(output / "lines", LINES, seed=7)
    demo.write_lines(output / "calibration", demo.SAMPLES, seed=1)
    conversion = demo.convert_recogniser(model, output / "calibration", output, progress)
    readings = demo.read_all(conversion, model, lines, EMULATED_LINES, progress)
    return conversion, readings, lines


def test_ocr_every_profile_has_its_bundle(demonstration):
    """NPU, integrated GPU, Raspberry Pi 5 and, where a profile fits it, this machine."""
    conversion, _, _ = demonstration
    assert [type(entry) for entry in conversion.bundles] == [BundleReport] * len(conversion.bundles)
    assert [entry.profile for entry in conversion.bundles][:3] == list(demo.PROFILES)


def test_ocr_npu_runs_every_node_on_the_emulator(demonstration):
    """0 nodes on the CPU, and at least 8 lines read on the emulator itself."""
    conversion, readings, _ = demonstration
    npu = conversion.bundles[0]
    assert isinstance(npu, BundleReport)
    assert set(npu.variants[0].nodes) == {QNN}
    on_emulator = [one for one in readings if one.provider == QNN]
    assert [len(one.texts) for one in on_emulator] == [EMULATED_LINES]


def test_ocr_error_rate_is_within_a_point_of_the_original_on_every_profile(demonstration):
    """CER over 200 lines (8 on an emulated accelerator) at most 0.01 above that of fp32 on the same lines."""
    _, readings, _ = demonstration
    assert {one.provider for one in readings} == {QNN, WEBGPU, CPU}
    for profile in {one.profile for one in readings}:
        assert max(len(one.texts) for one in readings if one.profile == profile) == LINES
    for one in readings:
        assert one.cer <= one.original_cer + 0.01, one


def test_ocr_original_reads_noisy_lines_with_some_errors(demonstration):
    """The lines are hard enough to tell readers apart, and easy enough to be read."""
    _, readings, _ = demonstration
    rates = {one.original_cer for one in readings if len(one.texts) == LINES}
    assert all(0.001 < rate < 0.05 for rate in rates)


def test_ocr_page_shows_what_each_device_read(demonstration):
    """The page holds the picture, the truth and the reading of each device, and where each figure was measured."""
    conversion, readings, lines = demonstration
    page = demo.render_page(readings, conversion, lines)
    assert page.count("data:image/png;base64,") == 2 * demo.SHOWN
    assert lines[0].text in page
    for one in readings:
        assert one.profile in page
        assert f"{one.cer:.4f}" in page
    assert "not the device" in page


def test_ocr_page_opens_in_a_browser_without_network_or_errors(demonstration, browser_page, tmp_path):
    """Chromium renders the page in light and dark, asks for nothing, and cuts no table off the window."""
    conversion, readings, lines = demonstration
    path = tmp_path / "report.html"
    path.write_text(demo.render_page(readings, conversion, lines), encoding="utf-8")
    requests, faults = [], []
    browser_page.on("request", lambda request: requests.append(request.url))
    browser_page.on("pageerror", lambda error: faults.append(str(error)))
    browser_page.on("console", lambda message: faults.append(message.text))
    browser_page.goto(path.as_uri())
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert faults == []
    colours = []
    for scheme in ("light", "dark"):
        browser_page.emulate_media(color_scheme=scheme)
        colours.append(browser_page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert browser_page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert colours[0] != colours[1]
    assert browser_page.locator("tr").count() > len(readings)


def readme_blocks(kind: str) -> list[str]:
    """Return the fenced blocks of the README of one kind."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [block.split("```")[0] for block in text.split(f"```{kind}\n")[1:]]


@pytest.fixture
def beside_the_demo(demonstration, tmp_path) -> Path:
    """Return a folder in which `demo/` is what the demonstration made."""
    conversion, _, _ = demonstration
    shutil.copytree(Path(conversion.report).parent, tmp_path / "demo")
    return tmp_path


def test_readme_commands_run_as_printed(beside_the_demo):
    """Every `edgert` command of the README works in the order in which it stands, after `make demo`."""
    commands = [line[2:] for block in readme_blocks("console") for line in block.splitlines() if line[:2] == "$ "]
    commands = [command.split("    #")[0] for command in commands if not command.startswith("make ")]
    assert len(commands) >= 8
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        done = subprocess.run(
            command,
            shell=True,
            cwd=beside_the_demo,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_readme_python_runs_as_printed(beside_the_demo):
    """The snippet of the README loads a bundle, runs it and says what ran it."""
    (snippet,) = readme_blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=beside_the_demo,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "CPUExecutionProvider" in done.stdout


def test_lines_are_the_same_for_the_same_seed():
    """Rendering is seeded."""
    one, two = ([(line.text, line.picture.tobytes()) for line in render_lines(3, seed=5)] for _ in range(2))
    assert one == two
    assert [line.text for line in render_lines(3, seed=6)] != [text for text, _ in one]


@pytest.mark.parametrize(
    ("left", "right", "edits"), [("", "", 0), ("abc", "abc", 0), ("abc", "axc", 1), ("abc", "", 3), ("ab", "ba", 2)]
)
def test_edit_distance_counts_insertions_deletions_and_replacements(left, right, edits):
    """The Levenshtein distance."""
    assert edit_distance(left, right) == edits


def test_character_error_rate_is_edits_over_characters():
    """One wrong character in ten is 0.1."""
    assert character_error_rate(["hello", "world"], ["hello", "worle"]) == pytest.approx(0.1)


def test_decode_merges_runs_and_drops_blanks():
    """Greedy CTC: a blank between two equal letters keeps both."""
    import numpy as np

    classes = characters("a\nb")
    rows: Sequence[int] = (1, 1, 0, 1, 2, 3, 0)
    assert decode(np.eye(4)[list(rows)], classes) == "aab"


def test_demo_output_folder_is_ignored_by_git():
    """`make demo` leaves nothing that would be committed."""
    assert "/demo/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
