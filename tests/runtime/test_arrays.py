"""Array files are read without trust: what is no array is BadInput that names the file, and costs no memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edgert.errors import BadInput
from edgert.runtime.arrays import read_npy, read_npz, storable
from tests.runtime.damaged import damaged_files, write_damaged


@pytest.mark.parametrize("name", damaged_files())
@pytest.mark.parametrize("mapped", [False, True])
def test_read_of_a_damaged_file_is_bad_input(tmp_path: Path, name: str, mapped: bool) -> None:
    """Each is refused by name, with a reason and a remedy, and before memory is taken for what it claims."""
    path = write_damaged(tmp_path, name)
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match=rf"{name}' cannot be read as {path.suffix}: .") as caught:
            read_npy(path, mapped=mapped) if path.suffix == ".npy" else read_npz(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.remedy


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3).T, np.zeros((0, 3)), np.array(7), np.array(["a", "é"])])
def test_read_of_a_good_file_gives_the_array(tmp_path: Path, array: np.ndarray) -> None:
    """Any order, no element, no axis, text; stored and compressed."""
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", x=array, y=array)
    np.savez_compressed(tmp_path / "b.npz", x=np.zeros(1_000_000))
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), array)
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz")["y"], array)
    assert list(read_npz(tmp_path / "a.npz", ["y"])) == ["y"]
    assert read_npz(tmp_path / "b.npz")["x"].shape == (1_000_000,)


def test_read_of_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    """A wrong path is told from a wrong file, and a folder from both."""
    for read in (read_npy, read_npz):
        with pytest.raises(BadInput, match="there is no file"):
            read(tmp_path / "none.npy")
        with pytest.raises(BadInput, match="cannot be read"):
            read(tmp_path)


def test_read_npz_without_an_array_that_is_asked_for_names_it(tmp_path: Path) -> None:
    """The array that is missing is named."""
    np.savez(tmp_path / "a.npz", x=np.ones(1))
    with pytest.raises(BadInput, match="there is no array 'y'"):
        read_npz(tmp_path / "a.npz", ["y"])


def test_storable_makes_text_of_python_strings() -> None:
    """Strings of kind `O`, which ONNX Runtime gives, become `U`; other objects are refused by name."""
    assert storable(np.array(["a", "bcd"], dtype=object), "x").dtype == np.dtype("<U3")
    assert storable(np.array([], dtype=object), "x").dtype.kind == "U"
    with pytest.raises(BadInput, match="'x' holds objects"):
        storable(np.array([{}]), "x")
