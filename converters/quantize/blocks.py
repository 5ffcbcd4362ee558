"""Block quantization of matrices in the layout of `com.microsoft::MatMulNBits`. Pure numpy, tile by tile, in threads.

A matrix [K, N] is cut along K into blocks of `block_size` rows; each block of each column has a scale of its own:
real = (stored - zero_point) * scale. What is read and which nodes use the result is left to the callers.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgert.errors import BadInput, UsageError

BITS = (4, 8)
BLOCK_SIZES = (16, 32, 64, 128, 256)
"""What the kernels of onnxruntime 1.31 take: `matmul_nbits.cc` refuses other sizes when the model is loaded."""

SHRINK = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75)
"""By how much a range is narrowed in search of a smaller error: outliers are cut off, the rest gets finer steps."""

_TILE_ROWS, _TILE_COLUMNS = 256, 8192
"""How much of the matrix, as it is stored, a thread reads at once: at most 8 MB of float32."""

_PIECE_ROWS, _PIECE_COLUMNS = 256, 960
"""How much of a tile is worked on at once, [K, N]: its intermediate arrays stay in the second-level cache.

Bytes are turned from rows into columns at the end, and rows that lie a power of two apart would push each other out of
the first-level cache: with 1024 columns that step takes three times as long.
"""

_TINY = np.finfo(np.float32).tiny

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class BlockFormat:
    """How weights are stored: `bits` of each, one scale for `block_size` of them, and a zero_point unless symmetric.

    `refine` looks for the scale of the least squared error, and takes about five times as long.
    Raises UsageError for bits and block sizes that the operator does not have.
    """

    bits: int = 4
    block_size: int = 32
    symmetric: bool = True
    refine: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise UsageError(f"weights cannot be stored in {self.bits} bits", "use 4 or 8 bits")
        if self.block_size not in BLOCK_SIZES:
            known = ", ".join(map(str, BLOCK_SIZES))
            raise UsageError(f"blocks of {self.block_size} weights are not supported", f"use one of {known}")

    def blocks(self, rows: int) -> int:
        """Return how many blocks a column of `rows` weights has; the last one is filled up with zeros."""
        return -(-rows // self.block_size)

    def nbytes(self, rows: int, columns: int, scale_bytes: int) -> int:
        """Return what a matrix [rows, columns] takes when it is stored, with scales of `scale_bytes` each."""
        blocks = self.blocks(rows)
        zero_points = 0 if self.symmetric else -(-blocks * self.bits // 8)
        return columns * (blocks * (self.block_size * self.bits // 8 + scale_bytes) + zero_points)


@dataclass(frozen=True)
class BlockWeights:
    """A stored matrix: `packed` uint8 [N, blocks, block_size * bits / 8], `scales` [N, blocks].

    `zero_points` is uint8 [N, ceil(blocks * bits / 8)], or None where all are the middle of the range. The first of
    two 4-bit values lies in the low half of its byte.
    """

    packed: Bytes
    scales: NDArray[np.floating]
    zero_points: Bytes | None


class Matrix(Protocol):
    """A matrix [rows, columns] of floats that gives any part of itself."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return the rows and columns."""

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Return the type of the elements, which the scales get too."""

    def read(self, rows: slice, columns: slice) -> NDArray[np.floating]:
        """Return a part; both slices have a start and a stop within the shape."""


def quantize_matrix(matrix: Matrix, form: BlockFormat, *, transposed: bool = False, threads: int = 1) -> BlockWeights:
    """Return `matrix` [K, N], or [N, K] where it is `transposed`, in blocks along K.

    Takes the memory of the result and of some tiles for each thread. Raises BadInput for weights that are not finite,
    and what `matrix` raises.
    """
    columns, rows = matrix.shape if transposed else matrix.shape[::-1]
    blocks = form.blocks(rows)
    packed = np.empty((columns, blocks, form.block_size * form.bits // 8), np.uint8)
    scales = np.empty((columns, blocks), matrix.dtype)
    zero_points = None if form.symmetric else np.empty((columns, blocks), np.uint8)

    def store(tile: tuple[slice, slice]) -> None:
        read = matrix.read(*tile)
        down, across = tile[::-1] if transposed else tile
        for part, first, names in _pieces(read.T if transposed else read, down.start // form.block_size, form):
            here = slice(across.start + names.start, across.start + names.stop), slice(first, first + len(part))
            codes, scale, zero_point = quantize_blocks(part, form, matrix.dtype)
            packed[here] = (codes if form.bits == 8 else _pairs(codes)).transpose(2, 0, 1)
            scales[here] = scale.T
            if zero_points is not None:
                zero_points[here] = zero_point.T

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(store, _tiles(matrix.shape)):
            pass
    if not np.isfinite(scales).all():
        raise BadInput("some weights are infinite or not a number", "export the model again, from finite weights")
    return BlockWeights(packed, scales, zero_points if zero_points is None or form.bits == 8 else _packed(zero_points))


def quantize_blocks(
    blocks: Floats, form: BlockFormat, scale_type: np.dtype[np.floating]
) -> tuple[Bytes, Floats, Bytes]:
    """Return codes [blocks, block_size, columns], scales and zero points [blocks, columns] of `blocks`.

    `blocks` has the shape of the codes. The scales are float32 with values that `scale_type` can hold. A symmetric
    range is -2^(bits-1) .. 2^(bits-1)-1 times a scale that may be negative, so that the largest weight of either sign
    is met exactly.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scale, zero_point = _ranges(blocks, form, scale_type)
        codes = _round(blocks, scale, zero_point, form)
        if not form.refine:
            return codes, scale, zero_point.astype(np.uint8)
        return _refine(blocks, form, scale_type, scale, zero_point)


