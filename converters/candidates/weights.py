"""Candidates that store weights as integers and read no statistics: int8 products with scales found as it runs, and
weight-only blocks.

Both pay for models made of matrix products with large constant weights; a convolution gets slower, so models whose
weights are mostly elsewhere get none.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import checker, shape_inference
from onnxruntime.quantization import QuantType, quantize_dynamic

from converters.candidates.trial import Draft
from converters.job import Job, Written
from converters.quantize.plan import constant_array, output_axis
from converters.quantize.weight_only import quantize_weights_only
from converters.request import Candidate
from edgert.errors import BadInput

PRODUCTS = ("MatMul", "Gemm")
LEAST_SHARE = 0.5
"""The least share of all weights that matrix products must hold."""

BLOCK = 32
BITS = {"w8": 8, "int4": 4}
QUANTIZER_ERRORS = (
    *(ValueError, AssertionError, RuntimeError, AttributeError, KeyError),
    *(checker.ValidationError, shape_inference.InferenceError),
)
"""What onnxruntime's quantizer has been seen to end in."""

INTEGER_PRODUCTS = ("MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")

VARIANTS = {"w8": "w8", "int4": "w4"}


def weight_share(model: ir.Model) -> float:
    """Return the share of the weights of heavy nodes that belongs to matrix products, 0 where there are none."""
    products = others = 0
    for node in model.graph:
        if output_axis(node) is None:
            continue
        array = constant_array(node.inputs[1])
        size = array.size if array is not None and array.ndim == 2 else 0
        products += size if node.op_type in PRODUCTS else 0
        others += 0 if node.op_type in PRODUCTS or array is None else array.size
    return products / (products + others) if products else 0.0


def weight_drafts(job: Job, wanted: Mapping[str, bool], left_out: list[Candidate]) -> Iterator[Draft]:
    """Yield the candidates of `wanted` precisions ("int8", "w8", "int4") that suit the model.

    A precision that was asked for by name is tried whatever the share of matrix products is. One that cannot be made
    joins `left_out` with the reason.
    """
    graph = job.float_graph("cpu")
    share = weight_share(graph.model)
    forced = job.request.precision
    if share < LEAST_SHARE and forced not in BITS:
        return
    for precision in ("int8", *BITS):
        if not wanted.get(precision) or (precision == "int8" and share < LEAST_SHARE):
            continue
        try:
            yield _draft(job, precision)
        except BadInput as exc:
            label = VARIANTS.get(precision, "dyn-int8")
            left_out.append(Candidate(precision, label, None, None, f"cannot be made: {exc.message}"))


def _draft(job: Job, precision: str) -> Draft:
    if precision == "int8":
        return dynamic_draft(job)
    bits = BITS[precision]
    return weight_only_draft(job, precision, bits, BLOCK, symmetric=bits == 8)


def dynamic_draft(job: Job) -> Draft:
    """Return the candidate with dynamically quantized matrix products; BadInput where the quantizer gives up."""
    graph = job.float_graph("cpu")
    written = job.write(graph.model, "before-dynamic")
    recipe: Mapping[str, object] = {"passes": graph.changes(), "dynamic": True}
    return Draft("dyn-int8", "dyn-int8", "int8", _dynamic(job, written), recipe)


def weight_only_draft(job: Job, precision: str, bits: int, block_size: int, *, symmetric: bool) -> Draft:
    """Return the candidate whose matrix products have weights of `bits` in blocks of `block_size`."""
    graph, variant = job.float_graph("cpu"), VARIANTS[precision]
    job.progress(f"quantizing the weights to {bits} bits")
    model = quantize_weights_only(graph.model, bits=bits, block_size=block_size, symmetric=symmetric)
    form = {"bits": bits, "block_size": block_size, "symmetric": symmetric}
    recipe: Mapping[str, object] = {"passes": graph.changes(), **form}
    return Draft(variant, variant, precision, job.write(model, variant), recipe)


def _dynamic(job: Job, written: Written) -> Written:
    """Return the graph with dynamically quantized matrix products; BadInput where onnxruntime's quantizer gives up."""
    path = written.path.with_name("dyn-int8.onnx")
    job.progress("quantizing dyn-int8")
    _forget_shapes_of_weights(written.path)
    logging.disable(logging.WARNING)  # it advises to preprocess, which the passes have done
    try:
        quantize_dynamic(
            written.path,
            path,
            op_types_to_quantize=list(PRODUCTS),
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=job.profile.quantization.reduce_range,
        )
        made = ir.load(path)
        if not any(node.op_type in INTEGER_PRODUCTS for node in made.graph):
            raise BadInput("onnxruntime's dynamic quantizer takes none of its products", "use another --precision")
        return job.write(made, "dyn-int8")
    except QUANTIZER_ERRORS as exc:
        raise BadInput(f"onnxruntime's dynamic quantizer fails: {exc}", "use another --precision") from exc
    finally:
        logging.disable(logging.NOTSET)


def _forget_shapes_of_weights(path: Path) -> None:
    """Take what a file says beside its weights of their shapes out of it.

    onnxruntime's quantizer transposes the weight of a Gemm under its name, and then finds its old shape there.
    """
    model = onnx.load(path, load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    onnx.save(model, path)
