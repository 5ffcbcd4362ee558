"""Golden vectors pass a faithful session and fail one that is wrong in any way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgert.bundle import Bundle, open_bundle
from edgert.errors import EdgertError, VerificationFailed
from edgert.manifest import Placement
from edgert.runtime.golden import GoldenVector, check_golden, compare, cosine, load_golden, write_golden
from edgert.runtime.session import Session
from tests.runtime.damaged import damaged_files
from tests.runtime.small_models import CPU, write_conv_bundle

Array = np.ndarray[Any, Any]
ON_CPU = Placement("fp32", "CPUExecutionProvider", "cpu")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Return the opened bundle of the convolution net, which has two golden vectors."""
    return open_bundle(write_conv_bundle(tmp_path, [ON_CPU]))


class Replay:
    """A runner that answers with the golden outputs, changed by `change`."""

    def __init__(self, bundle: Bundle, change: Any) -> None:
        self._answers = iter([vector.outputs["y"] for vector in load_golden(bundle)])
        self._change = change

    def run(self, feeds: Mapping[str, Array], /) -> dict[str, Array]:
        """Answer with the next golden output."""
        result: dict[str, Array] = self._change(next(self._answers))
        return result


def test_check_golden_with_the_same_model_passes(bundle: Bundle) -> None:
    """The model that made the vectors reproduces them all with cosine 1."""
    with Session.open(bundle.file("fp32.onnx"), CPU, threads=1) as session:
        result = check_golden(session, bundle, "fp32")
    assert (result.passed, result.checked, result.failure) == (True, 2, "")
    assert result.cosine["y"] == pytest.approx(1.0)


def test_check_golden_with_a_limit_checks_that_many(bundle: Bundle) -> None:
    """`limit` bounds the number of runs."""
    with Session.open(bundle.file("fp32.onnx"), CPU, threads=1) as session:
        assert check_golden(session, bundle, "fp32", limit=1).checked == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: {"y": -y}, "cosine -1.0000"),
        (lambda y: {"y": y * 0}, "cosine 0.0000"),
        (lambda y: {"y": y[:, :4]}, "shape"),
        (lambda y: {"y": np.where(y == y.max(), np.nan, y)}, "not finite"),
        (lambda y: {"y": y * np.inf}, "not finite"),
        (lambda y: {"z": y}, "no output 'y'"),
    ],
)
def test_check_golden_with_wrong_outputs_fails(bundle: Bundle, change: Any, words: str) -> None:
    """A wrong sign, zeros, a wrong shape, a NaN, infinities and a missing output all fail, each with its reason."""
    result = check_golden(Replay(bundle, change), bundle, "fp32")
    assert not result.passed
    assert words in result.failure


def test_check_golden_with_a_session_that_raises_fails(bundle: Bundle) -> None:
    """An inference that fails is a failed check, not an exception."""

    class Broken:
        def run(self, feeds: Mapping[str, Array], /) -> dict[str, Array]:
            raise EdgertError("the device is gone")

    assert "the device is gone" in check_golden(Broken(), bundle, "fp32").failure


def test_check_golden_of_a_variant_without_a_limit_fails(bundle: Bundle) -> None:
    """A variant for which the manifest gives no least cosine does not pass unchecked."""
    with Session.open(bundle.file("fp32.onnx"), CPU, threads=1) as session:
        assert "no least cosine" in check_golden(session, bundle, "other").failure


def test_write_golden_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """The file depends on the vectors alone, names with dots and slashes included."""
    vectors = [GoldenVector({"in/a.b": np.arange(3)}, {"out.c": np.ones((2, 2))})]
    write_golden(tmp_path / "a.npz", vectors)
    write_golden(tmp_path / "b.npz", vectors)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays.files == ["0.input.in/a.b", "0.output.out.c"]


def test_load_golden_with_too_few_vectors_is_refused(bundle: Bundle) -> None:
    """A file that holds fewer vectors than the manifest counts is refused."""
    write_golden(bundle.folder / "golden.npz", load_golden(bundle)[:1])
    with pytest.raises(VerificationFailed, match="2 golden vectors"):
        load_golden(bundle)