def _tiles(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    return product(_slices(shape[0], _TILE_ROWS), _slices(shape[1], _TILE_COLUMNS))


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _pieces(tile: NDArray[np.floating], first: int, form: BlockFormat) -> Iterator[tuple[Floats, int, slice]]:
    """Yield parts of a tile [k, n] as float32 [blocks, block_size, columns], their first block and their columns."""
    size = form.block_size
    for rows, columns in product(_slices(tile.shape[0], _PIECE_ROWS), _slices(tile.shape[1], _PIECE_COLUMNS)):
        count = rows.stop - rows.start
        piece = np.zeros if count % size else np.empty
        part = piece((form.blocks(count) * size, columns.stop - columns.start), np.float32)
        part[:count] = tile[rows, columns]
        yield part.reshape(-1, size, part.shape[1]), first + rows.start // size, columns


def _ranges(blocks: Floats, form: BlockFormat, scale_type: np.dtype[np.floating]) -> tuple[Floats, Floats]:
    """Return the scale and the zero_point [blocks, columns] that hold the whole range of each block."""
    low, high = blocks.min(1), blocks.max(1)
    half = np.float32(1 << (form.bits - 1))
    if form.symmetric:
        scale = _representable(np.where(high > -low, high, low) / -half, scale_type)
        return scale, np.broadcast_to(half, scale.shape)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = _representable((high - low) / (2 * half - 1), scale_type)
    return scale, np.clip(np.rint(-low * _inverse(scale)), 0, 2 * half - 1)


def _representable(scale: Floats, scale_type: np.dtype[np.floating]) -> Floats:
    """Round scales to what `scale_type` holds; what has no inverse becomes 0, and its block all zeros."""
    rounded = scale.astype(scale_type).astype(np.float32)
    rounded[np.abs(rounded) < _TINY] = 0
    return rounded


def _inverse(scale: Floats) -> Floats:
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)


def _round(blocks: Floats, scale: Floats, zero_point: Floats, form: BlockFormat) -> Bytes:
    real = blocks * _inverse(scale)[:, None]
    real += (zero_point + np.float32(0.5))[:, None]
    np.clip(real, 0, (1 << form.bits) - 0.5, out=real)
    return real.astype(np.uint8)


def _refine(
    blocks: Floats, form: BlockFormat, scale_type: np.dtype[np.floating], widest: Floats, zero_point: Floats
) -> tuple[Bytes, Floats, Bytes]:
    """Return the best of some narrower ranges for each block, each with the scale that suits its codes best.

    For codes c (the zero_point taken off) of weights w the squared error is least with the scale wc / cc, and is then
    ww - (wc)^2 / cc: the range with the largest (wc)^2 / cc wins.
    """
    best = np.full(widest.shape, -1, np.float32)
    codes, scale = np.zeros(blocks.shape, np.uint8), np.zeros_like(widest)
    for factor in SHRINK:
        tried = _round(blocks, widest * np.float32(factor), zero_point, form)
        centred = tried - zero_point[:, None]
        along = np.einsum("gbn,gbn->gn", blocks, centred)
        squared = np.einsum("gbn,gbn->gn", centred, centred)
        fitted = np.divide(along, squared, out=np.zeros_like(along), where=squared != 0)
        better = along * fitted > best
        best = np.where(better, along * fitted, best)
        scale = np.where(better, fitted, scale)
        np.copyto(codes, tried, where=better[:, None])
    scale = np.where(np.isfinite(widest), scale, widest)
    return codes, _representable(scale, scale_type), zero_point.astype(np.uint8)


def _pairs(codes: Bytes) -> Bytes:
    """Pack neighbours along axis 1 into one byte, the first in its low half."""
    packed: Bytes = np.left_shift(codes[:, 1::2], 4, dtype=np.uint8) | codes[:, 0::2]
    return packed


def _packed(zero_points: Bytes) -> Bytes:
    """Pack [columns, blocks] two to a byte; where their number is odd, the last byte's high half is 0."""
    odd = zero_points.shape[1] % 2
    return _pairs(np.pad(zero_points, ((0, 0), (0, odd))))
