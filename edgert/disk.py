"""Writing one file whole or not at all, and disk failures in the user's words.

What is written is left to the callers; making a rename durable to `edgert.host`.
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgert.errors import EnvironmentFailed
from edgert.host import fsync_dir

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def disk_failed(exc: OSError, path: Path, needed_bytes: int | None = None) -> EnvironmentFailed:
    """Return the error for a failed write to `path`; `needed_bytes` is all that was to be written."""
    reason = exc.strerror or type(exc).__name__
    if exc.errno in _FULL:
        needs = "" if needed_bytes is None else f"; {needed_bytes} bytes are needed"
        message = f"cannot write '{path}': {reason}{needs}{_free(path.parent)}"
        return EnvironmentFailed(message, "free space on that disk, or name a folder on another one")
    if exc.errno in _DENIED:
        return EnvironmentFailed(f"cannot write '{path}': {reason}", "name a folder that you may write to")
    return EnvironmentFailed(f"cannot write '{path}': {reason}", "check the disk and the path")


def read_failed(exc: OSError, path: Path) -> EnvironmentFailed:
    """Return the error for a file that is there but cannot be read."""
    reason = exc.strerror or type(exc).__name__
    return EnvironmentFailed(f"cannot read '{path}': {reason}", "check the permissions of the file and the disk")


def _free(folder: Path) -> str:
    try:
        return f", {shutil.disk_usage(folder).free} are free"
    except OSError:
        return ""


def part_beside(destination: Path) -> Path:
    """Return an unused hidden name in the folder of `destination`, for what is still being written."""
    return destination.with_name(f".{destination.name}.{secrets.token_hex(8)}.part")


@contextlib.contextmanager
def replaced_file(destination: Path) -> Iterator[BinaryIO]:
    """Yield a file to write; on success it takes the place of `destination`, on failure it is gone.

    OSError passes through, for the caller knows how many bytes are needed.
    """
    part = part_beside(destination)
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(destination)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    fsync_dir(destination.parent)
