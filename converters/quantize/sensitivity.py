"""Which layers lose the accuracy: a float graph in which each encoding of a plan can be switched on at run time.

One session answers for any set of layers, where a model per layer would have to be built, loaded and warmed up. The
weights are quantized always; what the switches turn on is the rounding of activations. A few tensors make most of the
error, so whole groups are asked first and only those that cost something are split. What is done about a layer that
costs much is left to the candidates.
"""

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.quantize.affine import Affine, dequantize, quantize, quantize_weights
from converters.quantize.plan import Plan, constant_array, node_key, output_axis
from converters.variants import WeightsFile, write_variant
from edgert.runtime.providers import ProviderDevice
from edgert.runtime.session import Session

SWITCHES = "edgert_switches"
Array = NDArray[np.generic]


@dataclass(frozen=True)
class TensorError:
    """What rounding one tensor adds to the error of the outputs: measured alone, or at most its share of its group."""

    name: str
    error: float
    alone: bool


def rank_tensors(
    names: Sequence[str], error: Callable[[frozenset[str]], float], *, least: float, runs: int
) -> list[TensorError]:
    """Return all tensors, the one that costs most first, from at most about `runs` calls of `error`.

    `names` are in the order of the graph. `error` gives the error with these tensors rounded, 0 for none; a group that
    costs no more than `least` is not split, and its members share what it costs.
    """
    found: list[TensorError] = []
    groups = [(error(frozenset(names)), tuple(names))] if names else []
    left = runs - len(groups)
    while groups:
        groups.sort(key=lambda group: group[0])
        cost, group = groups.pop()
        if len(group) == 1 or cost <= least or left < 2:
            found += [TensorError(name, max(cost, 0.0) / len(group), len(group) == 1) for name in group]
            continue
        middle = len(group) // 2
        groups += [(error(frozenset(half)), half) for half in (group[:middle], group[middle:])]
        left -= 2
    order = {name: place for place, name in enumerate(names)}
    return sorted(found, key=lambda one: (-one.error, not one.alone, order[one.name]))


@dataclass(frozen=True)
class Switchboard:
    """An open session whose activations round where they are switched on; `names` are the tensors, in switch order.

    `path` is the graph with its weights and all encodings: equal files rank their tensors equally.
    """

    session: Session
    names: tuple[str, ...]
    path: Path

    def run(self, feeds: Mapping[str, Array], on: Collection[str]) -> dict[str, Array]:
        """Run one sample with the tensors `on` rounded, all others in float; names without a switch are ignored."""
        switches = np.array([name in on for name in self.names], np.bool_)
        return self.session.run({**feeds, SWITCHES: switches})


@contextmanager
def open_switchboard(
    model: ir.Model, plan: Plan, workdir: Path, device: ProviderDevice, threads: int = 0
) -> Iterator[Switchboard]:
    """Write the graph with switches for all activations of `plan` into `workdir` and open it on the CPU."""
    copy = model.clone()
    names = tuple(name for name in plan.activations)
    _quantize_constants(copy.graph, plan)
    _add_switches(copy.graph, plan, names)
    folder = Path(tempfile.mkdtemp(prefix="switches-", dir=workdir))
    path = write_variant(copy, "switches", WeightsFile(folder), folder)
    with Session.open(path, device, threads=threads, session_config={"session.disable_quant_qdq": "1"}) as session:
        yield Switchboard(session, names, path)


def _quantize_constants(graph: ir.Graph, plan: Plan) -> None:
    """Replace each constant by what its encoding makes of it; int32 biases are exact enough to stay."""
    nodes = {node_key(node): node for node in graph}
    done: dict[tuple[str, bytes, bytes], ir.Value] = {}
    for (key, index), affine in plan.constants.items():
        node = nodes.get(key)
        value = node.inputs[index] if node is not None else None
        array = constant_array(value)
        if node is None or value is None or array is None or affine.dtype == "int32":
            continue
        identity = (str(value.name), affine.scale.tobytes(), affine.zero_point.tobytes())
        if identity not in done:
            rounded = dequantize(_integers(np.asarray(array, np.float32), affine, node), affine)
            made = ir.Value(name=f"{value.name}_rounded_{len(done)}", const_value=ir.tensor(rounded))
            made.dtype, made.shape = ir.DataType.FLOAT, ir.Shape(rounded.shape)
            graph.register_initializer(made)
            done[identity] = made
        node.replace_input_with(index, done[identity])


def _integers(array: NDArray[np.float32], affine: Affine, node: ir.Node) -> Array:
    axis = output_axis(node)
    if axis is None or array.ndim < 2:
        return quantize(array, affine)
    return quantize_weights(array, affine, axis % array.ndim)


def _add_switches(graph: ir.Graph, plan: Plan, names: tuple[str, ...]) -> None:
    values = {str(v.name): v for v in [*graph.inputs, *(out for node in graph for out in node.outputs)]}
    switches = ir.Value(name=SWITCHES, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([len(names)]))
    graph.inputs.append(switches)
    for number, name in enumerate(names):
        value = values[name]
        users = list(value.uses())
        nodes, chosen = _switched(graph, switches, number, value, plan.activations[name])
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], nodes)
        else:
            graph.insert_after(producer, nodes)
        for user, index in users:
            user.replace_input_with(index, chosen)
        if value.is_graph_output():
            value.name, chosen.name = f"{name}_exact", name
            for index, output in enumerate(graph.outputs):
                if output is value:
                    graph.outputs[index] = chosen


def _switched(
    graph: ir.Graph, switches: ir.Value, number: int, value: ir.Value, affine: Affine
) -> tuple[list[ir.Node], ir.Value]:
    """Return the nodes that give `value` rounded where its switch is on, and the value that they give."""
    name = str(value.name)
    place = _constant(graph, f"edgert_place_{number}", np.array(number, np.int64))
    scale = _constant(graph, f"edgert_scale_{number}", affine.scale)
    zero = _constant(graph, f"edgert_zero_point_{number}", affine.zero_point)
    pick = ir.node("Gather", [switches, place], name=f"edgert_switch_{number}")
    pick.outputs[0].dtype, pick.outputs[0].shape = ir.DataType.BOOL, ir.Shape([])
    stored = ir.node("QuantizeLinear", [value, scale, zero])
    real = ir.node("DequantizeLinear", [stored.outputs[0], scale, zero])
    same = ir.node("Identity", [value])
    for number_in, (node, label) in enumerate(((stored, "stored"), (real, "real"), (same, "same"))):
        node.outputs[0].name = f"{name}_{label}_{number}_{number_in}"
    for output in (real.outputs[0], same.outputs[0]):
        output.dtype, output.shape = ir.DataType.FLOAT, value.shape
    branches = {
        "then_branch": ir.Graph([], [real.outputs[0]], nodes=[stored, real], name=f"rounded_{number}"),
        "else_branch": ir.Graph([], [same.outputs[0]], nodes=[same], name=f"exact_{number}"),
    }
    choose = ir.node("If", [pick.outputs[0]], branches, name=f"edgert_choose_{number}")
    choose.outputs[0].name = f"{name}_switched"
    choose.outputs[0].dtype, choose.outputs[0].shape = ir.DataType.FLOAT, value.shape
    return [pick, choose], choose.outputs[0]


def _constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
    graph.register_initializer(value)
    return value
