"""Signatures: who signed is known, what was signed is exact, and keys are never lost."""

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgert.bundle import open_bundle, write_bundle
from edgert.errors import BadInput, EnvironmentFailed, UsageError, VerificationFailed
from edgert.signature import generate_key, sign_bundle, verify_bundle
from tests.bundle_files import small_manifest, stage, zip_members

SIGNATURE = "signature.dsse.json"


class Keys:
    """A key pair in files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.private, self.public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
        self.keyid = generate_key(self.private, self.public)


@pytest.fixture
def alice(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "alice")


@pytest.fixture
def bob(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "bob")


@pytest.fixture(params=["small.edgert", "small"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A bundle in each of the two forms."""
    path = tmp_path / str(request.param)
    write_bundle(stage(tmp_path / "staging"), small_manifest(), path)
    return path


def read_envelope(bundle: Path) -> dict[str, list[dict[str, str]]]:
    data = (bundle / SIGNATURE).read_bytes() if bundle.is_dir() else zip_members(bundle)[SIGNATURE]
    envelope = json.loads(data)
    assert isinstance(envelope, dict)
    return envelope


def test_signature_by_a_trusted_key_is_verified(bundle: Path, alice: Keys, bob: Keys, tmp_path: Path) -> None:
    """The key that signed is reported, and the digest is that of before."""
    before = open_bundle(bundle, cache=tmp_path / "cache").digest
    assert sign_bundle(bundle, alice.private) == alice.keyid
    verified = verify_bundle(bundle, [bob.public, alice.public])
    assert (verified.keyid, verified.signed.digest, verified.signed.name) == (alice.keyid, before, "small")
    found = open_bundle(bundle, trusted_keys=[alice.public], cache=tmp_path / "cache")
    assert found.digest == before


def test_signature_key_given_as_pem_text_is_accepted(bundle: Path, alice: Keys, tmp_path: Path) -> None:
    """A program may hold its keys in memory."""
    sign_bundle(bundle, alice.private)
    open_bundle(bundle, trusted_keys=[alice.public.read_text()], cache=tmp_path / "cache")


def test_signature_made_twice_has_the_same_bytes(bundle: Path, alice: Keys) -> None:
    """Signing again with the same key replaces its signature; Ed25519 has no randomness."""
    sign_bundle(bundle, alice.private)
    first = read_envelope(bundle)
    sign_bundle(bundle, alice.private)
    assert read_envelope(bundle) == first
    assert len(first["signatures"]) == 1


def test_signature_by_a_second_key_is_added(bundle: Path, alice: Keys, bob: Keys) -> None:
    """Each of the two is enough."""
    sign_bundle(bundle, alice.private)
    sign_bundle(bundle, bob.private)
    assert verify_bundle(bundle, [alice.public]).keyid == alice.keyid
    assert verify_bundle(bundle, [bob.public]).keyid == bob.keyid


def test_signature_missing_is_refused_with_the_trusted_key_ids(bundle: Path, alice: Keys, tmp_path: Path) -> None:
    """An unsigned bundle is not opened when keys are given, though it is when none are."""
    open_bundle(bundle, cache=tmp_path / "cache")
    with pytest.raises(VerificationFailed, match=f"is not signed; trusted: {alice.keyid}"):
        open_bundle(bundle, trusted_keys=[alice.public], cache=tmp_path / "cache")


def test_signature_by_another_key_is_refused_with_both_key_ids(
    bundle: Path, alice: Keys, bob: Keys, tmp_path: Path
) -> None:
    """The error names who signed and who is trusted."""
    sign_bundle(bundle, alice.private)
    with pytest.raises(VerificationFailed, match=f"signed by {alice.keyid}.* trusted: {bob.keyid}"):
        open_bundle(bundle, trusted_keys=[bob.public], cache=tmp_path / "cache")


def test_signature_of_an_earlier_opening_does_not_vouch_for_an_unsigned_copy(alice: Keys, tmp_path: Path) -> None:
    """Both copies share one cache entry, but each is judged by its own signature."""
    signed, unsigned = tmp_path / "signed.edgert", tmp_path / "unsigned.edgert"
    staging = stage(tmp_path / "staging")
    for path in (signed, unsigned):
        write_bundle(staging, small_manifest(), path)
    sign_bundle(signed, alice.private)
    open_bundle(signed, trusted_keys=[alice.public], cache=tmp_path / "cache")
    with pytest.raises(VerificationFailed, match="is not signed"):
        open_bundle(unsigned, trusted_keys=[alice.public], cache=tmp_path / "cache")
    open_bundle(signed, trusted_keys=[alice.public], cache=tmp_path / "cache")


