"""scikit-learn estimators and pipelines, XGBoost and LightGBM models.

A pickle runs code when it is read: it is refused unless the user trusts it. What a compressed one unpacks to is
measured before the exporter reads it.
"""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from converters.sources import child
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput, UsageError

KIND = "sklearn"
SCRIPT = "export_sklearn.py"
ENVIRONMENTS = ("sklearn",)
PICKLES = (".joblib", ".pkl", ".pickle")
ZIP = b"PK\x03\x04"
HEAD_BYTES = 4096
CHUNK_BYTES = 1 << 20
LIGHTGBM_END = b"end of parameters"
TAIL_BYTES = 1 << 20
"""What follows the end: the values of pandas categories, in one line."""

MOST_UNPACKED_BYTES = 8 << 30
MOST_EXPANSION = 200
"""Trained models compress by 2 to 20; zlib stands for up to 1032 bytes with one."""

SMALL_BYTES = 64 << 20
"""What any machine can hold: below it the expansion does not matter."""

NO_MODEL = "give a .joblib or .pkl of a fitted estimator, an XGBoost .json or .ubj, or a LightGBM .txt"


def matches(path: Path) -> bool:
    """Return whether the file's content is that of an XGBoost or LightGBM model, or its name that of a pickle."""
    if not path.is_file():
        return False
    head = _head(path)
    if path.suffix.lower() in PICKLES:
        return not head.startswith(ZIP)  # PyTorch's pickles are zip archives
    return is_xgboost(head) or is_lightgbm(head)


def is_xgboost(head: bytes) -> bool:
    """Return whether a file that starts like this is an XGBoost model, as JSON or as UBJSON."""
    return head.lstrip()[:1] == b"{" and b"learner" in head


def is_lightgbm(head: bytes) -> bool:
    """Return whether a file that starts like this is the text of a LightGBM model."""
    return head.startswith((b"tree\n", b"tree\r\n"))


def load(path: Path, options: Options) -> Imported:
    """Convert the model at `path`, or what `module:function` returns.

    Raises UsageError for a pickle that is not trusted, BadInput for a file that is damaged, unpacks to too much or is
    no such model, GateFailed for an estimator without a converter, MissingExtra.
    """
    if path.exists():
        _check(path, options.trust_pickle)
    elif ":" not in str(path):
        raise BadInput(f"there is no file '{path}'", NO_MODEL)
    return child.export(KIND, SCRIPT, ENVIRONMENTS, path, options)


def _check(path: Path, trusted: bool) -> None:
    if not path.is_file():
        raise BadInput(f"'{path}' is a folder, and a scikit-learn model is a file", NO_MODEL)
    head = _head(path)
    if not head:
        raise BadInput(f"'{path}' is empty", NO_MODEL)
    if is_xgboost(head):
        return
    if is_lightgbm(head):
        _check_whole(path)
        return
    if path.suffix.lower() not in PICKLES:
        raise BadInput(f"'{path}' is no XGBoost or LightGBM model, and no pickle by its name", NO_MODEL)
    if not trusted:
        raise UsageError(
            f"'{path}' is a pickle: reading it runs whatever code its author put into it",
            "give --trust-pickle if you know where it comes from; XGBoost .json and LightGBM .txt need no trust",
        )
    _check_unpacked(path, head)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as exc:
        raise BadInput(f"'{path}' cannot be read: {exc.strerror}", "check the file's permissions") from exc


def _check_whole(path: Path) -> None:
    """Raise BadInput for the text of a LightGBM model without its end, which LightGBM itself would not miss."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
        if LIGHTGBM_END not in file.read():
            raise BadInput(f"'{path}' is cut off: it does not end as LightGBM models do", "copy the file again")


def _check_unpacked(path: Path, head: bytes) -> None:
    """Raise BadInput when a compressed pickle is damaged, or unpacks to more than a model does."""
    unpack = _unpacker(head)
    if unpack is None:
        return
    packed, unpacked = path.stat().st_size, 0
    most = min(MOST_UNPACKED_BYTES, max(packed * MOST_EXPANSION, SMALL_BYTES))
    try:
        for size in unpack(path):
            unpacked += size
            if unpacked > most:
                raise BadInput(
                    f"'{path}' has {packed} bytes and unpacks to more than {most}, which no trained model does",
                    "save the model again with joblib.dump(model, path), uncompressed",
                )
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as exc:
        raise BadInput(f"'{path}' is damaged: {exc}", "copy the file again and compare its size") from exc


def _unpacker(head: bytes) -> Callable[[Path], Iterator[int]] | None:
    """Return what yields the sizes of the unpacked pieces of a file that starts with `head`; None if not packed."""
    if head[:2] == b"\x1f\x8b":
        return lambda path: _sizes(gzip.open(path, "rb").read)
    if head[:3] == b"BZh":
        return lambda path: _sizes(bz2.open(path, "rb").read)
    if head[:6] == b"\xfd7zXZ\x00" or head[:3] == b"]\x00\x00":
        return lambda path: _sizes(lzma.open(path, "rb").read)
    if head[:1] == b"\x78" and len(head) > 1 and int.from_bytes(head[:2], "big") % 31 == 0:
        return _zlib_sizes
    return None


def _sizes(read: Callable[[int], bytes]) -> Iterator[int]:
    while chunk := read(CHUNK_BYTES):
        yield len(chunk)


def _zlib_sizes(path: Path) -> Iterator[int]:
    unpacking = zlib.decompressobj()
    with path.open("rb") as file:
        while not unpacking.eof:
            data = unpacking.unconsumed_tail or file.read(CHUNK_BYTES)
            if not data:
                raise EOFError("it ends in the middle")
            yield len(unpacking.decompress(data, CHUNK_BYTES))
