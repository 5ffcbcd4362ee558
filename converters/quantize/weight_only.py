"""Weight-only quantization: the weights of matrix products in blocks of integers, activations as they are.

It reads no samples. A model in memory gives a model in memory; a model larger than memory is streamed, one weight after
the other, from its external data file into a new one.
"""

import shutil
import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from converters.quantize.blocks import BlockFormat, BlockWeights, quantize_matrix
from converters.quantize.matmul_nbits import StoredWeight, replace_products
from converters.quantize.matrix_reader import open_matrix
from converters.sources.onnx_file import read_model
from converters.variants import WeightsFile, write_variant
from edgert.disk import disk_failed
from edgert.errors import BadInput
from edgert.host import usable_cores

FASTEST = 4
"""`accuracy_level` 4: activations are rounded to int8 in the kernel. Without it 8-bit weights are turned back into
floats on every call (`contrib_ops/cpu/quantization/matmul_nbits.cc`)."""


MOST_THREADS = 4
"""Each thread holds tiles of its own, and a few of them read as fast as memory gives."""


@dataclass(frozen=True)
class Streamed:
    """What `stream_weights_only` wrote: how many weights are in blocks, and the bytes of both files."""

    weights: int
    bytes: int


def quantize_weights_only(
    model: ir.Model,
    *,
    bits: int,
    block_size: int = 32,
    symmetric: bool = True,
    accuracy_level: int = FASTEST,
    refine: bool = False,
    keep: Collection[str] = (),
    threads: int = 0,
) -> ir.Model:
    """Return a new model whose MatMul and Gemm nodes with constant weights are `com.microsoft::MatMulNBits`.

    The weights that are left share their tensors with `model`; the new ones take 1/8 (4 bits) or 1/4 (8 bits) of the
    float32 ones, and the scales. See `replace_products` for the nodes that stay and what `keep` names, `BlockFormat`
    for `bits`, `block_size`, `symmetric` and `refine`. `threads` 0 means all cores, up to `MOST_THREADS`.

    Raises UsageError for bits or a block size that the operator does not have, and BadInput for weights that are not
    finite and for a model without any product to replace.
    """
    result = model.clone()
    form = BlockFormat(bits, block_size, symmetric, refine)
    for weight in _replaced(result, form, accuracy_level, keep):
        _fill(weight, _quantized(weight, form, threads), lambda tensor: tensor)
    return result


def stream_weights_only(
    source: Path,
    destination: Path,
    *,
    bits: int,
    block_size: int = 32,
    symmetric: bool = True,
    accuracy_level: int = FASTEST,
    refine: bool = False,
    keep: Collection[str] = (),
    threads: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Streamed:
    """Write the model at `source` to `destination` as `quantize_weights_only` would, two weights in memory at most.

    The weights go to `<destination's stem>.data` beside it; `progress` is called with the stage, how many weights are
    done, and of how many. What is written is not seen before it is whole, and nothing
    is left where it fails. Raises what `quantize_weights_only` and `read_model` raise, and EnvironmentFailed where the
    disk is full or cannot be written.
    """
    form = BlockFormat(bits, block_size, symmetric, refine)
    model = read_model(source)
    stored = _replaced(model, form, accuracy_level, keep)
    data = f"{destination.stem}.data"
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=".edgert-", dir=destination.parent))
        weights = WeightsFile(folder, data)
        _place(model, stored, form, weights, threads, progress)
        written = write_variant(model, destination.stem, weights, folder)
        size = written.stat().st_size + (folder / data).stat().st_size
        (folder / data).replace(destination.with_name(data))
        written.replace(destination)
    except OSError as exc:
        raise disk_failed(exc, destination, _needed(model)) from exc
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return Streamed(len(stored), size)


def _replaced(model: ir.Model, form: BlockFormat, accuracy_level: int, keep: Collection[str]) -> list[StoredWeight]:
    stored = replace_products(model, form, accuracy_level, keep)
    if not stored:
        raise BadInput(
            "the model has no MatMul or Gemm with constant weights that blocks make smaller",
            "use another --precision: weight-only formats are for models made of matrix products",
        )
    return stored


def _quantized(weight: StoredWeight, form: BlockFormat, threads: int) -> BlockWeights:
    threads = threads or min(usable_cores(), MOST_THREADS)
    try:
        return quantize_matrix(open_matrix(weight.tensor), form, transposed=weight.transposed, threads=threads)
    except BadInput as exc:
        raise BadInput(f"weight '{weight.name}': {exc.message}", exc.remedy) from exc


def _fill(weight: StoredWeight, blocks: BlockWeights, store: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> None:
    """Give the weight's initializers what `store` makes of their tensors."""
    for value, tensor in zip(weight.values, weight.tensors(blocks), strict=True):
        value.const_value = store(tensor)


def _place(
    model: ir.Model,
    stored: list[StoredWeight],
    form: BlockFormat,
    weights: WeightsFile,
    threads: int,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Put all tensors into the file in the order in which `write_variant` would: what stays, then what is new.

    While one weight is quantized the one before is written.
    """
    new = {value for weight in stored for value in weight.values}
    for value in model.graph.initializers.values():
        if value not in new and value.const_value is not None:
            value.const_value = weights.store(value.const_value)
    before: Future[None] | None = None
    with ThreadPoolExecutor(1) as writer:
        for done, weight in enumerate(stored):
            if progress is not None:
                progress(f"quantizing weights to {form.bits} bits", done, len(stored))
            blocks = _quantized(weight, form, threads)
            if before is not None:
                before.result()
            before = writer.submit(_fill, weight, blocks, weights.store)
    if before is not None:
        before.result()


def _needed(model: ir.Model) -> int:
    """Return about how many bytes the two files take: that of all tensors."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
