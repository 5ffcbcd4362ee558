"""The private cache where a bundle in zip form is unpacked once, under its digest, to be loaded by path.

An entry holds the manifest and the listed files only: measurements and signature are outside the digest and
are read from the file that was opened. What is in the cache is checked on every open and made again when it
is wrong.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from edgert.bundle_check import Checked, check_digest, check_digests, check_models, check_names_and_sizes
from edgert.bundle_contents import ZipContents, scan_folder
from edgert.disk import disk_failed
from edgert.errors import BadInput, EnvironmentFailed, VerificationFailed
from edgert.manifest import MANIFEST_NAME, OUTSIDE_DIGEST, FileEntry

_STALE_S = 24 * 3600.0
_TEMPORARY = ".unpack-"


def cached_folder(contents: ZipContents, checked: Checked, cache: Path) -> Path:
    """Return the folder in `cache` with the verified files of the bundle; unpack them when need be.

    Any number of processes may do this at once. EnvironmentFailed when the cache cannot be written.
    """
    entry = cache / "bundles" / checked.digest.removeprefix("sha256:")
    if not _is_right(entry, checked):
        _fill(entry, contents, checked)
    return entry


def _is_right(entry: Path, checked: Checked) -> bool:
    """Return whether the cache entry is there and holds exactly the files of this bundle."""
    if entry.is_symlink() or not entry.is_dir():
        return False
    try:
        contents = scan_folder(entry)
        found = check_names_and_sizes(contents)
        check_digests(contents, found.manifest)
    except (BadInput, VerificationFailed, EnvironmentFailed, OSError):
        return False
    return found.digest == checked.digest and not contents.sizes.keys() & set(OUTSIDE_DIGEST)


def _fill(entry: Path, contents: ZipContents, checked: Checked) -> None:
    needed = sum(contents.sizes.values())
    try:
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=entry.parent))
        try:
            _unpack(folder, contents, checked)
            _remove_stale(folder)
            _move_into_place(folder, entry, checked)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as exc:
        raise _cannot_fill(exc, entry, needed) from exc


def _unpack(folder: Path, contents: ZipContents, checked: Checked) -> None:
    """Write the files into `folder`; VerificationFailed when one is not what the manifest says."""
    (folder / MANIFEST_NAME).write_bytes(checked.manifest_data)
    for entry in checked.manifest.files:
        _unpack_file(folder / entry.name, contents, entry)
    check_models(scan_folder(folder), checked.manifest)


def _unpack_file(target: Path, contents: ZipContents, entry: FileEntry) -> None:
    sha256 = hashlib.sha256()
    with target.open("xb") as file:
        for chunk in contents.chunks(entry.name):
            sha256.update(chunk)
            file.write(chunk)
    check_digest(entry, sha256.hexdigest(), f"'{contents.path}'")


def _move_into_place(folder: Path, entry: Path, checked: Checked) -> None:
    """Make `folder` the cache entry, or mend the wrong entry that is there file by file.

    A file is replaced at once and never missing in between, so another process that reads it is not
    disturbed.
    """
    if entry.is_symlink() or (entry.exists() and not entry.is_dir()):
        entry.unlink()
    try:
        folder.rename(entry)
    except OSError:
        if not entry.is_dir():
            raise
        if not _is_right(entry, checked):
            _mend(folder, entry)


def _mend(folder: Path, entry: Path) -> None:
    right = {path.name for path in folder.iterdir()}
    for path in entry.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in right:
            path.unlink()
    for name in right:
        (folder / name).replace(entry / name)


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left beside `folder` more than a day before it was made."""
    now = folder.stat().st_mtime
    for path in folder.parent.glob(f"{_TEMPORARY}*"):
        try:
            if now - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:
            continue


def _cannot_fill(exc: OSError, entry: Path, needed: int) -> EnvironmentFailed:
    failed = disk_failed(exc, entry, needed)
    remedy = "set EDGERT_CACHE to a folder that you may write to, or unzip the bundle and open the folder"
    return EnvironmentFailed(failed.message, remedy)
