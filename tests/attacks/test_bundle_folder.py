"""Attacks on a bundle in folder form: names, links, bits, counts, and hostile JSON."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgert.bundle import check_bundle, open_bundle, write_bundle
from edgert.errors import BadInput, VerificationFailed
from edgert.signature import generate_key, sign_bundle, verify_bundle
from tests.bundle_files import BUNDLE_FILES, read_manifest, small_manifest, small_model, stage, write_manifest

Document = dict[str, object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    write_bundle(stage(tmp_path / "staging"), small_manifest(), path)
    return path


def refused(folder: Path, message: str) -> None:
    """Assert that the bundle is refused as what it is, quickly, with exit code 1."""
    with pytest.raises(VerificationFailed, match=message) as caught:
        open_bundle(folder)
    assert caught.value.exit_code == 1
    assert caught.value.remedy


def rename_file(folder: Path, name: str) -> None:
    """Have the manifest call `weights.bin` by another name."""
    document = read_manifest(folder)
    files = document["files"]
    assert isinstance(files, list)
    next(entry for entry in files if entry["name"] == "weights.bin")["name"] = name
    write_manifest(folder, document)


@pytest.mark.parametrize("name", BUNDLE_FILES)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_bit_flip_in_a_listed_file_is_refused_by_name(folder: Path, name: str, where: str) -> None:
    """One wrong bit at either end or in the middle of any file is found, and the file is named."""
    path = folder / name
    data = bytearray(path.read_bytes())
    data[{"first": 0, "middle": len(data) // 2, "last": -1}[where]] ^= 1
    path.write_bytes(data)
    refused(folder, rf"'{name}' has SHA-256")


@pytest.mark.parametrize("name", ["manifest.json", "signature.dsse.json"])
def test_bit_flip_in_the_manifest_or_signature_of_a_signed_bundle_is_refused(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """Not one flipped bit in every seventh byte gets past the signature."""
    generate_key(tmp_path / "key", tmp_path / "key.pub")
    sign_bundle(folder, tmp_path / "key")
    path = folder / name
    data = path.read_bytes()
    verify_bundle(folder, [tmp_path / "key.pub"])
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(VerificationFailed):
            open_bundle(folder, trusted_keys=[tmp_path / "key.pub"])


def test_signature_moved_to_another_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    """A right signature of something else says what it is for."""
    generate_key(tmp_path / "key", tmp_path / "key.pub")
    sign_bundle(folder, tmp_path / "key")
    other = tmp_path / "other"
    write_bundle(tmp_path / "staging", small_manifest(version="0.9"), other)
    (folder / "signature.dsse.json").rename(other / "signature.dsse.json")
    with pytest.raises(VerificationFailed, match=r"is for small 1\.0\.0 .* this is small 0\.9"):
        open_bundle(other, trusted_keys=[tmp_path / "key.pub"])
    with pytest.raises(VerificationFailed, match="is for small"):
        sign_bundle(other, tmp_path / "key")


ENVELOPES = [
    b"",
    b"[]",
    b"{}",
    b'{"payload": "e30=", "payloadType": "x", "signatures": []}',
    b'{"payload": 1, "payloadType": "application/vnd.edgert.bundle+json", "signatures": []}',
    b'{"payload": "e30=", "payloadType": "application/vnd.edgert.bundle+json", "signatures": []}',
    b'{"payload": "e30", "payloadType": "application/vnd.edgert.bundle+json", "signatures": []}',
    b'{"payload": "e30=", "payloadType": "application/vnd.edgert.bundle+json", "signatures": [1]}',
    b'{"payload": "e30=", "payloadType": "application/vnd.edgert.bundle+json", "signatures": [{"keyid": "a"}]}',
    b'{"payload": "e30=", "payloadType": "application/vnd.edgert.bundle+json", "signatures": ['
    + b",".join([b'{"keyid": "' + b"a" * 64 + b'", "sig": "AAAA"}'] * 2)
    + b"]}",
    b'{"payload": "e30=", "payloadType": "application/vnd.edgert.bundle+json", "signatures": ['
    + b",".join([b'{"keyid": "%064d", "sig": "AAAA"}' % number for number in range(500)])
    + b"]}",
    b"x" * 200_000,
]


@pytest.mark.parametrize("envelope", ENVELOPES, ids=range(len(ENVELOPES)))
def test_signature_that_is_no_envelope_is_refused(folder: Path, tmp_path: Path, envelope: bytes) -> None:
    """Whatever lies in the file, the answer is one error and never a traceback."""
    generate_key(tmp_path / "key", tmp_path / "key.pub")
    (folder / "signature.dsse.json").write_bytes(envelope)
    with pytest.raises(VerificationFailed, match=r"signature\.dsse\.json|nobody"):
        open_bundle(folder, trusted_keys=[tmp_path / "key.pub"])


def test_signature_under_a_trusted_key_id_but_wrong_is_refused(folder: Path, tmp_path: Path) -> None:
    """The key id is only a hint: the signature itself must be right, and the key is named."""
    keyid = generate_key(tmp_path / "key", tmp_path / "key.pub")
    sign_bundle(folder, tmp_path / "key")
    path = folder / "signature.dsse.json"
    envelope = json.loads(path.read_text())
    envelope["signatures"][0]["sig"] = "A" * 86 + "=="
    path.write_text(json.dumps(envelope))
    with pytest.raises(VerificationFailed, match=f"the signature by {keyid} is wrong"):
        verify_bundle(folder, [tmp_path / "key.pub"])


@pytest.mark.parametrize(
    "name",
    [
        "../weights.bin",
        "/etc/passwd",
        "a/b.bin",
        "..\\weights.bin",
        "C:\\weights.bin",
        "c:weights.bin",
        "..",
        ".",
        ".hidden",
        "",
        "Weights.bin",
        "weights.bin\n",
        "weights\x00.bin",
        "\x1b[2Jweights.bin",
        "we\u0131ghts.bin",
        "weights.bin.",
        "nul",
        "com1.bin",
        "a" * 101,
        "manifest.json",
        "measurements.json",
        "signature.dsse.json",
    ],
)
def test_listed_name_that_is_not_flat_is_refused(folder: Path, name: str) -> None:
    """No name leaves the folder, differs by case only, or has an effect on a terminal."""
    rename_file(folder, name)
    refused(folder, "manifest.json")


def test_listed_path_outside_the_folder_is_refused_though_the_file_is_there(folder: Path) -> None:
    """The digest of the file outside is right, and it is still not read."""
    (folder / "weights.bin").rename(folder.parent / "weights.bin")
    rename_file(folder, "../weights.bin")
    refused(folder, "a-z 0-9")


@pytest.mark.parametrize("name", ["weights.bin", "manifest.json", "measurements.json"])
def test_symlink_in_the_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    """A link is refused even if what it points to is right."""
    (folder / name).rename(tmp_path / "elsewhere")
    try:
        (folder / name).symlink_to(tmp_path / "elsewhere")
    except OSError as error:
        pytest.skip(f"links cannot be made here: {error}")
    refused(folder, f"'{name}', which is a symbolic link")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_named_pipe_in_the_folder_is_refused_without_waiting(folder: Path) -> None:
    """Opening a pipe would wait for ever; it is not opened."""
    (folder / "weights.bin").unlink()
    os.mkfifo(folder / "weights.bin")
    refused(folder, "not a plain file")


def test_folder_in_the_folder_is_refused(folder: Path) -> None:
    """A bundle is flat."""
    (folder / "more").mkdir()
    refused(folder, "'more', which is not a plain file")


def test_missing_file_is_refused_by_name(folder: Path) -> None:
    """What the manifest lists must be there."""
    (folder / "golden.npz").unlink()
    refused(folder, r"'golden\.npz' is missing")


@pytest.mark.parametrize("name", ["extra.bin", "Weights.bin", ".hidden", "we\nird"])
def test_extra_file_is_refused_by_name(folder: Path, name: str) -> None:
    """What the manifest does not list must not be there: a model could take it as external data."""
    (folder / name).write_bytes(b"x")
    refused(folder, "holds")


@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_size_is_refused_by_name(folder: Path, change: int) -> None:
    """A file that is cut or longer is found before it is hashed."""
    path = folder / "weights.bin"
    path.write_bytes(bytes(8192 + change))
    refused(folder, f"'weights.bin' is {8192 + change} bytes, the manifest says 8192")


def test_wrong_digest_in_the_manifest_is_refused_by_name(folder: Path) -> None:
    """The file is right and the manifest is wrong: the two differ all the same."""
    document = read_manifest(folder)
    document["files"][0]["sha256"] = "0" * 64  # type: ignore[index]
    write_manifest(folder, document)
    refused(folder, "has SHA-256")


@pytest.mark.parametrize("size", [1 << 40, 1 << 62, 1 << 200, -1, 1.5, "8192", None])
def test_huge_or_mistyped_declared_size_is_refused_at_once(folder: Path, size: object) -> None:
    """A size is compared before memory is asked for."""
    document = read_manifest(folder)
    document["files"][0]["bytes"] = size  # type: ignore[index]
    write_manifest(folder, document)
    refused(folder, "bytes")


def many(key: str, entry: object, count: int) -> Callable[[Document], Document]:
    return lambda document: {**document, key: [entry] * count}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (many("files", {"name": "a", "bytes": 1, "sha256": "0" * 64}, 257), "257 entries"),
        (many("variants", {"name": "a", "precision": "fp32", "file": "a"}, 257), "257 entries"),
        (many("inputs", {}, 1025), "1025 entries"),
        (many("isa", "a", 1025), "1025 entries"),
        (many("warnings", "a", 300_000), "at most 1000000 are allowed"),
        (many("inputs", {"name": "x", "dtype": "f", "shape": [1] * 65}, 1), "65 entries"),
        (lambda document: {**document, "warnings": ["x" * 5000]}, "5000 characters"),
        (lambda document: {**document, "recipe": {str(n): n for n in range(2000)}}, "2000 entries"),
    ],
)
def test_huge_counts_are_refused(folder: Path, change: Callable[[Document], Document], message: str) -> None:
    """Every list, table and text of the manifest has a limit."""
    write_manifest(folder, change(read_manifest(folder)))
    refused(folder, message)


def test_huge_number_of_files_in_the_folder_is_refused(folder: Path) -> None:
    """The listing stops at the limit."""
    for number in range(300):
        (folder / f"{number}.bin").touch()
    refused(folder, "more than the 259 files")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x00" * 100,
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b'{"name": 1, "name": 2}',
        b'{"schema_version": NaN}',
        b'{"schema_version": Infinity}',
        b'{"schema_version": 1e999}',
        b'{"schema_version": 1, "x": -1e999}',
        b'{"schema_version": 1, "x": "\\ud800"}',
        b'{"schema_version": ' + b"9" * 10_000 + b"}",
        b'{"schema_version": true}',
        b'{"schema_version": 1.0}',
        b" " * 1_000_001,
    ],
    ids=lambda text: repr(text[:24]),
)
def test_hostile_manifest_is_refused_quickly(folder: Path, text: bytes) -> None:
    """Nested too deep, a key twice, NaN, infinity, no text, too large: one error each, at once."""
    (folder / "manifest.json").write_bytes(text)
    before = time.monotonic()
    refused(folder, "manifest.json")
    assert time.monotonic() - before < 5


@pytest.mark.parametrize(
    "options",
    [{"backend_path": "/tmp/evil.so"}, {"backend_path": "..\\evil.dll"}, {"a b": "1"}, {"x": 1}, {"x": "a\nb"}],
)
def test_provider_option_that_names_a_path_is_refused(folder: Path, options: Document) -> None:
    """An option such as `backend_path` would have any library loaded; the runtime, not a bundle, names paths."""
    document = read_manifest(folder)
    document["placements"][0]["options"] = options  # type: ignore[index]
    write_manifest(folder, document)
    refused(folder, "options")


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/passwd", "elsewhere.bin", "*/_ORT_MEM_ADDR_/*", "manifest.json"]
)
def test_model_with_external_data_outside_the_list_is_refused(folder: Path, tmp_path: Path, location: str) -> None:
    """A manifest whose digests are all right cannot have ONNX Runtime read another file, or memory."""
    model = small_model(location).SerializeToString()
    (folder / "fp32.onnx").write_bytes(model)
    relist(folder, "fp32.onnx", model)
    refused(folder, "takes weights from")


def test_model_with_external_data_in_a_subgraph_is_refused(folder: Path) -> None:
    """Tensors are looked for wherever they may be: here in a branch of an If node."""
    from onnx import helper

    inner = small_model("../secret.bin").graph
    branch = helper.make_graph(inner.node, "branch", [], inner.output, inner.initializer)
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    outer = helper.make_graph([node], "outer", [], inner.output)
    model = helper.make_model(outer).SerializeToString()
    (folder / "fp32.onnx").write_bytes(model)
    relist(folder, "fp32.onnx", model)
    refused(folder, "takes weights from")


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_model_that_is_cut_is_refused(folder: Path, cut: int) -> None:
    """A model that cannot be walked is not handed out."""
    model = small_model().SerializeToString()[:-cut]
    (folder / "fp32.onnx").write_bytes(model)
    relist(folder, "fp32.onnx", model)
    refused(folder, "is not an ONNX model")


def relist(folder: Path, name: str, data: bytes) -> None:
    """Have the manifest vouch for `data`, as an attacker would."""
    import hashlib

    document = read_manifest(folder)
    files = document["files"]
    assert isinstance(files, list)
    entry = next(entry for entry in files if entry["name"] == name)
    entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    write_manifest(folder, document)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"1", b"{", b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": 1e999}', b"[" * 100_000, b"\xff"],
    ids=lambda text: repr(text[:24]),
)
def test_hostile_measurements_are_refused_when_they_are_read(folder: Path, text: bytes) -> None:
    """The bundle opens, for nothing that runs depends on them; reading or verifying them says what is wrong."""
    (folder / "measurements.json").write_bytes(text)
    bundle = open_bundle(folder)
    with pytest.raises(VerificationFailed, match=r"measurements\.json"):
        bundle.measurements()
    with pytest.raises(VerificationFailed, match=r"measurements\.json"):
        check_bundle(folder)


def test_huge_measurements_are_refused_unread(folder: Path) -> None:
    """The size is looked at first; the file is sparse."""
    with (folder / "measurements.json").open("wb") as file:
        file.truncate(1 << 33)
    refused(folder, r"measurements\.json' is 8589934592 bytes")


def test_file_in_the_place_of_the_manifest_of_a_folder_is_no_bundle(folder: Path) -> None:
    """Without a manifest there is nothing to check against."""
    (folder / "manifest.json").unlink()
    with pytest.raises(BadInput, match="holds no manifest"):
        open_bundle(folder)


def test_duplicate_key_among_very_many_is_found_quickly(folder: Path) -> None:
    """Looking for the key that is there twice takes time in proportion to the keys, not to their square."""
    keys = [f'"{number:05d}":0' for number in range(40_000)]
    (folder / "manifest.json").write_text("{" + ",".join([*keys, keys[-1]]) + "}")
    before = time.monotonic()
    refused(folder, "'39999' twice")
    assert time.monotonic() - before < 5
