"""Calibration samples from every source, and each way in which they can be wrong."""

import sys
import tracemalloc
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converters.samples import RANDOM_WARNING, open_samples
from edgert.errors import BadInput, UsageError
from edgert.image_spec import ImageSpec
from edgert.manifest import TensorSpec
from edgert.runtime.prepare import Preparer, open_preparer
from edgert.task import AudioSpec, Task
from tests.runtime.damaged import damaged_files, write_damaged

X = TensorSpec("x", "float32", (1, 4))
FREE = TensorSpec("x", "float32", ("N", 4))
TOKENS = TensorSpec("tokens", "int64", (1, None))
WORDS = TensorSpec("word", "str", ("N", 1))
PICTURE = TensorSpec("image", "float32", (1, 3, 8, 8))


def _values(count: int) -> np.ndarray:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 1, 4)


def test_samples_of_a_folder_come_by_name_and_again(tmp_path: Path) -> None:
    """Files are read in the order of their names, each with one or many samples, in every pass alike."""
    values = _values(5)
    np.savez(tmp_path / "b.npz", x=values[:3])
    np.save(tmp_path / "c.npy", values[3])
    np.save(tmp_path / "a.npy", values[4:])
    (tmp_path / "notes.txt").write_text("ignored")
    (tmp_path / ".hidden.npy").write_text("ignored")
    samples = open_samples(str(tmp_path), [X])
    assert (samples.kind, samples.count, samples.warning) == ("folder", 5, "")
    expected = [values[4], *values[:3], values[3]]
    for _ in range(2):
        got = [sample["x"] for sample in samples]
        assert len(got) == 5
        for have, want in zip(got, expected, strict=True):
            np.testing.assert_array_equal(have, want)


def test_samples_digest_is_about_the_samples_alone(tmp_path: Path) -> None:
    """The same samples have the same digest from any source; another order, value or limit has another."""
    values = _values(3)
    np.savez(tmp_path / "one.npz", x=values)
    np.save(tmp_path / "one.npy", values.astype(np.float64))
    np.save(tmp_path / "turned.npy", values[::-1])
    digests = {name: open_samples(str(tmp_path / name), [X]).digest for name in ("one.npz", "one.npy", "turned.npy")}
    assert digests["one.npz"] == digests["one.npy"] != digests["turned.npy"]
    assert open_samples(lambda: [{"x": value} for value in values], [X]).digest == digests["one.npz"]
    limited = open_samples(str(tmp_path / "one.npz"), [X], limit=2)
    assert limited.count == len(list(limited)) == 2
    assert limited.digest not in digests.values()


def test_samples_of_a_free_dimension_may_differ_in_it(tmp_path: Path) -> None:
    """A batch fills a free first dimension; it is one sample."""
    np.save(tmp_path / "a.npy", np.zeros((7, 4), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((2, 3, 4), np.float32))
    shapes = [sample["x"].shape for sample in open_samples(str(tmp_path), [FREE])]
    assert shapes == [(7, 4), (3, 4), (3, 4)]


def test_samples_of_several_inputs_share_what_is_not_stacked(tmp_path: Path) -> None:
    """A scalar beside a stack of frames goes with each frame."""
    inputs = [X, TensorSpec("rate", "int64", ())]
    np.savez(tmp_path / "a.npz", x=_values(3), rate=np.int32(16000))
    samples = list(open_samples(str(tmp_path / "a.npz"), inputs))
    assert [int(sample["rate"]) for sample in samples] == [16000] * 3
    assert samples[0]["rate"].dtype == np.int64
    assert samples[0]["rate"].shape == ()


@pytest.mark.parametrize("source", ["file", "callable"])
def test_samples_are_streamed(tmp_path: Path, source: str) -> None:
    """Reading forty samples of 4 MB never holds more than a few of them."""
    count, size = 40, 1_000_000
    mapped = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.float32, (count, size))
    mapped[:, 0] = 1.0
    del mapped

    def yield_samples() -> Iterator[dict[str, object]]:
        for _ in range(count):
            yield {"x": np.ones(size, np.float32)}

    spec = str(tmp_path / "big.npy") if source == "file" else yield_samples
    tracemalloc.start()
    try:
        assert open_samples(spec, [TensorSpec("x", "float32", (size,))]).count == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size * 4 <= peak < 6 * size * 4


