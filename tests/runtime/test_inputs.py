"""Arrays come from files and numbers as the command line names them, and go to files whole."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from edgert.errors import BadInput, EnvironmentFailed, UsageError
from edgert.image_spec import ImageSpec
from edgert.manifest import TensorSpec
from edgert.runtime.inputs import read_inputs, summarise, write_outputs
from tests.runtime.damaged import damaged_files, write_damaged

X = TensorSpec("x", "float32", (1, 4))
SILERO = (
    TensorSpec("input", "float32", ("batch", "samples")),
    TensorSpec("state", "float32", (2, "batch", 128)),
    TensorSpec("sr", "int64", ()),
)


def save(path: Path, array: object) -> Path:
    """Save an array as `.npy`."""
    np.save(path, np.asarray(array))
    return path


def test_read_inputs_from_npz_takes_its_keys(tmp_path: Path) -> None:
    """The keys of an `.npz` are input names."""
    np.savez(tmp_path / "all.npz", x=np.ones((1, 4), np.float32))
    assert read_inputs([tmp_path / "all.npz"], [X])["x"].shape == (1, 4)


def test_read_inputs_from_npy_feeds_the_only_input(tmp_path: Path) -> None:
    """A model with one input takes an `.npy` without a name."""
    assert read_inputs([save(tmp_path / "x.npy", np.ones((1, 4)))], [X])["x"].dtype == np.float64


def test_read_inputs_with_names_and_a_number_feeds_several(tmp_path: Path) -> None:
    """NAME=FILE and NAME=NUMBER together feed a model with a scalar input."""
    audio = save(tmp_path / "audio.npy", np.zeros((1, 512), np.float32))
    state = save(tmp_path / "a=b.npy", np.zeros((2, 1, 128), np.float32))
    feeds = read_inputs([f"input={audio}", f"state={state}", "sr=16000"], SILERO)
    assert feeds["input"].shape == (1, 512)
    assert feeds["state"].shape == (2, 1, 128)
    assert (feeds["sr"].dtype, feeds["sr"].shape, int(feeds["sr"])) == (np.int64, (), 16000)


def test_read_inputs_number_takes_the_rank_of_the_input() -> None:
    """A number for an input of shape [1] or [n] becomes an array of one element."""
    assert read_inputs(["t=0.5"], [TensorSpec("t", "float32", ("n", 1))])["t"].tolist() == [[0.5]]


def test_read_inputs_from_a_picture_follows_the_image_spec(tmp_path: Path) -> None:
    """A picture becomes a tensor of the input's shape by its ImageSpec, without naming the input."""
    pillow = pytest.importorskip("PIL.Image", reason="the extra media (Pillow) is not installed")
    pillow.new("RGB", (4, 2), (255, 0, 0)).save(tmp_path / "red.png")
    spec = TensorSpec("x", "float32", (1, 3, 2, 4), ImageSpec())
    array = read_inputs([tmp_path / "red.png", "t=1"], [spec, TensorSpec("t", "int32", ())])["x"]
    assert array[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("items", "error", "words"),
    [
        ([], UsageError, "'x' is not given"),
        (["y=1"], BadInput, "no input 'y'"),
        (["x=3"], BadInput, "there is no file '3'"),
        (["none.npy"], BadInput, "none.npy"),
        (["none.npz"], BadInput, "none.npz"),
        (["none.png"], BadInput, "does not say how a picture becomes a tensor"),
        (["notes.txt"], BadInput, "not a kind of file that is known"),
        (["broken.npy"], BadInput, "broken.npy"),
        (["broken.npz"], BadInput, "broken.npz"),
        (["pickled.npy"], BadInput, "pickled.npy"),
        (["good.npy", "good.npy"], UsageError, "given twice"),
        (["other.npz"], BadInput, "no input 'x2'"),
    ],
)
def test_read_inputs_with_something_unusable_says_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, items: list[str], error: type[Exception], words: str
) -> None:
    """What cannot be read is one clear error with a remedy."""
    monkeypatch.chdir(tmp_path)
    for name in ("notes.txt", "broken.npy", "broken.npz"):
        Path(name).write_text("hello", encoding="utf-8")
    np.save("pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save("good.npy", np.ones((1, 4), np.float32))
    np.savez("other.npz", x2=np.ones(1))
    with pytest.raises(error) as caught:
        read_inputs(items, [X])
    assert words in caught.value.message  # type: ignore[attr-defined]
    assert caught.value.remedy  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", damaged_files())
def test_read_inputs_of_a_damaged_file_is_bad_input(tmp_path: Path, name: str) -> None:
    """Forged headers, encryption, unknown methods and impossible sizes are refused by name."""
    with pytest.raises(BadInput, match=name):
        read_inputs([write_damaged(tmp_path, name)], [X])


@pytest.mark.parametrize("item", ["none.npz", "input=none.npy"])
def test_read_inputs_of_a_missing_file_says_that_there_is_none(item: str) -> None:
    """A wrong path is no question of which input it is for."""
    with pytest.raises(BadInput, match=r"there is no file 'none\.np"):
        read_inputs([item], SILERO)


def test_read_inputs_of_a_very_long_item_is_bad_input() -> None:
    """A name that is too long for a file system is not there."""
    with pytest.raises(BadInput, match="no input 'xxx"):
        read_inputs(["x" * 5000 + "=1"], [X])


def test_write_outputs_of_python_strings_stores_text(tmp_path: Path) -> None:
    """The strings that ONNX Runtime gives (kind `O`) come back as text from each form."""
    outputs = {"label": np.array([["cat", "catfish"]], dtype=object)}
    for name in ("out.npz", "out.json", "out"):
        write_outputs(tmp_path / name, outputs)
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["label"].tolist() == [["cat", "catfish"]]
    assert np.load(tmp_path / "out" / "label.npy").tolist() == [["cat", "catfish"]]
    assert json.loads((tmp_path / "out.json").read_text()) == {"label": [["cat", "catfish"]]}


def test_read_inputs_without_a_name_for_several_inputs_says_how(tmp_path: Path) -> None:
    """An array that could be for any of several inputs is refused with the way to write it."""
    with pytest.raises(UsageError, match="which of the inputs input, state, sr") as caught:
        read_inputs([save(tmp_path / "a.npy", [1.0])], SILERO)
    assert caught.value.remedy.startswith("write input=")


def test_write_outputs_to_npz_keeps_the_names(tmp_path: Path) -> None:
    """An `.npz` holds every output under its own name."""
    files = write_outputs(tmp_path / "out.npz", {"a/b": np.ones(2), "c": np.zeros(3)})
    assert set(files.values()) == {tmp_path / "out.npz"}
    with np.load(tmp_path / "out.npz") as arrays:
        assert sorted(arrays.files) == ["a/b", "c"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]


def test_write_outputs_to_a_folder_keeps_inside_it(tmp_path: Path) -> None:
    """Output names become flat, distinct file names, even where they hold slashes or differ only in case."""
    outputs = {"../../evil": np.ones(1), "A": np.ones(2), "a": np.ones(3), "..": np.ones(4)}
    files = write_outputs(tmp_path / "out", outputs)
    assert {path.parent for path in files.values()} == {tmp_path / "out"}
    assert len({path.name.lower() for path in files.values()}) == 4
    assert [np.load(files[name]).size for name in outputs] == [1, 2, 3, 4]


def test_write_outputs_into_a_missing_folder_is_bad_input(tmp_path: Path) -> None:
    """A path in a folder that is not there is the user's to correct."""
    with pytest.raises(BadInput, match=r"out\.npz"):
        write_outputs(tmp_path / "none" / "out.npz", {"a": np.ones(1)})


def test_write_outputs_that_do_not_fit_keep_the_old_file(tmp_path: Path) -> None:
    """When writing stops in the middle it is EnvironmentFailed, the old file stays and nothing is left beside it."""
    if sys.platform == "win32":
        pytest.skip("Windows has no limit on the size of a file")
    import resource
    import signal

    target = tmp_path / "out.npz"
    target.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(EnvironmentFailed, match="too large"):
            write_outputs(target, {"a": np.ones(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_summarise_gives_figures_that_json_can_hold() -> None:
    """Numbers are plain, values that are not finite are left out, and text has no figures."""
    summary = summarise(
        {
            "scores": np.array([[0.1, 0.7, 0.2]], np.float32),
            "map": np.array([[1.0, np.inf], [np.nan, 3.0]]),
            "text": np.array(["a"]),
            "none": np.zeros((0, 2)),
        }
    )
    json.dumps(summary, allow_nan=False)
    assert summary["scores"]["top1"] == 1
    assert summary["scores"]["shape"] == [1, 3]
    assert summary["scores"]["dtype"] == "float32"
    assert summary["scores"]["max"] == pytest.approx(0.7)
    assert (summary["map"]["min"], summary["map"]["mean"], summary["map"]["top1"]) == (1.0, 2.0, None)
    assert (summary["text"]["dtype"], summary["text"]["mean"]) == ("str", None)
    assert summary["none"]["min"] is None


@pytest.mark.parametrize("text", ["a sentence", "42", "", "photo.png", "a=b"])
@pytest.mark.parametrize("shape", [("rows", 1), (1,), ()])
def test_read_inputs_text_for_an_input_of_text_is_that_text(text: str, shape: tuple[int | str, ...]) -> None:
    """NAME=TEXT is one text of the input's rank, whatever it looks like."""
    array = read_inputs([f"t={text}"], [TensorSpec("t", "str", shape)])["t"]
    assert array.shape == (1,) * len(shape)
    assert array.ravel().tolist() == [text]


def test_read_inputs_text_from_array_files_is_read(tmp_path: Path) -> None:
    """Text lies in `.npy` and `.npz` as numpy's dtype U."""
    texts = np.array([["a"], ["bc"]])
    np.savez(tmp_path / "t.npz", t=texts)
    spec = TensorSpec("t", "str", ("rows", 1))
    for item in (tmp_path / "t.npz", f"t={save(tmp_path / 't.npy', texts)}"):
        assert read_inputs([item], [spec])["t"].tolist() == [["a"], ["bc"]]


def test_read_inputs_one_text_for_a_fixed_number_of_texts_is_bad_input() -> None:
    """One text does not become three."""
    with pytest.raises(BadInput, match="one text does not fill it"):
        read_inputs(["t=a"], [TensorSpec("t", "str", (3, 1))])
