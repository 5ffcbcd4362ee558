"""From the model file to the float graph of one class of processor: the literal lists of passes, a check after each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from converters.passes.affine_as_conv import affine_as_conv
from converters.passes.channel_pad_as_conv import channel_pad_as_conv
from converters.passes.check import check_model
from converters.passes.conv_transpose_as_conv import conv_transpose_as_conv
from converters.passes.fold_affine import fold_affine
from converters.passes.fold_constants import fold_constants
from converters.passes.full_rank_operands import full_rank_operands
from converters.passes.fuse_activations import fuse_activations
from converters.passes.fuse_layer_norm import fuse_layer_norm
from converters.passes.fuse_softmax import fuse_softmax
from converters.passes.gate_with_residual import gate_with_residual
from converters.passes.infer_shapes import infer_shapes
from converters.passes.lift_constants import lift_constants
from converters.passes.one_hot_as_gather import one_hot_as_gather
from converters.passes.pack_outputs import pack_outputs
from converters.passes.pad_channels import pad_channels
from converters.passes.prelu_as_conv import prelu_as_conv
from converters.passes.raise_opset import raise_opset
from converters.passes.remove_no_ops import remove_no_ops
from converters.passes.result import PassResult
from converters.passes.set_shapes import set_input_shapes, unresolved
from converters.passes.transpose_into_conv import transpose_into_conv
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
    one_hot_as_gather,
    fuse_softmax,
    fold_affine,
    affine_as_conv,
    gate_with_residual,
    fuse_layer_norm,
    prelu_as_conv,
    channel_pad_as_conv,
    transpose_into_conv,
    conv_transpose_as_conv,
    pack_outputs,
    pad_channels,
    remove_no_ops,
    full_rank_operands,
    fold_constants,
    infer_shapes,
)
"""What makes it fast without changing what it computes; a layer norm may leave Transposes that meet others.

What only reshapes convolutions for ONNX Runtime's blocked layout comes after what folds into them."""

INTEGERS: tuple[Pass, ...] = tuple(one for one in SPEED if one is not pad_channels)
"""The same for integer candidates, whose convolutions need no whole blocks of channels."""

REVERTED = "taken back"
"""What `declined` says of a pass whose result was thrown away."""


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


def for_integers(profile: DeviceProfile) -> DeviceProfile:
    """Return the profile that the passes get where the graph is to be quantized for a CPU: one for every CPU.

    What they make convolutions of for the blocked layout of x86 is good for integers anywhere: a Conv has integer
    kernels where what it replaces has none, and its weights take the scales of equalisation. And one graph for all
    CPU profiles is calibrated and searched once.
    """
    return replace(profile, processor="cpu", arch="x86_64", isa=("avx512f",))


@dataclass(frozen=True)
class Normalised:
    """A model with its input shapes fixed, before the passes that depend on the processor, and what was done to it."""

    model: ir.Model
    steps: tuple[Step, ...]


def normalised(
    path: Path, profile: DeviceProfile, shapes: Mapping[str, tuple[int, ...]], *, speed: bool = True
) -> Normalised:
    """Load the model at `path`, in the profile's opset, with the given input shapes fixed.

    `speed=False` leaves the graph as it came, with its opset and its weights where they were.

    Raises BadInput for a model that cannot be normalised or shapes that contradict it.
    """
    model = onnx_file.read_model(path)
    steps = [_run(one, model, profile) for one in (NORMALISE if speed else ())]
    given = set_input_shapes(model, shapes)
    check_model(model)
    return Normalised(model, (*steps, Step("set_input_shapes", given.changes, given.declined)))


def float_graph(
    begin: Normalised,
    profile: DeviceProfile,
    *,
    passes: Sequence[Pass] = SPEED,
    agrees: Callable[[ir.Model], bool] | None = None,
) -> FloatGraph:
    """Run the passes for `profile` on a copy of a normalised model.

    `agrees` says whether a model still computes what the original does. It is asked once at the end; if it says no,
    the passes run again, and it is asked after each that changes something. A pass that fails, that leaves the graph
    inconsistent or that disagrees is taken back: its step has no changes and says why.
    """
    fast, more = _speed_up(begin.model, profile, passes)
    if agrees is not None and not agrees(fast):
        fast, more = _speed_up(begin.model, profile, passes, agrees)
    return FloatGraph(fast, (*begin.steps, *more), tuple(unresolved(fast)))


def _speed_up(
    model: ir.Model,
    profile: DeviceProfile,
    passes: Sequence[Pass],
    agrees: Callable[[ir.Model], bool] = lambda _: True,
) -> tuple[ir.Model, list[Step]]:
    """Run passes on copies of the model, which stays as it is; return the last copy in which nothing broke."""
    steps = list[Step]()
    for one in passes:
        copy = model.clone()
        step = _attempt(one, copy, profile)
        if step.changes and not agrees(copy):
            step = Step(one.__name__, 0, (f"graph: {REVERTED}, it changed what the model computes",))
        steps.append(step)
        model = copy if step.changes else model
    return model, steps


def _attempt(one: Pass, model: ir.Model, profile: DeviceProfile) -> Step:
    """Run a pass; where it fails, whatever the error, say so in a step without changes."""
    try:
        return _run(one, model, profile)
    except Exception as exc:  # noqa: BLE001  a library's optimiser may end in anything; the graph before it is whole
        said = next(iter(str(exc).splitlines()), "")
        return Step(one.__name__, 0, (f"graph: {REVERTED}, {type(exc).__name__}: {said}",))


def _run(one: Pass, model: ir.Model, profile: DeviceProfile) -> Step:
    before = _interface(model)
    result = one(model, profile)
    if result.changes:
        check_model(model)
    assert _interface(model) == before, f"{one.__name__} changed the names of the inputs or outputs"
    return Step(one.__name__, result.changes, result.declined)


def _interface(model: ir.Model) -> tuple[list[str | None], list[str | None]]:
    """Return the names, in order, of the inputs that a caller gives and of the outputs."""
    graph = model.graph
    return [value.name for value in graph.inputs if not value.is_initializer()], [v.name for v in graph.outputs]