def test_samples_of_pictures_follow_the_rules(tmp_path: Path) -> None:
    """Pictures become the one input that looks like one, by its rules or the default ones, and say which."""
    for index, value in enumerate((0, 255)):
        Image.new("RGB", (16, 16), (value, 0, 0)).save(tmp_path / f"{index}.png")
    samples = open_samples(str(tmp_path), [PICTURE])
    assert samples.images == {"image": ImageSpec()}
    assert [float(sample["image"].max()) for sample in samples] == [0.0, 1.0]
    rules = ImageSpec(color="bgr", mean=(127.5,), std=(127.5,))
    ruled = open_samples(str(tmp_path), [TensorSpec("image", "float32", (1, 3, 8, 8), rules)])
    assert ruled.images == {"image": rules}
    assert [float(sample["image"][0, 2, 0, 0]) for sample in ruled] == [-1.0, 1.0]


def test_samples_of_a_callable_start_anew_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """module:function is found in the working folder, called once a pass, and the import path is as before."""
    (tmp_path / "calib_once.py").write_text(
        "import numpy as np\ncalls = 0\n"
        "def batches():\n    global calls\n    calls += 1\n    import calib_part\n"
        "    for i in range(calib_part.COUNT):\n        yield {'x': np.full((1, 4), i, np.float32)}\n"
    )
    (tmp_path / "calib_part.py").write_text("COUNT = 3\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    samples = open_samples("calib_once:batches", [X])
    assert (samples.kind, samples.count, samples.spec) == ("callable", 3, "calib_once:batches")
    assert [float(sample["x"][0, 0]) for sample in samples] == [0.0, 1.0, 2.0]
    assert sys.modules["calib_once"].calls == 2
    assert sys.path == before


def test_samples_of_random_numbers_warn_and_repeat() -> None:
    """Random samples are the same for one seed, carry the warning, and stay valid as indices."""
    inputs = [FREE, TensorSpec("ids", "int32", (1, 16)), TensorSpec("on", "bool", ())]
    samples = open_samples("random", inputs, limit=5)
    assert (samples.kind, samples.count, samples.warning) == ("random", 5, RANDOM_WARNING)
    for sample in samples:
        assert sample["x"].shape == (1, 4)
        assert set(np.unique(sample["ids"])) <= {0, 1}
        assert sample["on"].dtype == np.bool_
    assert open_samples("random", inputs, limit=5).digest == samples.digest
    assert open_samples("random", inputs, limit=5, seed=1).digest != samples.digest
    assert "RANDOM" in RANDOM_WARNING


def test_samples_of_random_numbers_for_a_free_dimension_ask_for_its_size() -> None:
    """Nothing is guessed about a free dimension that is not the first: it is named, with the flag that sets it."""
    with pytest.raises(BadInput) as caught:
        open_samples("random", [TensorSpec("x", "float32", (1, 3, 48, "width"))])
    assert "dimension 3 ('width')" in caught.value.message
    assert "--shape x=1,3,48,1" in caught.value.remedy


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((1, 5), np.float32), "takes shape [1, 4], the array has [1, 5]"),
        (np.zeros((9, 4), np.float32), "takes shape [1, 4], the array has [9, 4]"),
        (np.zeros(4, np.float32), "the array has [4]"),
        (np.zeros((2, 3, 1, 4), np.float32), "the array has [2, 3, 1, 4]"),
        (np.zeros((1, 4), np.int64), "takes float32, the array is int64"),
        (np.zeros((1, 4), np.uint8), "takes float32, the array is uint8"),
        (np.zeros((1, 4), np.complex64), "takes float32, the array is complex64"),
        (np.array([[0, np.nan, 0, np.inf]], np.float32), "2 values that are NaN or infinite"),
        (np.array([[0, 0, 1e300, 0]]), "1 values that are NaN or infinite as float32, the first is 1e+300 at [0, 2]"),
    ],
)
def test_samples_that_do_not_fit_name_file_and_input(tmp_path: Path, array: np.ndarray, named: str) -> None:
    """A wrong shape, dtype or value names the file, the input, what it takes and what is there."""
    np.save(tmp_path / "ok.npy", np.zeros((1, 4), np.float32))
    np.save(tmp_path / "wrong.npy", array)
    with pytest.raises(BadInput) as caught:
        open_samples(str(tmp_path), [X])
    assert named in caught.value.message
    assert "wrong.npy" in caught.value.message
    assert "'x'" in caught.value.message
    assert caught.value.remedy