def test_signature_with_no_trusted_key_at_all_is_a_usage_error(bundle: Path, alice: Keys) -> None:
    """An empty list trusts nobody; it does not switch the check off."""
    sign_bundle(bundle, alice.private)
    with pytest.raises(UsageError, match="no trusted key"):
        open_bundle(bundle, trusted_keys=[])


def test_sign_bundle_that_is_damaged_is_refused(alice: Keys, tmp_path: Path) -> None:
    """Nobody vouches for a file that is not what its manifest says."""
    folder = tmp_path / "folder"
    write_bundle(stage(tmp_path / "staging"), small_manifest(), folder)
    (folder / "weights.bin").write_bytes(b"\1" * 8192)
    with pytest.raises(VerificationFailed, match=r"weights\.bin"):
        sign_bundle(folder, alice.private)
    assert not (folder / SIGNATURE).exists()


def test_generate_key_never_overwrites_a_file(alice: Keys, tmp_path: Path) -> None:
    """A key that is lost cannot be had again; no half pair is left either."""
    before = alice.private.read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        generate_key(alice.private, tmp_path / "new.pub")
    with pytest.raises(UsageError, match="never overwritten"):
        generate_key(tmp_path / "new.pem", alice.public)
    assert alice.private.read_bytes() == before
    assert not (tmp_path / "new.pub").exists()
    assert not (tmp_path / "new.pem").exists()


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_generate_key_private_file_is_for_its_owner_only(alice: Keys) -> None:
    """Mode 0600, whatever the umask."""
    assert stat.S_IMODE(alice.private.stat().st_mode) == 0o600


def test_generate_key_where_nothing_can_be_written_is_the_environment(tmp_path: Path) -> None:
    """A missing folder is named, and no private key without its public one is left."""
    with pytest.raises(EnvironmentFailed, match="cannot write"):
        generate_key(tmp_path / "key.pem", tmp_path / "missing" / "key.pub")
    assert not (tmp_path / "key.pem").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PUBLIC KEY-----\nxx\n", b"x" * 20_000])
def test_key_file_that_is_no_key_is_bad_input(bundle: Path, tmp_path: Path, content: bytes) -> None:
    """Private and public alike; the error names the file and how keys are made."""
    wrong = tmp_path / "wrong.pem"
    wrong.write_bytes(content)
    for call in (lambda: sign_bundle(bundle, wrong), lambda: verify_bundle(bundle, [wrong])):
        with pytest.raises(BadInput, match=r"wrong\.pem") as caught:
            call()
        assert "keygen" in caught.value.remedy


def test_key_of_another_kind_is_bad_input(bundle: Path, tmp_path: Path) -> None:
    """Only Ed25519 is accepted, so nobody can be talked into a weaker key."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "ec.pem", tmp_path / "ec.pub"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(BadInput, match="not an Ed25519 key"):
        sign_bundle(bundle, private)
    with pytest.raises(BadInput, match="not an Ed25519 key"):
        verify_bundle(bundle, [public])


def test_private_key_in_the_place_of_a_public_one_is_bad_input(bundle: Path, alice: Keys) -> None:
    """Mixing up the two files is an error with a name, not a traceback."""
    sign_bundle(bundle, alice.private)
    with pytest.raises(BadInput, match="not a public key"):
        verify_bundle(bundle, [alice.private])
    with pytest.raises(BadInput, match="not a private key"):
        sign_bundle(bundle, alice.public)


def test_signature_is_what_plain_cryptography_computes(bundle: Path, alice: Keys) -> None:
    """The envelope is DSSE v1: Ed25519 over the pre-authentication encoding of type and payload."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    sign_bundle(bundle, alice.private)
    envelope = read_envelope(bundle)
    payload, kind = base64.b64decode(str(envelope["payload"])), str(envelope["payloadType"]).encode()
    encoded = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    key = load_pem_public_key(alice.public.read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), encoded)
    assert set(json.loads(payload)) == {"digest", "name", "version"}


WITHOUT_THE_LIBRARY = """
import sys, pathlib
sys.modules["securesystemslib"] = None
from edgert.errors import MissingExtra
from edgert.bundle import open_bundle
bundle, key = sys.argv[1:]
assert open_bundle(bundle).manifest.name == "small"
try:
    open_bundle(bundle, trusted_keys=[key])
except MissingExtra as error:
    print(error.exit_code, error.remedy)
"""


def test_signature_without_the_library_names_the_command_that_installs_it(bundle: Path, alice: Keys) -> None:
    """Bundles open without securesystemslib; checking a signature says what is missing, with exit code 3."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WITHOUT_THE_LIBRARY, str(bundle), str(alice.public)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3 pip install 'edgert[sign]'"
