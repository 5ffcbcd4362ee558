"""The list of passes: what one of them breaks is taken back, and the rest of them still run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from converters.graphs import REVERTED, SPEED, float_graph, normalised
from converters.passes.fold_affine import fold_affine
from converters.passes.result import PassResult
from edgert.profile import DeviceProfile
from tests.converters.passes.graphs import CPU, feeds, ops, proto, run, weight

NET = "g (float[1,3,8,8] x) => (float[1,4,8,8] y) { c = Conv(x, w)  m = Mul(c, s)  y = Relu(m) }"


def saved(folder: Path) -> Path:
    """A Conv with a scale behind it."""
    path = folder / "model.onnx"
    onnx.save(proto(NET, w=weight(4, 3, 1, 1), s=weight(4, 1, 1)), path)
    return path


def stumbles(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Take a node away, then fail."""
    del profile
    model.graph.remove(model.graph.node(-1))
    raise ValueError("cannot go on\nwith details")


def leaves_a_gap(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Remove what makes a value that is still used."""
    del profile
    model.graph.remove(model.graph.node(0))
    return PassResult(1)


def renames(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Give the output another name."""
    del profile
    model.graph.outputs[0].name = "z"
    return PassResult(1)


def doubles(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Change the numbers and nothing else."""
    del profile
    scale = model.graph.initializers["s"]
    scale.const_value = ir.tensor(2 * scale.const_value.numpy(), name="s")
    return PassResult(1)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (stumbles, "ValueError: cannot go on"),
        (leaves_a_gap, "BadInput"),
        (renames, "AssertionError: renames changed the names"),
    ],
)
def test_pass_that_fails_is_taken_back_and_the_others_run(broken, reason, tmp_path):
    """The graph is that of before the pass, later passes change it, and the step says what happened."""
    graph = float_graph(normalised(saved(tmp_path), CPU, {}), CPU, passes=(broken, fold_affine))
    assert ops(graph.model) == {"Conv": 1, "Relu": 1}
    step = next(step for step in graph.steps if step.name == broken.__name__)
    assert step.changes == 0
    assert step.declined[0].startswith(f"graph: {REVERTED}, {reason}")
    assert "details" not in step.declined[0]


def agreement(original: Path, asked: list[ir.Model]) -> Callable[[ir.Model], bool]:
    """Return a function that compares a model with the original on one input, and notes that it was asked."""
    reference = ir.load(original)
    inputs = feeds(reference)
    expected = run(reference, inputs)[0]

    def agrees(model: ir.Model) -> bool:
        asked.append(model)
        return bool(np.allclose(run(model, inputs)[0], expected, atol=1e-5))

    return agrees


def test_pass_that_changes_the_numbers_is_found_and_taken_back(tmp_path):
    """The passes before and after it stay, and the model computes what the original does."""
    path, asked = saved(tmp_path), list[ir.Model]()
    graph = float_graph(normalised(path, CPU, {}), CPU, passes=(doubles, fold_affine), agrees=agreement(path, asked))
    assert ops(graph.model) == {"Conv": 1, "Relu": 1}
    assert graph.changes()["doubles"] == 0
    assert graph.changes()["fold_affine"] == 1
    assert agreement(path, [])(graph.model)
    assert "changed what the model computes" in graph.steps[-2].declined[0]


def test_passes_that_keep_the_numbers_are_asked_once(tmp_path):
    """A comparison costs a session: it is not made after each pass where there is nothing to find."""
    path, asked = saved(tmp_path), list[ir.Model]()
    float_graph(normalised(path, CPU, {}), CPU, agrees=agreement(path, asked))
    assert len(asked) == 1


@pytest.mark.parametrize("model_id", ["ppocr-cls", "basic-pitch", "silero-vad", "magika"])
def test_no_pass_is_taken_back_on_a_real_model(model_id, model_path):
    """What a pass cannot do it declines: to fail is no part of it."""
    graph = float_graph(normalised(model_path(model_id), CPU, {}), CPU)
    assert not [reason for step in graph.steps for reason in step.declined if REVERTED in reason]
    assert {step.name for step in graph.steps} > {one.__name__ for one in SPEED}