def test_samples_nan_in_a_stack_names_the_sample_and_the_index(tmp_path: Path) -> None:
    """The first bad value is found in the right sample of the file."""
    values = _values(3)
    values[1, 0, 2] = np.nan
    np.savez(tmp_path / "a.npz", x=values)
    with pytest.raises(BadInput, match=r"a\.npz, sample 1: input 'x' holds 1 values .* nan at \[0, 2\]"):
        open_samples(str(tmp_path), [X])


def test_samples_batch_for_a_fixed_first_dimension_tells_how_to_split_it(tmp_path: Path) -> None:
    """Somebody who saved a batch is told the one expression that makes samples of it."""
    np.save(tmp_path / "batch.npy", np.zeros((9, 4), np.float32))
    with pytest.raises(BadInput) as caught:
        open_samples(str(tmp_path / "batch.npy"), [X])
    assert "array[:, None]" in caught.value.remedy
    np.save(tmp_path / "batch.npy", np.zeros((9, 4), np.float32)[:, None])
    assert open_samples(str(tmp_path / "batch.npy"), [X]).count == 9


def test_samples_integers_may_widen_and_not_narrow(tmp_path: Path) -> None:
    """An index array of a narrower type is fine; a wider one could lose values."""
    np.save(tmp_path / "a.npy", np.ones((1, 6), np.int32))
    assert next(iter(open_samples(str(tmp_path), [TOKENS])))["tokens"].dtype == np.int64
    np.save(tmp_path / "a.npy", np.ones((1, 6), np.uint64))
    with pytest.raises(BadInput, match="takes int64, the array is uint64"):
        open_samples(str(tmp_path), [TOKENS])


def test_samples_npz_with_wrong_names_suggests_the_right_one(tmp_path: Path) -> None:
    """An unknown name is answered with the nearest input, a missing one with its name."""
    np.savez(tmp_path / "a.npz", token=np.ones((1, 3), np.int64))
    with pytest.raises(BadInput, match=r"a\.npz: the model has no input 'token'") as caught:
        open_samples(str(tmp_path), [TOKENS])
    assert "did you mean 'tokens'?" in caught.value.remedy
    np.savez(tmp_path / "a.npz", tokens=np.ones((1, 3), np.int64))
    with pytest.raises(BadInput, match="nothing for input 'x'"):
        open_samples(str(tmp_path), [TOKENS, X])


def test_samples_npz_with_unequal_stacks_is_refused(tmp_path: Path) -> None:
    """Which sample belongs to which cannot be guessed."""
    np.savez(tmp_path / "a.npz", x=_values(3), tokens=np.ones((2, 1, 3), np.int64))
    with pytest.raises(BadInput, match="'tokens' 2, 'x' 3"):
        open_samples(str(tmp_path), [X, TOKENS])


def test_samples_npy_for_several_inputs_is_refused(tmp_path: Path) -> None:
    """One array cannot say which input it is for."""
    np.save(tmp_path / "a.npy", _values(1))
    with pytest.raises(BadInput, match="2 inputs: x, tokens"):
        open_samples(str(tmp_path), [X, TOKENS])


