"""Class names that a user gives with --classes."""

import json
from pathlib import Path

import pytest

from converters.classes import with_classes
from converters.sources.imported import Imported
from edgert.errors import BadInput


@pytest.mark.parametrize("text", ['["a", "b", "c", "d"]', "a\nb\n\n c \nd\n"])
def test_with_classes_list_or_lines_become_the_task_and_a_file(tiny_model: Path, tmp_path: Path, text: str) -> None:
    """A JSON list and a text file with one name per line mean the same."""
    file = tmp_path / "classes"
    file.write_text(text)
    found = with_classes(Imported("onnx", tiny_model, ""), file, tmp_path)
    assert found.task is not None
    assert (found.task.kind, found.task.output, found.task.labels) == ("classification", "y", "labels.json")
    assert json.loads(found.files["labels.json"].read_text()) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1, 2, 3, 4]", '["a", "b"]', "a\nb\nc"])
def test_with_classes_that_do_not_fit_are_refused(tiny_model: Path, tmp_path: Path, text: str) -> None:
    """What is no list of names, or is not as long as an output, is an error and not a wrong label later."""
    file = tmp_path / "classes"
    file.write_text(text)
    with pytest.raises(BadInput):
        with_classes(Imported("onnx", tiny_model, ""), file, tmp_path)
