"""What a converter is given and what happens to it: every fault is one clear error, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgert import cli
from edgert.host import host_facts
from edgert.profile import detect_profile

PROFILE = detect_profile(host_facts())


def fault(capsys: pytest.CaptureFixture[str], output: Path, *arguments: object) -> tuple[int, str]:
    """Convert; returns exit code and stderr+stdout, after checking that no bundle and no scratch folder is left."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert", *map(str, arguments), "-p", PROFILE, "-o", str(output)])
    captured = capsys.readouterr()
    assert not output.exists() or not [path for path in output.iterdir() if "report" not in path.name]
    text = captured.err + captured.out
    assert "remedy:" in text
    assert "Traceback" not in text
    return int(ended.value.code or 0), text


def test_convert_text_file_is_not_a_model(capsys, tmp_path, tiny_samples):
    """A file that is no ONNX model is named as such."""
    (tmp_path / "a.onnx").write_text("this is not a model\n" * 50)
    code, text = fault(capsys, tmp_path / "out", tmp_path / "a.onnx", "--calibration", tiny_samples)
    assert (code, "not an ONNX model" in text) == (2, True)


def test_convert_truncated_model_says_it_is_cut_off(capsys, tmp_path, tiny_model, tiny_samples):
    """Half a model is told from no model."""
    (tmp_path / "a.onnx").write_bytes(tiny_model.read_bytes()[:-60])
    code, text = fault(capsys, tmp_path / "out", tmp_path / "a.onnx", "--calibration", tiny_samples)
    assert (code, "cut off" in text) == (2, True)


def test_convert_missing_external_file_is_named(capsys, tmp_path, tiny_model, tiny_samples):
    """The weights file that is not there is named with where it belongs."""
    onnx.save(
        onnx.load(tiny_model), tmp_path / "a.onnx", save_as_external_data=True, location="a.weights", size_threshold=0
    )
    (tmp_path / "a.weights").unlink()
    code, text = fault(capsys, tmp_path / "out", tmp_path / "a.onnx", "--calibration", tiny_samples)
    assert (code, "a.weights" in text) == (2, True)


def test_convert_missing_model_is_bad_input(capsys, tmp_path, tiny_samples):
    """A path that does not exist exits 2."""
    assert fault(capsys, tmp_path / "out", tmp_path / "none.onnx", "--calibration", tiny_samples)[0] == 2


def test_convert_unknown_profile_names_the_nearest(capsys, tmp_path, tiny_model, tiny_samples):
    """A typo in a profile is answered before any work."""
    code, text = fault(capsys, tmp_path / "out", tiny_model, "--calibration", tiny_samples, "-p", "snapdragon-8-gen3")
    assert (code, "snapdragon-8-gen-3" in text) == (2, True)


def test_convert_without_calibration_is_refused(capsys, tmp_path, tiny_model):
    """Nothing is converted blind."""
    code, text = fault(capsys, tmp_path / "out", tiny_model)
    assert (code, "--calibration" in text) == (2, True)


