"""From the model file to the float graph of one class of processor: the literal lists of passes, a check after each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from converters.passes.affine_as_conv import affine_as_conv
from converters.passes.check import check_model
from converters.passes.fold_affine import fold_affine
from converters.passes.fold_constants import fold_constants
from converters.passes.fuse_activations import fuse_activations
from converters.passes.fuse_layer_norm import fuse_layer_norm
from converters.passes.fuse_softmax import fuse_softmax
from converters.passes.infer_shapes import infer_shapes
from converters.passes.lift_constants import lift_constants
from converters.passes.prelu_as_conv import prelu_as_conv
from converters.passes.raise_opset import raise_opset
from converters.passes.remove_no_ops import remove_no_ops
from converters.passes.result import PassResult
from converters.passes.set_shapes import set_input_shapes, unresolved
from converters.sources import onnx_file
from edgert.profile import DeviceProfile

Pass = Callable[[ir.Model, DeviceProfile], PassResult]

NORMALISE: tuple[Pass, ...] = (lift_constants, raise_opset, lift_constants)
"""What every model goes through before its input shapes are set; the version adapters leave new constants behind."""

SPEED: tuple[Pass, ...] = (
    infer_shapes,
    fold_constants,
    remove_no_ops,
    fuse_activations,
    fuse_softmax,
    fold_affine,
    affine_as_conv,
    fuse_layer_norm,
    prelu_as_conv,
    remove_no_ops,
    fold_constants,
    infer_shapes,
)
"""What makes it fast without changing what it computes; a layer norm may leave Transposes that meet others."""


@dataclass(frozen=True)
class Step:
    """One pass that was run, how many changes it made, and where it declined and why."""

    name: str
    changes: int
    declined: tuple[str, ...]


@dataclass(frozen=True)
class FloatGraph:
    """A float model ready for one class of processor, what the passes did to it, and its input dimensions left free."""

    model: ir.Model
    steps: tuple[Step, ...]
    free_dimensions: tuple[tuple[str, int, str | None], ...]

    def changes(self) -> dict[str, int]:
        """Return pass name -> changes, summed over its runs, for the recipe."""
        totals: dict[str, int] = {}
        for step in self.steps:
            totals[step.name] = totals.get(step.name, 0) + step.changes
        return totals


def float_graph(
    path: Path, profile: DeviceProfile, shapes: Mapping[str, tuple[int, ...]], *, speed: bool = True
) -> FloatGraph:
    """Load the model at `path` and run the passes for `profile` on it, with the given input shapes fixed.

    `speed=False` runs no pass at all: the graph stays as it came, with its opset and its weights where they were.
    Raises BadInput for a model that cannot be normalised or shapes that contradict it.
    """
    model = onnx_file.read_model(path)
    steps = [_run(one, model, profile) for one in (NORMALISE if speed else ())]
    given = set_input_shapes(model, shapes)
    check_model(model)
    steps.append(Step("set_input_shapes", given.changes, given.declined))
    steps += [_run(one, model, profile) for one in (SPEED if speed else ())]
    return FloatGraph(model, tuple(steps), tuple(unresolved(model)))


def _run(one: Pass, model: ir.Model, profile: DeviceProfile) -> Step:
    before = _interface(model)
    result = one(model, profile)
    check_model(model)
    assert _interface(model) == before, f"{one.__name__} changed the names of the inputs or outputs"
    return Step(one.__name__, result.changes, result.declined)


def _interface(model: ir.Model) -> tuple[list[str | None], list[str | None]]:
    """Return the names, in order, of the inputs that a caller gives and of the outputs."""
    graph = model.graph
    return [value.name for value in graph.inputs if not value.is_initializer()], [v.name for v in graph.outputs]
