"""Weights rounded for the inputs they meet: the error of each column is made up for by the columns not rounded yet.

Rounding to nearest, or so that the errors of a kernel cancel (`affine.quantize_weights`), knows nothing of the data.
Here the second moments of each layer's inputs, from float inputs in one pass over the samples, say which errors
cancel. Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(ICLR 2023), with the columns of largest moment first. Whether the result is better is measured by whoever calls this.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.passes.matching import attribute_int, attribute_ints
from converters.passes.rewriting import add_initializer, drop_unused_initializers
from converters.quantize.affine import Affine, dequantize
from converters.quantize.plan import Plan, constant_array, node_key, output_axis
from converters.variants import WeightsFile, write_variant
from edgert.errors import BadInput
from edgert.runtime.providers import ProviderDevice
from edgert.runtime.session import Session

Array = NDArray[np.generic]
Matrix = NDArray[np.float64]
Feeds = Iterable[Mapping[str, Array]]

MOST_COLUMNS = 2304
"""A layer of more inputs per output is left as it is: the moments are a square of that side."""

MOMENT_BYTES = 200_000_000
"""So many bytes of moments are gathered in one pass; larger models take several."""

PLACES = 512
"""Places of each sample that a convolution's moments are taken from, evenly spread."""

DAMPING = 0.01
"""What is added to the diagonal of the moments, in parts of its mean."""


@dataclass(frozen=True)
class RoundedWeights:
    """The copy whose weights are whole steps of their encodings, and the keys of the nodes they belong to."""

    model: ir.Model
    layers: tuple[str, ...]


@dataclass(frozen=True)
class _Layer:
    """One node with its weight as rows [groups, outputs of a group, columns], in steps of its encoding."""

    node: ir.Node
    encoding: Affine
    rows: Matrix
    axis: int

    @property
    def bytes(self) -> int:
        return int(8 * self.rows.shape[0] * self.rows.shape[2] ** 2)

    @property
    def source(self) -> str:
        assert self.node.inputs[0] is not None
        return str(self.node.inputs[0].name)


def round_weights(
    model: ir.Model, plan: Plan, feeds: Feeds, *, workdir: Path, device: ProviderDevice, threads: int = 0
) -> RoundedWeights:
    """Return a copy of the float model with the weights of Conv, Gemm and MatMul rounded to the encodings of `plan`.

    The largest weight of each encoding stays, so planning the copy again gives the same encodings. `feeds` is iterated
    once, or more often where the moments need several passes. Raises BadInput for no samples at all.
    """
    layers = [layer for node in model.graph if (layer := _layer(node, plan)) is not None]
    copy, done = model.clone(), list[str]()
    nodes = {node_key(node): node for node in copy.graph}
    for chunk in _chunks(layers):
        moments = _moments(model, chunk, feeds, workdir=workdir, device=device, threads=threads)
        for layer, moment in zip(chunk, moments, strict=True):
            rounded = round_rows(layer.rows, moment, per_row=layer.encoding.axis is not None)
            _replace(copy, nodes[node_key(layer.node)], layer, rounded)
            done.append(node_key(layer.node))
    return RoundedWeights(copy, tuple(done))


def round_rows(rows: Matrix, moments: Matrix, *, per_row: bool = True) -> Matrix:
    """Return whole numbers for weights [groups, rows, columns] in steps, given moments [groups, columns, columns].

    The largest weight, of each row or with `per_row=False` of all, is rounded to nearest and none gets larger.
    """
    size = np.abs(rows)
    most = size.max(-1, keepdims=True) if per_row else size.max(keepdims=True)
    limit, largest = np.rint(most), size == most
    diagonal = np.einsum("gkk->gk", moments)
    mean = diagonal.mean(-1)
    damped = moments + np.eye(rows.shape[2]) * np.where(mean > 0, DAMPING * mean, 1.0)[:, None, None]
    order = np.argsort(-diagonal, axis=-1, kind="stable")
    damped = np.take_along_axis(np.take_along_axis(damped, order[:, :, None], 1), order[:, None, :], 2)
    left, largest = (np.take_along_axis(one, order[:, None, :], 2) for one in (rows, largest))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    rounded = np.zeros_like(left)
    for column in range(left.shape[2]):
        now = left[:, :, column]
        nearest = np.clip(np.rint(now), -limit[:, :, 0], limit[:, :, 0])
        kept = np.where(largest[:, :, column], np.copysign(limit[:, :, 0], now), nearest)
        rounded[:, :, column] = kept
        error = (now - kept) / upper[:, column, column][:, None]
        left[:, :, column + 1 :] -= error[:, :, None] * upper[:, None, column, column + 1 :]
    result = np.empty_like(rounded)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], rounded.shape), rounded, 2)
    return result


