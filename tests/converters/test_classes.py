"""Class names that a user gives with --classes."""

import json
from pathlib import Path

import pytest

from converters.classes import with_classes
from converters.sources.imported import Imported
from edgert.errors import BadInput
from edgert.manifest import TensorSpec
from edgert.task import Task
from tests.runtime.task_files import Net, node, save_net


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


@pytest.mark.parametrize("text", ['["a", "b"]', "a\nb\nc\nd\ne"])
def test_with_classes_of_another_number_than_the_declared_output_are_refused(
    tiny_model: Path, tmp_path: Path, text: str
) -> None:
    """Names that a task of the source cannot use are refused by the output's name, too few and too many alike."""
    file = tmp_path / "classes"
    file.write_text(text)
    declared = Imported("onnx", tiny_model, "", task=Task("classification", "y", scores="softmax"))
    with pytest.raises(BadInput, match="output 'y' has 4"):
        with_classes(declared, file, tmp_path)


def test_with_classes_of_a_declared_task_keep_the_rest_of_it(tiny_model: Path, tmp_path: Path) -> None:
    """Only the names are new: what the source said of the scores stays."""
    file = tmp_path / "classes"
    file.write_text("a\nb\nc\nd")
    declared = Task("text-classification", "y", scores="sigmoid")
    found = with_classes(Imported("onnx", tiny_model, "", task=declared), file, tmp_path)
    assert found.task == Task("text-classification", "y", "labels.json", "sigmoid")


def test_with_classes_of_one_declared_probability_are_two(tmp_path: Path) -> None:
    """A binary model gives the probability of its second class, and has two names."""
    specs = [TensorSpec(name, "float32", ("batch", 1)) for name in "xy"]
    model = save_net(Net([node("Sigmoid", "x", "y")], specs[:1], specs[1:], {}, {}), tmp_path / "binary.onnx")
    file = tmp_path / "classes"
    file.write_text("no\nyes")
    found = with_classes(Imported("onnx", model, "", task=Task("classification", "y")), file, tmp_path)
    assert found.task is not None
    assert found.task.labels == "labels.json"


def test_with_classes_of_a_net_that_ends_in_pooling_count_its_channels(tmp_path: Path) -> None:
    """The axes of one behind [rows, 3, 1, 1] are no classes."""
    shapes = {"x": (1, 3, 4, 4), "y": (1, 3, 1, 1)}
    specs = [TensorSpec(name, "float32", shape) for name, shape in shapes.items()]
    model = save_net(Net([node("GlobalAveragePool", "x", "y")], specs[:1], specs[1:], {}, {}), tmp_path / "pool.onnx")
    file = tmp_path / "classes"
    file.write_text("red\ngreen\nblue")
    found = with_classes(Imported("onnx", model, ""), file, tmp_path)
    assert found.task == Task("image-classification", "y", "labels.json", "softmax")
