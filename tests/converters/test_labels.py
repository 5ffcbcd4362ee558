"""Files of right answers: two forms, where their files are, and everything that can be wrong with them."""

import hashlib
import json
from pathlib import Path

import pytest

from converters.verify.labels import read_labels
from edgert.errors import BadInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three pictures, and one more in the folder of calibration."""
    for place in ("one.png", "two.png", "a, b.png", "calibration/three.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    return tmp_path


def labels_in(folder: Path, text: str | bytes) -> list[tuple[str, str | int]]:
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_labels(path, str(folder / "calibration"))
    return [(entry.path.name, entry.label) for entry in found.entries]


@pytest.mark.parametrize("header", ["", "file,label\n", "\ufefffile,label\r\n"])
def test_labels_of_csv(folder: Path, header: str) -> None:
    """Lines of file,label with or without the header; quotes hold commas, blank lines are nothing."""
    text = f'{header}one.png,cat\n\n"a, b.png", "big, red"\ntwo.png,7\n'
    assert labels_in(folder, text) == [("one.png", "cat"), ("a, b.png", "big, red"), ("two.png", "7")]


def test_labels_of_json_keep_whole_numbers(folder: Path) -> None:
    """A number is the index of a class, a text its name."""
    text = json.dumps({"one.png": 3, "two.png": "3"})
    assert labels_in(folder, text) == [("one.png", 3), ("two.png", "3")]


def test_labels_files_are_beside_the_list_else_in_the_calibration(folder: Path) -> None:
    """The folder of the list goes first; `files` are resolved, and the digest is that of the bytes."""
    (folder / "calibration" / "one.png").touch()
    path = folder / "labels.csv"
    path.write_text("one.png,1\nthree.png,2\n", encoding="utf-8")
    found = read_labels(path, str(folder / "calibration"))
    assert found.files == {(folder / "one.png").resolve(), (folder / "calibration" / "three.png").resolve()}
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no labels"),
        ("{}", "no labels"),
        ("file,label\n", "no labels"),
        ("one.png\n", "line 1 has 1 cells"),
        ("one.png,1\ntwo.png,a,b\n", "line 2 has 3 cells"),
        ("one.png,1\none.png,2\n", "line 2: 'one.png' has a label already"),
        ('{"one.png": 1, "one.png": 2}', "has a label already"),
        ("on.png,1\ngone.png,2\n", "line 1: there is no file 'on.png'.*1 more files"),
        ('{"one.png": 1.5}', "neither a text nor a whole number"),
        ('{"one.png": true}', "neither a text nor a whole number"),
        ('{"one.png": 1', "is none"),
        ('one.png,"cat\n', "is no CSV"),
        (b"one.png,\xff\n", "not text in UTF-8"),
        (",1\n", "there is no file ''"),
        ("a\0b.png,1\n", "no file|no CSV"),
    ],
)
def test_labels_that_cannot_be_used_are_told_with_the_place(folder: Path, text: str | bytes, said: str) -> None:
    """Each error names the file of labels, and the line where there is one."""
    with pytest.raises(BadInput, match=said) as caught:
        labels_in(folder, text)
    assert "labels.csv" in caught.value.message
    assert caught.value.remedy


def test_labels_of_a_misspelt_file_name_the_nearest(folder: Path) -> None:
    """The remedy is the file that was meant."""
    with pytest.raises(BadInput) as caught:
        labels_in(folder, "thre.png,1\n")
    assert "'three.png'" in caught.value.remedy


def test_labels_that_are_not_there_are_bad_input(folder: Path) -> None:
    """A path of --labels that does not exist."""
    with pytest.raises(BadInput, match="cannot be read"):
        read_labels(folder / "gone.csv")
