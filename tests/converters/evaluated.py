"""A small classifier with labelled files, and a workbench to score models on."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.bench import open_bench
from converters.job import Job
from converters.pipeline import convert_request
from converters.request import Conversion, Request
from converters.sources.imported import Imported
from converters.verify.evaluate import check_request
from edgert.errors import BadInput
from edgert.profile import load_profile

PROFILE = "raspberry-pi-5"
SCORED = 20


@dataclass(frozen=True)
class Files:
    """Samples 00.npz to 39.npz of a classifier; `labels` names those of odd number, of which one has a wrong label."""

    model: Path
    folder: Path
    labels: Path
    truth: Mapping[str, int]


def classifier_files(folder: Path) -> Files:
    """Write a classifier of four classes, x[1,8] -> y[1,4], samples that it is sure of, and labels for the odd ones."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(8, 4)).astype(np.float32)
    samples, truth = folder / "samples", {}
    samples.mkdir()
    for number in range(2 * SCORED):
        x = weight[:, number % 4][None] + random.normal(0, 0.1, (1, 8)).astype(np.float32)
        np.savez(samples / f"{number:02}.npz", x=x.astype(np.float32))
        if number % 2:
            truth[f"{number:02}.npz"] = int((x @ weight).argmax())
    truth["01.npz"] = (truth["01.npz"] + 1) % 4
    labels = samples / "labels.json"
    labels.write_text(json.dumps(truth), encoding="utf-8")
    return Files(save_classifier(weight, folder / "classifier.onnx"), samples, labels, truth)


def save_classifier(weight: np.ndarray, path: Path, output: str = "y") -> Path:
    """Save a MatMul with a softmax."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["h"], name="product"),
        helper.make_node("Softmax", ["h"], [output], name="softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, weight.shape[0]])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, weight.shape[1]])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def save_identity(shape: Sequence[int], path: Path) -> Path:
    """Save a model whose output y is its input x."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@contextmanager
def opened(imported: Imported | Path, output: Path, **asked: object) -> Iterator[Job]:
    """Open the workbench of a request for one profile, checked as the pipeline checks it."""
    found = imported if isinstance(imported, Imported) else Imported("onnx", imported, "0" * 64)
    request = Request(found.path, (PROFILE,), output, **asked)
    check_request(request)
    profile = load_profile(PROFILE)
    scratch = output / "scratch"
    scratch.mkdir(parents=True)
    with open_bench(request, found, scratch, [profile]) as shared:
        yield Job(shared, profile)


def refusal(imported: Imported | Path, output: Path, **asked: object) -> BadInput:
    """Return the error with which such a request is refused."""
    with pytest.raises(BadInput) as caught, opened(imported, output, **asked):
        pytest.fail("the request was not refused")
    return caught.value


def rolled(job: Job, by: int, every: int = 1) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return a model whose classes are shifted by so many places in each `every`th run."""
    calls = 0

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        nonlocal calls
        calls += 1
        outputs = job.shared.original.run(feeds)
        return outputs if calls % every else {name: np.roll(value, by, -1) for name, value in outputs.items()}

    return run


def converted(files: Files, output: Path, profiles: Sequence[str] = (PROFILE,), **asked: object) -> Conversion:
    """Convert the classifier."""
    request = Request(files.model, tuple(profiles), output, calibration=str(files.folder))
    return convert_request(replace(request, **asked))
