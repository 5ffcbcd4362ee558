"""Opening a bundle: names, sizes, digests and the signature are checked before a byte of it is handed out.

`docs/bundle-format.md` is the normative text. Running what is inside is left to `edgert.runtime`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgert import strict_json
from edgert.bundle_cache import cached_folder
from edgert.bundle_check import Checked, check_digests, check_names_and_sizes
from edgert.bundle_contents import Contents, ZipContents, read_whole, scan
from edgert.bundle_write import SUFFIX, write_bundle
from edgert.errors import BadInput, UsageError, VerificationFailed
from edgert.manifest import MANIFEST_NAME, MEASUREMENTS_NAME, SIGNATURE_NAME, Manifest, check_plain

__all__ = ["SUFFIX", "Bundle", "check_bundle", "open_bundle", "write_bundle"]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: `folder` holds its files, `path` was opened, `digest` is "sha256:" and hex."""

    folder: Path
    manifest: Manifest
    digest: str
    path: Path

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists; UsageError on any other name."""
        if name != MANIFEST_NAME and all(entry.name != name for entry in self.manifest.files):
            listed = ", ".join(entry.name for entry in self.manifest.files)
            raise UsageError(f"'{self.path}' lists no file {name[:100]!a}", f"it lists: {listed}")
        return self.folder / name

    def measurements(self) -> Mapping[str, object] | None:
        """Return what was measured at conversion, None when there is nothing; nothing vouches for it.

        VerificationFailed when it is not a JSON object that can be read.
        """
        contents = scan(self.path)
        if MEASUREMENTS_NAME not in contents.sizes:
            return None
        check_names_and_sizes(contents)
        return _parse_measurements(read_whole(contents, MEASUREMENTS_NAME), f"'{self.path}'")


def open_bundle(
    path: str | Path, *, trusted_keys: Sequence[str | Path] | None = None, cache: Path | None = None
) -> Bundle:
    """Open the folder or `.edgert` file at `path` and check everything in it.

    With `trusted_keys` (public keys: paths of PEM files, or PEM text) one of them must have signed it. A
    `.edgert` file is unpacked once into `cache` (by default `edgert.host.cache_dir()`); a folder is used in
    place and nothing is written. BadInput if it is no bundle, VerificationFailed if it is not what its
    manifest or signature says, EnvironmentFailed if it cannot be read or unpacked.
    """
    path = Path(path)
    contents = scan(path)
    checked = check_names_and_sizes(contents)
    if trusted_keys is not None:
        _check_signature(contents, checked, trusted_keys)
    if isinstance(contents, ZipContents):
        folder = cached_folder(contents, checked, _cache(cache))
    else:
        check_digests(contents, checked.manifest)
        folder = path
    return Bundle(folder, checked.manifest, checked.digest, path)


def check_bundle(path: str | Path) -> tuple[Manifest, str]:
    """Check every byte of the bundle at `path` where it lies; return its manifest and digest.

    The signature is left to `edgert.signature`. Nothing is unpacked. Errors are those of `open_bundle`.
    """
    contents = scan(Path(path))
    checked = check_names_and_sizes(contents)
    check_digests(contents, checked.manifest)
    if MEASUREMENTS_NAME in contents.sizes:
        _parse_measurements(read_whole(contents, MEASUREMENTS_NAME), f"'{path}'")
    return checked.manifest, checked.digest


def read_signature(path: str | Path) -> bytes | None:
    """Return the signature envelope of the bundle at `path` as it is, None when the bundle is not signed."""
    contents = scan(Path(path))
    check_names_and_sizes(contents)
    return read_whole(contents, SIGNATURE_NAME) if SIGNATURE_NAME in contents.sizes else None


def _check_signature(contents: Contents, checked: Checked, trusted_keys: Sequence[str | Path]) -> None:
    from edgert import signature  # not needed by those who give no keys

    envelope = read_whole(contents, SIGNATURE_NAME) if SIGNATURE_NAME in contents.sizes else None
    signed = signature.Payload(checked.digest, checked.manifest.name, checked.manifest.version)
    signature.check_envelope(envelope, signed, trusted_keys, f"'{contents.path}'")


def _cache(cache: Path | None) -> Path:
    if cache is not None:
        return cache
    from edgert.host import cache_dir

    return cache_dir()


def _parse_measurements(data: bytes, where: str) -> Mapping[str, object]:
    try:
        document = strict_json.loads(data, MEASUREMENTS_NAME)
        check_plain(document, MEASUREMENTS_NAME)
    except BadInput as exc:
        raise VerificationFailed(f"{where}: {exc.message}", exc.remedy) from exc
    if not isinstance(document, dict):
        raise VerificationFailed(f"{where}: {MEASUREMENTS_NAME} is not an object", "take a fresh copy of the bundle")
    return document