def test_samples_of_unreadable_files_name_them(tmp_path: Path) -> None:
    """Garbage, a truncated file, a flipped bit and pickled objects are refused by name; nothing is unpickled."""
    whole = tmp_path / "whole.npz"
    np.savez(whole, x=_values(50))
    flipped = bytearray(whole.read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    np.save(tmp_path / "whole.npy", _values(50))
    files = {
        "garbage.npz": b"no zip",
        "garbage.npy": b"no array",
        "empty.npy": b"",
        "short.npz": whole.read_bytes()[:300],
        "short.npy": (tmp_path / "whole.npy").read_bytes()[:300],
        "flipped.npz": bytes(flipped),
        "renamed.npz": (tmp_path / "whole.npy").read_bytes(),
        "renamed.npy": whole.read_bytes(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    np.save(tmp_path / "objects.npy", np.array([{"x": 1}], object), allow_pickle=True)
    for name in (*files, "objects.npy"):
        with pytest.raises(BadInput, match=name.replace(".", r"\.")):
            open_samples(str(tmp_path / name), [X])


@pytest.mark.parametrize("name", damaged_files())
def test_samples_of_a_damaged_file_are_bad_input(tmp_path: Path, name: str) -> None:
    """Forged headers, encryption, unknown methods and impossible sizes are refused by name."""
    with pytest.raises(BadInput, match=name):
        open_samples(str(write_damaged(tmp_path, name)), [X])


def test_samples_folder_without_usable_file_says_what_would_be_one(tmp_path: Path) -> None:
    """An empty folder and one with other files both tell which endings count."""
    for expected in ("no entry", "1 entries"):
        with pytest.raises(BadInput, match=expected) as caught:
            open_samples(str(tmp_path), [X])
        assert all(suffix in caught.value.remedy for suffix in (".npz", ".npy", ".png", ".jpg"))
        (tmp_path / "readme.md").write_text("nothing here")


def test_samples_pictures_for_a_model_without_a_picture_input_are_refused(tmp_path: Path) -> None:
    """A picture needs one input that looks like one."""
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png")
    with pytest.raises(BadInput, match=r"no input of the model looks like one: 'x' float32 \[1, 4\]"):
        open_samples(str(tmp_path), [X])
    twice = [PICTURE, TensorSpec("mask", "float32", (1, 1, 8, 8))]
    with pytest.raises(BadInput, match="more than one input"):
        open_samples(str(tmp_path), twice)
    with pytest.raises(BadInput, match="nothing for input 'x'"):
        open_samples(str(tmp_path), [PICTURE, X])


def test_samples_pictures_for_a_free_size_name_the_dimension_and_the_flag(tmp_path: Path) -> None:
    """Without a height and a width there is nothing to resize to."""
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png")
    with pytest.raises(BadInput, match=r"input 'image'.*dimension 3 \(width, 'w'\)") as caught:
        open_samples(str(tmp_path), [TensorSpec("image", "float32", (1, 3, 48, "w"))])
    assert "--shape" in caught.value.remedy


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("absent", "no file or folder 'absent'"),
        ("absent_module:batches", "'absent_module' cannot be imported"),
        ("calib_bad:batchs", "no function 'batchs'"),
        ("calib_bad:empty", "gives no samples"),
        ("calib_bad:lists", "is list, a dict"),
        ("model.onnx", "not a kind of file"),
    ],
)
def test_samples_of_a_wrong_specification_say_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, named: str
) -> None:
    """A path, module or function that gives nothing is named, with a remedy."""
    (tmp_path / "model.onnx").write_text("")
    (tmp_path / "calib_bad.py").write_text(
        "def batches(): return []\ndef empty(): return iter(())\ndef lists(): return [[1, 2]]\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as caught:
        open_samples(spec, [X])
    assert named in caught.value.message
    assert caught.value.remedy


def test_samples_for_objects_or_nothing_are_refused() -> None:
    """A model without inputs, inputs of objects, random text and a limit of none cannot be calibrated."""
    with pytest.raises(BadInput, match="takes no input"):
        open_samples("random", [])
    with pytest.raises(BadInput, match="takes object"):
        open_samples("random", [TensorSpec("data", "object", (1,))])
    with pytest.raises(BadInput, match="takes text, and random text"):
        open_samples("random", [WORDS])
    with pytest.raises(BadInput, match="takes bfloat17"):
        open_samples("random", [TensorSpec("x", "bfloat17", (1,))])
    with pytest.raises(UsageError):
        open_samples("random", [X], limit=0)


_BROKEN = """
import sys
import numpy as np

def raises(): raise RuntimeError("boom")
def leaves(): sys.exit(3)
def nothing(): return None
def needs(argument): return []
def ragged(): return [{"x": [[1.0, 2.0], [3.0]]}]
def late():
    yield {"x": np.ones((1, 4), "f")}
    raise OSError("disk")
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("raises", "'broken_calibration:raises' raised RuntimeError: boom"),
        ("leaves", "'broken_calibration:leaves' raised SystemExit: 3"),
        ("nothing", "raised TypeError: 'NoneType' object is not iterable"),
        ("needs", "raised TypeError: .*argument"),
        ("ragged", "sample 0 of 'broken_calibration:ragged' raised ValueError"),
        ("late", "sample 1 of 'broken_calibration:late' raised OSError: disk"),
    ],
)
def test_samples_of_a_callable_that_fails_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    """Whatever the user's function does, the answer names it, the sample and the exception, and keeps the cause."""
    (tmp_path / "broken_calibration.py").write_text(_BROKEN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=told) as caught:
        open_samples(f"broken_calibration:{name}", [X])
    assert caught.value.remedy
    assert caught.value.__cause__ is not None


def test_samples_of_a_module_that_exits_on_import_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module without a main guard does not end the converter with success."""
    (tmp_path / "leaves_on_import.py").write_text("raise SystemExit(0)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="cannot be imported: SystemExit"):
        open_samples("leaves_on_import:samples", [X])


@pytest.mark.parametrize("later", [[], [0.0, 1.0], [0.0, 2.0, 2.0], [0.0, 1.0, 2.0, 3.0]])
def test_samples_of_a_callable_that_changes_its_mind_are_refused(later: list[float]) -> None:
    """Ranges of one set and parity of another would mean nothing: the later pass must be the first one again."""
    passes = iter([[0.0, 1.0, 2.0], later])
    samples = open_samples(lambda: [{"x": np.full((1, 4), value)} for value in next(passes)], [X])
    with pytest.raises(BadInput, match="gave other samples the second time"):
        list(samples)


def test_samples_of_text_arrays_are_text(tmp_path: Path) -> None:
    """Words come as text from files and callables alike, with one digest however numpy holds them."""
    words = [["Rome"], ["São Paulo"], ["Rome"]]
    np.savez(tmp_path / "words.npz", word=np.array(words)[:, None])
    from_file = open_samples(str(tmp_path / "words.npz"), [WORDS])
    samples = list(from_file)
    assert [sample["word"].tolist() for sample in samples] == [[word] for word in words]
    assert {sample["word"].dtype.kind for sample in samples} == {"U"}
    objects = open_samples(lambda: [{"word": np.array([word], object)} for word in words], [WORDS])
    assert objects.digest == from_file.digest
    assert objects.digest != open_samples(lambda: [{"word": np.array([word])} for word in words[:2]], [WORDS]).digest
    assert len(list(objects)) == 3


@pytest.mark.parametrize(
    ("array", "spec", "told"),
    [
        (np.array([[1.0]]), WORDS, "takes str, the array is float64"),
        (np.array([["1"]]), TensorSpec("word", "float32", (1, 1)), "takes float32, the array is str"),
        (np.array([[b"1"]]), WORDS, "takes str, the array is bytes"),
        (np.array([[None]], object), WORDS, "objects that are not text"),
        (np.array(["one"]), WORDS, r"takes shape \[N, 1\]"),
    ],
)
def test_samples_of_text_where_numbers_belong_are_refused(array: np.ndarray, spec: TensorSpec, told: str) -> None:
    """Numbers are no text and text is no number; nothing is converted in silence."""
    with pytest.raises(BadInput, match=told):
        open_samples(lambda: [{"word": array}], [spec])


def test_samples_with_missing_values_pass_where_nan_means_that() -> None:
    """NaN is refused unless it stands for a missing value; infinity always is."""
    missing = [{"x": np.array([[1.0, np.nan, 2.0, 3.0]], np.float32)}]
    with pytest.raises(BadInput, match="NaN or infinite as float32"):
        open_samples(lambda: missing, [X])
    (sample,) = open_samples(lambda: missing, [X], missing=True)
    np.testing.assert_array_equal(sample["x"], missing[0]["x"])
    with pytest.raises(BadInput, match="the first is inf"):
        open_samples(lambda: [{"x": np.array([[1.0, np.nan, np.inf, 3.0]])}], [X], missing=True)


def _takes_text() -> Preparer:
    return open_preparer(Task("classification", "y"), [WORDS], Path)


def _takes_sound(spec: TensorSpec) -> Preparer:
    return open_preparer(Task("audio-classification", "y", audio=AudioSpec(spec.name, "waveform", 8000)), [spec], Path)


def _write_wave(path: Path, values: list[int]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.array(values, "<i2").tobytes())


def test_samples_of_a_text_file_are_its_lines(tmp_path: Path) -> None:
    """Each line that is not empty is a sample, in order, and a limit counts lines."""
    file = tmp_path / "lines.txt"
    file.write_text("\ufefffirst line\n\n  Zweite Zeile: ß \r\nlast", encoding="utf-8")
    samples = open_samples(str(file), [WORDS], preparer=_takes_text())
    expected = ["first line", "Zweite Zeile: ß", "last"]
    for _ in range(2):
        assert [sample["word"].tolist() for sample in samples] == [[[line]] for line in expected]
    assert (samples.kind, samples.count) == ("file", 3)
    assert open_samples(str(file), [WORDS], preparer=_takes_text(), limit=2).count == 2
    file.write_text("\n \n")
    with pytest.raises(BadInput, match="gives no samples"):
        open_samples(str(file), [WORDS], preparer=_takes_text())


def test_samples_of_a_text_file_that_is_not_utf8_name_it(tmp_path: Path) -> None:
    """Bytes of another encoding are refused, not guessed."""
    (tmp_path / "latin.txt").write_bytes("Zürich".encode("latin-1"))
    with pytest.raises(BadInput, match=r"latin\.txt' is not text in UTF-8"):
        open_samples(str(tmp_path / "latin.txt"), [WORDS], preparer=_takes_text())


def test_samples_of_a_folder_hold_texts_and_sounds(tmp_path: Path) -> None:
    """What the model's task can prepare is read beside arrays; a folder's other files are passed over."""
    (tmp_path / "b.txt").write_text("one\ntwo\n")
    np.savez(tmp_path / "a.npz", word=np.array([["zero"]]))
    (tmp_path / "c.wav").write_bytes(b"no sound, and not asked for")
    texts = open_samples(str(tmp_path), [WORDS], preparer=_takes_text())
    assert [sample["word"].item() for sample in texts] == ["zero", "one", "two"]
    spec = TensorSpec("wave", "float32", (1, "T"))
    _write_wave(tmp_path / "c.wav", [0, 16384, -16384])
    _write_wave(tmp_path / "d.wav", [8192])
    (tmp_path / "a.npz").unlink()
    sounds = open_samples(str(tmp_path), [spec], preparer=_takes_sound(spec))
    assert [sample["wave"].tolist() for sample in sounds] == [[[0.0, 0.5, -0.5]], [[0.25]]]


@pytest.mark.parametrize("name", ["lines.txt", "clip.wav", "clip.FLAC"])
def test_samples_of_text_or_sound_without_rules_say_why_not(tmp_path: Path, name: str) -> None:
    """A file or folder of texts or sounds is no use where the model does not say what becomes of them."""
    (tmp_path / name).write_bytes(b"hello")
    spec = TensorSpec("wave", "float32", (1, "T"))
    preparer = _takes_sound(spec) if name.endswith("txt") else _takes_text()
    for asked in (str(tmp_path / name), str(tmp_path)):
        for rules in (None, preparer):
            with pytest.raises(
                BadInput, match=r"the model does not say how a (text|sound) becomes its inputs"
            ) as caught:
                open_samples(asked, [spec], preparer=rules)
            assert name in caught.value.message
            assert caught.value.remedy
