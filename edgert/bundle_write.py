"""Writing a bundle: from a staging folder to one `.edgert` file or a folder, whole or not at all.

The same files and manifest always give the same bytes. Opening is left to `edgert.bundle`, what a signature
says to `edgert.signature`.
"""

import dataclasses
import hashlib
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgert.bundle_check import MAX_SIGNATURE_BYTES, check_models, check_names_and_sizes, digest_of
from edgert.bundle_contents import Contents, ZipContents, read_whole, scan, scan_folder
from edgert.disk import disk_failed, part_beside, read_failed, replaced_file
from edgert.errors import BadInput, EdgertError, UsageError
from edgert.host import fsync_dir
from edgert.json_fields import name_defect
from edgert.manifest import (
    MANIFEST_NAME,
    MEASUREMENTS_NAME,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    check_plain,
    manifest_bytes,
    parse_manifest,
)
from edgert.stored_zip import Entry, in_order, lay_out
from edgert.strict_json import loads

SUFFIX = ".edgert"
_REMEDY = "correct what is in the staging folder, or the manifest"


@dataclass(frozen=True)
class Member:
    """One file to be written; its bytes are `data`, or those of `source` when there is one."""

    entry: Entry
    data: bytes = b""
    source: Contents | None = None

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes."""
        if self.source is None:
            yield self.data
        else:
            yield from self.source.chunks(self.entry.name)


def write_bundle(folder: Path, manifest: Manifest, destination: Path) -> str:
    """Write the files of the staging `folder` with `manifest` as a bundle; return its digest ("sha256:…").

    `manifest.files` is filled in here. A destination that ends in `.edgert` becomes one file, any other a
    folder; a bundle that is there is replaced, and `folder` is left as it is. BadInput or
    VerificationFailed when files and manifest do not make a bundle, UsageError when something else is in
    the way, EnvironmentFailed when the disk fails; nothing half-written is left.
    """
    members, digest = _plan(folder, manifest)
    needed = sum(member.entry.size for member in members)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        if destination.suffix == SUFFIX:
            _write_zip(members, destination)
        else:
            _write_folder(members, destination)
    except OSError as exc:
        raise disk_failed(exc, destination, needed) from exc
    return digest


def write_signature(path: Path, envelope: bytes) -> None:
    """Put `signature.dsse.json` into the bundle at `path`, or replace it; all else stays as it is."""
    if len(envelope) > MAX_SIGNATURE_BYTES:
        raise UsageError(f"the signatures of '{path}' need {len(envelope)} bytes", "sign with fewer keys")
    contents = scan(path)
    try:
        if isinstance(contents, ZipContents):
            kept = {name: Member(entry, source=contents) for name, entry in contents.entries.items()}
            members = {**kept, SIGNATURE_NAME: _given(SIGNATURE_NAME, envelope)}
            _write_zip([members[name] for name in in_order(list(members))], path)
        else:
            with replaced_file(path / SIGNATURE_NAME) as file:
                file.write(envelope)
    except OSError as exc:
        raise disk_failed(exc, path, len(envelope)) from exc


def _plan(folder: Path, manifest: Manifest) -> tuple[list[Member], str]:
    """Return the members of the bundle, the manifest first, and its digest; writes nothing."""
    staged = _scan_staging(folder)
    measured = {name: _measure(staged, name) for name in sorted(staged.sizes)}
    files = tuple(
        FileEntry(name, member.entry.size, sha256)
        for name, (member, sha256) in measured.items()
        if name != MEASUREMENTS_NAME
    )
    try:
        data = manifest_bytes(dataclasses.replace(manifest, files=files))
    except ValueError as exc:
        raise BadInput(f"{MANIFEST_NAME} cannot be written: {exc}", _REMEDY) from exc
    check_models(staged, parse_manifest(data))
    if MEASUREMENTS_NAME in measured:
        check_plain(loads(read_whole(staged, MEASUREMENTS_NAME), MEASUREMENTS_NAME), MEASUREMENTS_NAME)
    members = {name: member for name, (member, _) in measured.items()}
    members[MANIFEST_NAME] = _given(MANIFEST_NAME, data)
    return [members[name] for name in in_order(list(members))], digest_of(data)


def _scan_staging(folder: Path) -> Contents:
    try:
        contents = scan_folder(folder)
    except OSError as exc:
        raise read_failed(exc, folder) from exc
    for name in sorted(contents.sizes):
        defect = "is written here, not given" if name in (MANIFEST_NAME, SIGNATURE_NAME) else name_defect(name)
        if defect:
            raise BadInput(f"the staging folder '{folder}' holds {name!a}, which {defect}", _REMEDY)
    return contents


def _measure(contents: Contents, name: str) -> tuple[Member, str]:
    """Return the member and its SHA-256 after one reading of the file."""
    sha256, crc32 = hashlib.sha256(), 0
    for chunk in contents.chunks(name):
        sha256.update(chunk)
        crc32 = zlib.crc32(chunk, crc32)
    return Member(Entry(name, contents.sizes[name], crc32), source=contents), sha256.hexdigest()


def _given(name: str, data: bytes) -> Member:
    return Member(Entry(name, len(data), zlib.crc32(data)), data)


def _write_zip(members: Iterable[Member], destination: Path) -> None:
    if destination.is_dir():
        raise UsageError(f"'{destination}' is a folder", f"remove it: a name that ends in {SUFFIX} is one file")
    members = list(members)
    layout = lay_out([member.entry for member in members])
    with replaced_file(destination) as file:
        for header, member in zip(layout.headers, members, strict=True):
            file.write(header)
            file.writelines(member.chunks())
        file.write(layout.tail)


def _write_folder(members: Iterable[Member], destination: Path) -> None:
    _check_replaceable(destination)
    part = part_beside(destination)
    try:
        part.mkdir()
        for member in members:
            with (part / member.entry.name).open("xb") as file:
                file.writelines(member.chunks())
                file.flush()
                os.fsync(file.fileno())
        fsync_dir(part)
        _swap_folder(part, destination)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    fsync_dir(destination.parent)


def _check_replaceable(destination: Path) -> None:
    """Raise UsageError unless `destination` is nothing, an empty folder, or a bundle in folder form."""
    if not destination.exists() and not destination.is_symlink():
        return
    what = f"'{destination}' is there and is not a bundle"
    remedy = "name another folder, or remove it first"
    if destination.is_symlink() or not destination.is_dir():
        raise UsageError(what, remedy)
    if not any(destination.iterdir()):
        return
    try:
        check_names_and_sizes(scan_folder(destination))
    except EdgertError as exc:
        raise UsageError(f"{what}: {exc.message}", remedy) from exc


def _swap_folder(part: Path, destination: Path) -> None:
    """Put the folder `part` at `destination`; the folder that was there is put back if that fails."""
    if not destination.exists():
        part.rename(destination)
        return
    old = part_beside(destination)
    destination.rename(old)
    try:
        part.rename(destination)
    except BaseException:
        old.rename(destination)
        raise
    shutil.rmtree(old, ignore_errors=True)
