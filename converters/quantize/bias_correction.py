"""Bias correction: what quantization shifts each channel of a convolution by, on average, is taken off its bias.

Clipping, and weights rounded beside inputs of unequal size, shift the mean of a channel, and the layers after it add
the shifts up. Here the shift of each layer is measured by itself: the layer runs twice on the same float inputs, as it
is and rounded, in one pass over the samples for all layers. Source: Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction" (ICCV 2019), section 4.2, with samples in place of batch-norm statistics.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.passes.rewriting import add_initializer, drop_unused_initializers
from converters.quantize.affine import Affine, dequantize, quantize_weights
from converters.quantize.plan import Plan, constant_array, node_key, output_axis
from converters.variants import WeightsFile, write_variant
from edgert.errors import BadInput
from edgert.runtime.providers import ProviderDevice
from edgert.runtime.session import Session

Array = NDArray[np.generic]
Vector = NDArray[np.float64]
Feeds = Iterable[Mapping[str, Array]]

_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class Corrected:
    """The copy with other biases, and per node key the mean shift [C] that was taken off."""

    model: ir.Model
    shifts: Mapping[str, NDArray[np.float32]]


def correct_bias(
    model: ir.Model, plan: Plan, feeds: Feeds, *, workdir: Path, device: ProviderDevice, threads: int = 0
) -> Corrected:
    """Return a copy of the float model whose biases make up for the rounding that `plan` does.

    Plan the copy again, with the ranges that `plan` was made with: the encodings of biases follow their values.
    Raises BadInput for no samples at all.
    """
    shifts = measure_shifts(model, plan, feeds, workdir=workdir, device=device, threads=threads)
    copy = model.clone()
    done = {}
    for node in tuple(copy.graph):
        shift = shifts.get(node_key(node))
        if shift is not None and _subtract(copy, node, shift):
            done[node_key(node)] = shift.astype(np.float32)
    return Corrected(copy, done)


def _subtract(model: ir.Model, node: ir.Node, shift: Vector) -> bool:
    """Take a number per channel off the bias of a node; False where its bias is computed or of another shape."""
    old = node.inputs[2] if len(node.inputs) > 2 else None
    array = np.zeros(shift.shape) if old is None else constant_array(old)
    if array is None or array.shape != shift.shape or node.attributes.get_float("beta", 1.0) != 1.0:
        return False
    node.resize_inputs(3)
    bias = (np.asarray(array, np.float64) - shift).astype(np.float32)
    node.replace_input_with(2, add_initializer(model, f"{node.outputs[0].name}_corrected", bias))
    drop_unused_initializers([] if old is None else [old])
    return True


def measure_shifts(
    model: ir.Model, plan: Plan, feeds: Feeds, *, workdir: Path, device: ProviderDevice, threads: int = 0
) -> dict[str, Vector]:
    """Return per node key the mean, over samples and places, of rounded minus exact output of each channel.

    Empty where no quantized Conv, ConvTranspose or Gemm has constant weights; a MatMul has no bias to correct.
    """
    twins = model.clone()
    outputs = _add_twins(twins, plan)
    if not outputs:
        return {}
    folder = workdir / "shifts"
    folder.mkdir(parents=True, exist_ok=True)
    path = write_variant(twins, f"shifts-{len(list(folder.iterdir()))}", WeightsFile(folder), folder)
    totals: dict[str, Vector] = {}
    samples = 0
    with Session.open(path, device, threads=threads, session_config={"session.disable_quant_qdq": "1"}) as session:
        for sample in feeds:
            samples += 1
            results = session.run(sample)
            for name, key in outputs.items():
                totals[key] = totals.get(key, np.zeros(1)) + results[name].astype(np.float64)
    if not samples:
        raise BadInput("there is no sample to correct biases with", "give at least one sample")
    return {key: total / samples for key, total in totals.items()}


def _add_twins(model: ir.Model, plan: Plan) -> dict[str, str]:
    """Add a rounded twin for each node, make the mean differences the only outputs; return output name -> node key."""
    found: dict[str, str] = {}
    means: list[ir.Value] = []
    for node in tuple(model.graph):
        key = node_key(node)
        data = node.inputs[0] if node.inputs else None
        encoding = plan.constants.get((key, 1))
        if key not in plan.quantized or node.op_type not in _WITH_BIAS or encoding is None or data is None:
            continue
        activation = plan.converted.get((key, 0)) or plan.activations.get(str(data.name))
        if activation is None:
            continue
        mean = _add_twin(model, node, activation, encoding, len(means))
        means.append(mean)
        found[str(mean.name)] = key
    model.graph.outputs[:] = means
    return found


def _add_twin(model: ir.Model, node: ir.Node, activation: Affine, encoding: Affine, number: int) -> ir.Value:
    weight = add_initializer(model, f"twin_{number}_weight", _rounded(node, encoding))
    nodes = _round_trip(model, node.inputs[0], activation, number)
    source = nodes[-1].outputs[0] if nodes else node.inputs[0]
    twin = ir.node(node.op_type, [source, weight, *node.inputs[2:]], dict(node.attributes.items()))
    error = ir.node("Sub", [twin.outputs[0], node.outputs[0]])
    rank = len(node.outputs[0].shape or ())
    nodes += [twin, error]
    axes = [axis for axis in range(rank) if axis != 1]
    if model.graph.opset_imports[""] >= 18:
        given = add_initializer(model, f"twin_{number}_axes", np.array(axes, np.int64))
        nodes.append(ir.node("ReduceMean", [error.outputs[0], given], {"keepdims": 0}))
    else:
        nodes.append(ir.node("ReduceMean", [error.outputs[0]], {"keepdims": 0, "axes": axes}))
    for place, one in enumerate(nodes):
        one.outputs[0].name = f"twin_{number}_{place}"
    mean = nodes[-1].outputs[0]
    mean.dtype = ir.DataType.FLOAT
    model.graph.insert_after(node, nodes)
    return mean


def _round_trip(model: ir.Model, value: ir.Value | None, affine: Affine, number: int) -> list[ir.Node]:
    """Return Q and DQ of a value, nothing for 16 bits: they shift no mean, and older opsets do not have them."""
    if affine.dtype not in ("uint8", "int8"):
        return []
    scale = add_initializer(model, f"twin_{number}_scale", affine.scale)
    zero = add_initializer(model, f"twin_{number}_zero", affine.zero_point)
    stored = ir.node("QuantizeLinear", [value, scale, zero])
    return [stored, ir.node("DequantizeLinear", [stored.outputs[0], scale, zero])]


def _rounded(node: ir.Node, encoding: Affine) -> NDArray[np.float32]:
    axis, array = output_axis(node), constant_array(node.inputs[1])
    assert axis is not None and array is not None
    return dequantize(quantize_weights(np.asarray(array, np.float32), encoding, axis % array.ndim), encoding)