def test_load_golden_with_a_pickle_is_refused(bundle: Bundle) -> None:
    """An array of Python objects, which would run code on loading, is refused."""
    with (bundle.folder / "golden.npz").open("wb") as file:
        np.savez(file, **{"0.input.x": np.array([{}]), "0.output.y": np.array([{}])})
    with pytest.raises(VerificationFailed, match=r"golden\.npz"):
        load_golden(bundle)


@pytest.mark.parametrize("name", [name for name in damaged_files() if name.endswith(".npz")])
def test_load_golden_of_a_damaged_file_is_refused(bundle: Bundle, name: str) -> None:
    """The file was listed, so a bundle whose golden vectors cannot be read is not what its manifest says."""
    (bundle.folder / "golden.npz").write_bytes(damaged_files()[name])
    with pytest.raises(VerificationFailed, match=r"golden\.npz does not hold") as caught:
        load_golden(bundle)
    assert caught.value.remedy


@pytest.mark.parametrize("array", [np.zeros(2, "M8[s]"), np.array([b"\xff"]), np.zeros(1, [("a", "f4")])])
def test_load_golden_of_what_is_no_tensor_is_refused(bundle: Bundle, array: Array) -> None:
    """Dates, bytes and records are nothing that a model takes or gives."""
    write_golden(bundle.folder / "golden.npz", [GoldenVector({"x": array}, {"y": array})] * 2)
    with pytest.raises(VerificationFailed, match=r"'0\.input\.x' is"):
        load_golden(bundle)


def test_write_golden_of_python_strings_stores_text(tmp_path: Path) -> None:
    """The strings that ONNX Runtime gives (kind `O`) are stored without a pickle."""
    write_golden(tmp_path / "a.npz", [GoldenVector({}, {"y": np.array(["a", "bc"], dtype=object)})])
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays["0.output.y"].tolist() == ["a", "bc"]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([0.0, 0.0], [0.0, 0.0], 1.0),
        ([0.0, 0.0], [1.0, 0.0], 0.0),
        ([1e300, 1e300], [1e-300, 1e-300], 1.0),
        ([1.0, 0.0], [0.0, 1.0], 0.0),
        ([], [], 1.0),
    ],
)
def test_cosine_at_the_edges_is_defined(left: list[float], right: list[float], expected: float) -> None:
    """Zeros, emptiness and extreme magnitudes have a cosine."""
    assert cosine(np.array(left), np.array(right)) == pytest.approx(expected)


def test_compare_accepts_infinities_where_the_original_has_them() -> None:
    """An original with infinities (masked scores) is matched by the same infinities, and only by those."""
    masked = np.array([1.0, -np.inf, 2.0])
    assert compare(masked, masked) == (pytest.approx(1.0), "")
    assert compare(np.array([1.0, 0.0, 2.0]), masked)[1]


@pytest.mark.parametrize(
    ("got", "expected", "value"),
    [
        (np.array(["a", "b"], object), np.array(["a", "b"]), 1.0),
        (np.array(["a", "b"]), np.array(["a", "longer"]), 0.5),
        (np.array([3, 4, 5, 7]), np.array([3, 4, 5, 6]), 0.75),
        (np.array([True]), np.array([False]), 0.0),
        (np.array([], np.int64), np.array([], np.int64), 1.0),
    ],
)
def test_compare_of_labels_is_the_share_of_equal_ones(got: Array, expected: Array, value: float) -> None:
    """Text, wide integers and bool name something: the next number is as wrong as any other."""
    assert compare(got, expected) == (value, "")


def test_check_golden_of_another_label_fails(bundle: Bundle) -> None:
    """A label that the original does not give is a failure that says what was measured."""
    words = GoldenVector({"x": np.zeros(1)}, {"y": np.array(["a", "b"])})
    write_golden(bundle.folder / "golden.npz", [words] * 2)
    assert check_golden(Replay(bundle, lambda y: {"y": y.astype(object)}), bundle, "fp32").passed
    result = check_golden(Replay(bundle, lambda y: {"y": np.array(["a", "x"], object)}), bundle, "fp32")
    assert not result.passed
    assert "output 'y' has equal labels 0.5000" in result.failure
