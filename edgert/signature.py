"""Signatures of bundles: Ed25519 over the digest, in a DSSE envelope (secure-systems-lab/dsse v1).

The cryptography is that of `securesystemslib`, which is imported when it is first needed (extra `sign`).
Whether the files are what the digest says is left to `edgert.bundle`.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from edgert import strict_json
from edgert.bundle import check_bundle, read_signature
from edgert.bundle_write import write_signature
from edgert.disk import disk_failed, read_failed
from edgert.errors import BadInput, MissingExtra, UsageError, VerificationFailed
from edgert.json_fields import Fields
from edgert.manifest import SIGNATURE_NAME, check_plain

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer._crypto_signer import CryptoSigner
    from securesystemslib.signer._key import SSlibKey

PAYLOAD_TYPE = "application/vnd.edgert.bundle+json"
MAX_SIGNATURES = 32
MAX_KEY_BYTES = 10_000
_BASE64 = r"[A-Za-z0-9+/=]+"
_KEYGEN = "`edgert keygen` makes a pair of keys"
_REMEDY = "ask the publisher for a bundle that is signed with a key that you trust"


@dataclass(frozen=True)
class Payload:
    """What is signed: the digest of the manifest ("sha256:" and hex), and the bundle's name and version."""

    digest: str
    name: str
    version: str


@dataclass(frozen=True)
class Verified:
    """A bundle that the key `keyid` has signed."""

    keyid: str
    signed: Payload


def generate_key(private_path: Path, public_path: Path) -> str:
    """Make an Ed25519 key pair as two PEM files and return the key id; no file is ever overwritten.

    The private file has mode 0600 and is not encrypted.
    """
    _require_library()
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public, but not in an __all__

    signer = CryptoSigner.generate_ed25519()
    for path in (private_path, public_path):
        if path.exists():
            raise _in_the_way(path)
    _write_new(private_path, signer.private_bytes, 0o600)
    try:
        _write_new(public_path, _public_pem(signer), 0o644)
    except BaseException:
        private_path.unlink()
        raise
    return signer.public_key.keyid


def sign_bundle(path: Path, private_key_path: Path) -> str:
    """Check the bundle at `path`, sign it, and return the key id; the digest stays as it is.

    A signature by the same key is replaced, one by another key is kept. VerificationFailed if the bundle is
    damaged or the signature in it is for something else.
    """
    _require_library()
    from securesystemslib.dsse import Envelope

    signer = _load_signer(private_key_path)
    manifest, digest = check_bundle(path)
    signed = Payload(digest, manifest.name, manifest.version)
    existing = read_signature(path)
    if existing is None:
        envelope = Envelope(strict_json.dumps(asdict(signed)).encode("utf-8"), PAYLOAD_TYPE, {})
    else:
        envelope = _parse_envelope(existing, f"'{path}'")
        _check_payload(envelope, signed, f"'{path}'")
    envelope.sign(signer)
    write_signature(path, strict_json.dumps(envelope.to_dict()).encode("utf-8"))
    return signer.public_key.keyid


def verify_bundle(path: Path, public_keys: Sequence[Path | str]) -> Verified:
    """Check every file of the bundle at `path` and that one of `public_keys` has signed it.

    A key is the path of a PEM file, or PEM text. VerificationFailed names the file or the keys.
    """
    manifest, digest = check_bundle(path)
    signed = Payload(digest, manifest.name, manifest.version)
    return check_envelope(read_signature(path), signed, public_keys, f"'{path}'")


def check_envelope(
    envelope_data: bytes | None, signed: Payload, public_keys: Sequence[Path | str], where: str
) -> Verified:
    """Check that `envelope_data` has `signed` signed by one of `public_keys`; `where` names the bundle."""
    _require_library()
    from securesystemslib.exceptions import VerificationError

    if not public_keys:
        raise UsageError(f"{where}: no trusted key was given", "name at least one public key file")
    keys = [_load_public_key(key) for key in public_keys]
    trusted = f"trusted: {', '.join(key.keyid for key in keys)}"
    if envelope_data is None:
        raise VerificationFailed(f"{where} is not signed; {trusted}", _REMEDY)
    envelope = _parse_envelope(envelope_data, where)
    try:
        keyid = next(iter(envelope.verify(list(keys), 1)))
    except VerificationError as exc:
        reason = _signature_defect(list(envelope.signatures), [key.keyid for key in keys])
        raise VerificationFailed(f"{where}: {reason}; {trusted}", _REMEDY) from exc
    _check_payload(envelope, signed, where)
    return Verified(keyid, signed)


