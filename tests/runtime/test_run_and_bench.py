"""`edgert run --output` writes whole files or says why not; `edgert bench --against` takes no other inputs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from edgert import cli
from edgert.manifest import Placement
from tests.runtime.damaged import write_damaged
from tests.runtime.small_models import image, save_add, save_gather, write_conv_bundle

ON_CPU = Placement("fp32", "CPUExecutionProvider", "cpu")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a bundle with one placement, on the CPU, and `x.npy` beside it."""
    np.save(tmp_path / "x.npy", image())
    return write_conv_bundle(tmp_path, [ON_CPU])


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run the command line; return its exit code and stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("name", ["none/out.json", "none/out.npz"])
def test_run_output_into_a_missing_folder_names_the_option(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path, name: str
) -> None:
    """Both kinds of file end alike: exit code 2, and a remedy that says --output."""
    code, err = call(capsys, "run", bundle, "--input", tmp_path / "x.npy", "--output", tmp_path / name)
    assert code == 2
    assert "cannot be written" in err
    assert "--output" in err


def test_run_output_json_that_does_not_fit_keeps_the_old_file(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    """When writing stops in the middle it is exit code 4, the old file stays and nothing is left beside it."""
    if sys.platform == "win32":
        pytest.skip("Windows has no limit on the size of a file")
    import resource
    import signal

    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "out.json"
    target.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        code, err = call(capsys, "run", bundle, "--input", tmp_path / "x.npy", "--output", target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (code, "cannot be written" in err) == (4, True)
    assert target.read_text() == "old"
    assert list(folder.iterdir()) == [target]


def test_run_output_json_holds_the_values(capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path) -> None:
    """The lists have the shape of the output."""
    target = tmp_path / "out.json"
    assert call(capsys, "run", bundle, "--input", tmp_path / "x.npy", "--output", target)[0] == 0
    assert np.array(json.loads(target.read_text())["y"]).shape == (1, 8, 16, 16)


@pytest.mark.parametrize(
    "name", ["member-terabytes.npz", "terabytes.npy", "encrypted.npz", "deflate.npz", "method.npz"]
)
def test_run_on_a_damaged_array_ends_with_2(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path, name: str
) -> None:
    """The file is named, and there is no traceback."""
    code, err = call(capsys, "run", bundle, "--input", write_damaged(tmp_path, name))
    assert (code, name in err) == (2, True)


@pytest.mark.parametrize(
    ("save", "words"), [(save_add, "no input 'x'"), (save_gather, "no input 'x'")], ids=["add", "gather"]
)
def test_bench_against_a_model_of_other_inputs_ends_with_2(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path, save, words: str
) -> None:
    """The other model and the input that it lacks are named."""
    other = save(tmp_path / "other.onnx")
    code, err = call(capsys, "bench", bundle, "--rounds", 1, "--against", other)
    assert code == 2, err
    assert "other.onnx" in err
    assert words in err