def test_convert_calibration_folder_without_usable_files(capsys, tmp_path, tiny_model):
    """A folder of notes is refused with what would be usable."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no samples here")
    code, text = fault(capsys, tmp_path / "out", tiny_model, "--calibration", tmp_path / "notes")
    assert (code, ".npz" in text) == (2, True)


def test_convert_samples_of_the_wrong_shape(capsys, tmp_path, tiny_model):
    """The file, the input, the shape seen and the shape wanted are all named."""
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 9), np.float32))
    code, text = fault(capsys, tmp_path / "out", tiny_model, "--calibration", tmp_path / "x.npz")
    assert code == 2
    assert "x.npz" in text
    assert "9" in text
    assert "8" in text


def test_convert_nan_in_the_samples(capsys, tmp_path, tiny_model):
    """NaN in calibration data is found before it ruins a range."""
    values = np.zeros((1, 8), np.float32)
    values[0, 3] = np.nan
    np.savez(tmp_path / "x.npz", x=values)
    code, text = fault(capsys, tmp_path / "out", tiny_model, "--calibration", tmp_path / "x.npz")
    assert (code, "NaN" in text) == (2, True)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--shape", "x=1,9"], "9"),
        (["--shape", "z=1,8"], "z"),
        (["--shape", "x"], "--shape"),
        (["--precision", "int7"], "int8"),
        (["--max-drop", "3"], "max-drop"),
        (["--metric", "cosin"], "cosine"),
        (["--image", "color=purple"], "purple"),
        (["--samples", "0"], "sample"),
    ],
)
def test_convert_wrong_flags_exit_2(capsys, tmp_path, tiny_model, tiny_samples, flags, word):
    """Every flag is checked, and the message shows the word that was wrong or was meant."""
    code, text = fault(capsys, tmp_path / "out", tiny_model, "--calibration", tiny_samples, *flags)
    assert (code, word in text) == (2, True)


def test_convert_gate_that_cannot_hold_exits_1(capsys, tmp_path, tiny_model, tiny_samples):
    """int8 forced under an impossible gate: exit 1, the value found, no bundle."""
    code, text = fault(
        capsys, tmp_path / "out", tiny_model, "--calibration", tiny_samples, "--precision", "int8", "--max-drop", "0"
    )
    assert (code, "cosine" in text) == (1, True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system with room for a few kilobytes; skips where that is not permitted."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if sys.platform == "linux"
        else None
    )
    if mounted is None or mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip() if mounted else sys.platform}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_convert_onto_a_full_disk_exits_4_and_leaves_nothing(capsys, full_disk, tiny_model, tiny_samples):
    """No room: the environment failed, the remedy says to make some, nothing half-written stays."""
    (full_disk / "filler").write_bytes(bytes(8000))
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert", str(tiny_model), "-p", PROFILE, "-o", str(full_disk), "--calibration", str(tiny_samples)])
    text = capsys.readouterr().err
    assert ended.value.code == 4, text
    assert "remedy:" in text
    assert "space" in text
    assert [path.name for path in full_disk.iterdir()] == ["filler"]


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_convert_interrupted_in_the_middle_exits_130_and_leaves_nothing(tmp_path, model_path, number):
    """Ctrl-C or a stop while measuring: exit 130, and the output folder is as it was."""
    output = tmp_path / "out"
    command = [sys.executable, "-m", "edgert", "convert", str(model_path("ppocr-cls")), "-p", PROFILE]
    # A job in the background ignores Ctrl-C, and its children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen(
        [*command, "-o", str(output), "--calibration", "random", "--shape", "x=1,3,48,192"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 60
    while not list(output.glob(".edgert-*/*.onnx")) + list(output.glob(".edgert-*/0*")):
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(number)
    _, text = child.communicate(timeout=60)
    assert child.returncode == 130, text
    assert "interrupted" in text
    assert "Traceback" not in text
    assert not output.exists() or not list(output.iterdir())


def test_convert_for_two_profiles_of_one_id_is_refused(capsys, tmp_path, tiny_model, tiny_samples):
    """The second bundle would silently replace the first."""
    copy = tmp_path / f"{PROFILE}.toml"
    copy.write_bytes((Path(__file__).resolve().parents[2] / "device_profiles" / f"{PROFILE}.toml").read_bytes())
    code, text = fault(capsys, tmp_path / "out", tiny_model, "--calibration", tiny_samples, "-p", copy)
    assert (code, PROFILE in text) == (2, True)


def test_convert_into_a_file_is_bad_input(capsys, tmp_path, tiny_model, tiny_samples):
    """An output path that is a file, or lies in one, is named."""
    (tmp_path / "file").write_text("here")
    for output in (tmp_path / "file", tmp_path / "file" / "sub"):
        with pytest.raises(SystemExit) as ended:
            cli.main(["convert", str(tiny_model), "-p", PROFILE, "-o", str(output), "--calibration", str(tiny_samples)])
        assert ended.value.code == 2
        assert "file" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "here"


@pytest.mark.parametrize("text", ["[" * 50_000, "a = " + "1" * 50_000, "x" * 200_000])
def test_convert_with_a_hostile_profile_file(capsys, tmp_path, tiny_model, tiny_samples, text):
    """Nesting without end and numbers without end are a broken file, not a crash."""
    (tmp_path / "p.toml").write_text(text)
    code, _ = fault(capsys, tmp_path / "out", tiny_model, "--calibration", tiny_samples, "-p", tmp_path / "p.toml")
    assert code == 2


def test_convert_json_is_one_document_though_the_samples_print(capsys, tmp_path, tiny_model, monkeypatch):
    """What a calibration callable prints goes to stderr."""
    (tmp_path / "loud_samples.py").write_text(
        "import numpy as np\nprint('hello')\ndef samples():\n    print('sample')\n"
        "    yield {'x': np.ones((1, 8), np.float32)}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command = ["convert", str(tiny_model), "-p", PROFILE, "-o", str(tmp_path / "out"), "--json"]
        cli.main([*command, "--calibration", "loud_samples:samples"])
    captured = capsys.readouterr()
    assert not ended.value.code, captured.err
    assert json.loads(captured.out)["bundles"][0]["profile"] == PROFILE
    assert "hello" in captured.err