def _signature_defect(signers: Sequence[str], trusted: Sequence[str]) -> str:
    wrong = [keyid for keyid in signers if keyid in trusted]
    if wrong:
        return f"the signature by {', '.join(wrong)} is wrong"
    return f"it is signed by {', '.join(signers) or 'nobody'}, whom you do not trust"


def _parse_envelope(data: bytes, where: str) -> "Envelope":
    """Read an envelope; VerificationFailed unless it has the shape that the library takes for granted."""
    from securesystemslib.dsse import Envelope

    what = f"{where}: {SIGNATURE_NAME}"
    try:
        document = strict_json.loads(data, what)
        check_plain(document, what)
        top = Fields(document, what)
        top.word("payload", _BASE64)
        top.word("payloadType", re.escape(PAYLOAD_TYPE))
        keyids = []
        for item in top.items("signatures", MAX_SIGNATURES):
            entry = Fields(item, f"{what} 'signatures'")
            entry.word("sig", _BASE64)
            keyids.append(entry.word("keyid", "[0-9a-f]{64}"))
        if len(set(keyids)) < len(keyids):
            raise BadInput(f"{what} holds two signatures by one key")
        assert isinstance(document, dict)
        return Envelope.from_dict(document)
    except (BadInput, ValueError) as exc:
        message = exc.message if isinstance(exc, BadInput) else f"{what} is not base64: {exc}"
        raise VerificationFailed(message, _REMEDY) from exc


def _check_payload(envelope: "Envelope", signed: Payload, where: str) -> None:
    """Raise VerificationFailed unless the payload says what this bundle is."""
    what = f"{where}: the payload of {SIGNATURE_NAME}"
    try:
        top = Fields(strict_json.loads(envelope.payload, what), what)
        found = Payload(top.text("digest"), top.text("name"), top.text("version"))
    except BadInput as exc:
        raise VerificationFailed(exc.message, _REMEDY) from exc
    if found != signed:
        is_for = f"{found.name} {found.version} {found.digest}"
        this = f"{signed.name} {signed.version} {signed.digest}"
        raise VerificationFailed(f"{where}: the signature is for {is_for}, this is {this}", _REMEDY)


def _load_signer(path: Path) -> "CryptoSigner":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public, but not in an __all__

    try:
        key = load_pem_private_key(_read_key(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise BadInput(f"'{path}' is not a private key in PEM form without a password: {exc}", _KEYGEN) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"'{path}' is not an Ed25519 key", _KEYGEN)
    return CryptoSigner(key)


def _load_public_key(key: Path | str) -> "SSlibKey":
    """Read a public key from PEM text or from the file at a path."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # public, but not in an __all__

    is_text = isinstance(key, str) and key.lstrip().startswith("-----BEGIN")
    what = "the PEM text given as a key" if is_text else f"'{key}'"
    data = str(key).encode("utf-8") if is_text else _read_key(Path(key))
    try:
        public_key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise BadInput(f"{what} is not a public key in PEM form: {exc}", _KEYGEN) from exc
    if not isinstance(public_key, Ed25519PublicKey):
        raise BadInput(f"{what} is not an Ed25519 key", _KEYGEN)
    return SSlibKey.from_crypto(public_key)


def _public_pem(signer: "CryptoSigner") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    public_key = load_pem_private_key(signer.private_bytes, None).public_key()
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except FileNotFoundError as exc:
        raise BadInput(f"there is no key at '{path}'", _KEYGEN) from exc
    except OSError as exc:
        raise read_failed(exc, path) from exc
    if len(data) > MAX_KEY_BYTES:
        raise BadInput(f"'{path}' is not a key: it has more than {MAX_KEY_BYTES} bytes", _KEYGEN)
    return data


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not be there yet; nothing is left of it on failure."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    except FileExistsError as exc:
        raise _in_the_way(path) from exc
    except OSError as exc:
        raise disk_failed(exc, path, len(data)) from exc
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        path.unlink()
        raise disk_failed(exc, path, len(data)) from exc


def _in_the_way(path: Path) -> UsageError:
    return UsageError(f"'{path}' is there, and a key is never overwritten", "name another file")


def _require_library() -> None:
    """Raise MissingExtra unless the signature library is installed with its cryptography."""
    try:
        import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
        import_module("securesystemslib.dsse")
    except ImportError as exc:
        raise MissingExtra(
            "signatures need securesystemslib, which is not installed", "pip install 'edgert[sign]'"
        ) from exc
