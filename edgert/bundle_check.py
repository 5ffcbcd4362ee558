"""Whether a bundle is what its manifest says: names, then sizes, then SHA-256 digests.

Pure decisions over `Contents`; opening and unpacking are left to `edgert.bundle`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from edgert.bundle_contents import Contents, read_whole
from edgert.errors import BadInput, VerificationFailed
from edgert.external_data import check_external_data
from edgert.json_fields import name_defect
from edgert.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    MEASUREMENTS_NAME,
    OUTSIDE_DIGEST,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    parse_manifest,
)
from edgert.strict_json import MAX_BYTES

MAX_SIGNATURE_BYTES = 100_000
_LIMITS = {
    MANIFEST_NAME: MAX_MANIFEST_BYTES,
    MEASUREMENTS_NAME: MAX_BYTES,
    SIGNATURE_NAME: MAX_SIGNATURE_BYTES,
}
_REMEDY = "take a fresh copy of the bundle, or make it again with `edgert convert`"


@dataclass(frozen=True)
class Checked:
    """A bundle whose names and sizes are right; `digest` is "sha256:" and hex, of the manifest."""

    manifest: Manifest
    manifest_data: bytes
    digest: str


def digest_of(manifest_data: bytes) -> str:
    """Return the digest of the bundle with these manifest bytes."""
    return f"sha256:{hashlib.sha256(manifest_data).hexdigest()}"


def check_names_and_sizes(contents: Contents) -> Checked:
    """Read the manifest and compare names and sizes with it.

    VerificationFailed names the file; BadInput if this is no bundle.
    Nothing is read but the manifest, and that only when it is small enough.
    """
    where = f"'{contents.path}'"
    if MANIFEST_NAME not in contents.sizes:
        raise BadInput(f"{where} is not a bundle: it holds no {MANIFEST_NAME}", "name a .edgert file or a folder")
    for name, size in contents.sizes.items():
        defect = name_defect(name)
        if defect:
            raise _wrong(f"{where} holds {name[:200]!a}, which {defect}")
        if size > _LIMITS.get(name, size):
            raise _wrong(f"{where}: '{name}' is {size} bytes, at most {_LIMITS[name]} are allowed")
    data = read_whole(contents, MANIFEST_NAME)
    try:
        manifest = parse_manifest(data)
    except BadInput as exc:
        raise VerificationFailed(f"{where}: {exc.message}", exc.remedy) from exc
    _compare(contents, manifest.files, where)
    return Checked(manifest, data, digest_of(data))


def _compare(contents: Contents, files: Iterable[FileEntry], where: str) -> None:
    declared = {entry.name: entry.bytes for entry in files}
    for name, size in declared.items():
        if name not in contents.sizes:
            raise _wrong(f"{where}: '{name}' is missing")
        if contents.sizes[name] != size:
            raise _wrong(f"{where}: '{name}' is {contents.sizes[name]} bytes, the manifest says {size}")
    for name in sorted(contents.sizes.keys() - declared.keys() - {MANIFEST_NAME, *OUTSIDE_DIGEST}):
        raise _wrong(f"{where} holds '{name}', which {MANIFEST_NAME} does not list")


def check_digests(contents: Contents, manifest: Manifest) -> None:
    """Hash every listed file and check the external data of models; VerificationFailed names the file."""
    for entry in manifest.files:
        sha256 = hashlib.sha256()
        for chunk in contents.chunks(entry.name):
            sha256.update(chunk)
        check_digest(entry, sha256.hexdigest(), f"'{contents.path}'")
    check_models(contents, manifest)


def check_digest(entry: FileEntry, sha256: str, where: str) -> None:
    """Raise VerificationFailed if the bytes of a file are not those the manifest lists."""
    if sha256 != entry.sha256:
        raise _wrong(f"{where}: '{entry.name}' has SHA-256 {sha256}, the manifest says {entry.sha256}")


def check_models(contents: Contents, manifest: Manifest) -> None:
    """Raise VerificationFailed if a model takes weights from anything but a listed file."""
    listed = {entry.name for entry in manifest.files}
    for name in sorted({variant.file for variant in manifest.variants}):
        check_external_data(read_whole(contents, name), listed, f"'{contents.path}': '{name}'")


def _wrong(message: str) -> VerificationFailed:
    return VerificationFailed(message, _REMEDY)