def _layer(node: ir.Node, plan: Plan) -> _Layer | None:
    encoding, axis = plan.constants.get((node_key(node), 1)), output_axis(node)
    array = constant_array(node.inputs[1]) if encoding is not None and axis is not None else None
    if node_key(node) not in plan.quantized or node.op_type == "ConvTranspose" or array is None or encoding is None:
        return None
    if encoding.dtype not in ("int8", "uint8") or (node.op_type != "Conv" and array.ndim != 2) or axis is None:
        return None
    middle = 0 if encoding.dtype == "int8" else 128
    if bool(np.any(encoding.zero_point != middle)) or attribute_int(node, "transA", 0):
        return None
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    axis %= array.ndim
    outputs_first = np.moveaxis(np.asarray(array, np.float64), axis, 0)
    steps = np.asarray(encoding.scale, np.float64).reshape(-1, 1)
    rows = outputs_first.reshape(len(outputs_first), -1) / steps
    groups = attribute_int(node, "group", 1) if node.op_type == "Conv" else 1
    if rows.shape[1] > MOST_COLUMNS or not rows.size:
        return None
    return _Layer(node, encoding, rows.reshape(groups, -1, rows.shape[1]), axis)


def _chunks(layers: Sequence[_Layer]) -> Iterator[list[_Layer]]:
    chunk, size = list[_Layer](), 0
    for layer in layers:
        if chunk and size + layer.bytes > MOMENT_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(layer)
        size += layer.bytes
    if chunk:
        yield chunk


def _moments(
    model: ir.Model, layers: Sequence[_Layer], feeds: Feeds, *, workdir: Path, device: ProviderDevice, threads: int
) -> list[Matrix]:
    """Return the second moments [groups, columns, columns] of the inputs of each layer, summed over the samples."""
    copy = model.clone()
    values = {str(value.name): value for node in copy.graph for value in node.outputs}
    wanted = [name for name in dict.fromkeys(layer.source for layer in layers) if name in values]
    copy.graph.outputs[:] = [values[name] for name in wanted] or [*copy.graph.outputs]
    folder = workdir / "moments"
    folder.mkdir(parents=True, exist_ok=True)
    path = write_variant(copy, f"moments-{len(list(folder.iterdir()))}", WeightsFile(folder), folder)
    totals: list[Matrix | None] = [None] * len(layers)
    with Session.open(path, device, threads=threads) as session:
        for sample in feeds:
            found = {**sample, **session.run(sample)}
            for number, layer in enumerate(layers):
                total, moment = totals[number], _moment(layer, found[layer.source])
                totals[number] = moment if total is None else total + moment
    sums = [total for total in totals if total is not None]
    if len(sums) < len(layers):
        raise BadInput("there is no sample to round weights with", "give at least one sample")
    return sums


def _moment(layer: _Layer, data: Array) -> Matrix:
    seen = np.asarray(data, np.float32)
    columns = _patches(layer, seen) if layer.node.op_type == "Conv" else seen.reshape(1, -1, seen.shape[-1])
    some = columns[:, :: max(1, columns.shape[1] // PLACES)]
    moment: Matrix = np.matmul(some.transpose(0, 2, 1), some).astype(np.float64)
    return moment


def _patches(layer: _Layer, data: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a Conv multiplies its rows by, [groups, places, columns], from its input [N, C, ...].

    Of each axis only as many places are taken as make about `PLACES` in all.
    """
    array = constant_array(layer.node.inputs[1])
    assert array is not None
    kernel, spatial, groups = array.shape[2:], data.ndim - 2, layer.rows.shape[0]
    strides = attribute_ints(layer.node, "strides") or (1,) * spatial
    dilations = attribute_ints(layer.node, "dilations") or (1,) * spatial
    pads = attribute_ints(layer.node, "pads") or (0,) * (2 * spatial)
    padded = np.pad(data, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)])
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    axes = tuple(range(2, data.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    every = (slice(None),) * 2
    windows = windows[every + tuple(slice(None, None, step) for step in strides)]
    places = int(np.prod(windows.shape[2 : 2 + spatial])) * windows.shape[0]
    thinner = max(1, int((places / PLACES) ** (1 / max(spatial, 1))))
    windows = windows[every + (slice(None, None, thinner),) * spatial]
    windows = windows[(slice(None),) * (2 + spatial) + tuple(slice(None, None, step) for step in dilations)]
    batch, channels, *rest = windows.shape
    split = windows.reshape(batch, groups, channels // groups, *rest)
    split = np.moveaxis(split, 2, 2 + spatial).swapaxes(0, 1)
    return np.ascontiguousarray(split).reshape(groups, -1, layer.rows.shape[2])


def _replace(model: ir.Model, node: ir.Node, layer: _Layer, rounded: Matrix) -> None:
    old = node.inputs[1]
    array = constant_array(old)
    assert array is not None and old is not None
    outputs_first = np.moveaxis(array, layer.axis, 0).shape
    stored = np.moveaxis(rounded.reshape(outputs_first), 0, layer.axis)
    middle = 0 if layer.encoding.dtype == "int8" else 128
    weight = dequantize((stored + middle).astype(layer.encoding.dtype), layer.encoding)
    value = add_initializer(model, f"{node.outputs[0].name}_rounded", np.ascontiguousarray(weight))
    node.replace_input_with(1, value)
    drop_unused_initializers([old])
