"""Attacks on a bundle in zip form: compression, links, doubled and hidden members, lengths that lie."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgert.bundle import check_bundle, open_bundle, write_bundle
from edgert.errors import BadInput, EdgertError, VerificationFailed
from edgert.signature import generate_key, sign_bundle
from tests.bundle_files import BUNDLE_FILES, forge_zip, small_manifest, stage, zip_members

ALL = ("manifest.json", *BUNDLE_FILES, "measurements.json", "signature.dsse.json")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A signed bundle file."""
    path = tmp_path / "small.edgert"
    write_bundle(stage(tmp_path / "staging"), small_manifest(), path)
    generate_key(tmp_path / "key", tmp_path / "key.pub")
    sign_bundle(path, tmp_path / "key")
    return path


def refused(path: Path, message: str) -> None:
    """Assert that the file is refused, and that nothing was unpacked from it."""
    cache = path.parent / "cache"
    with pytest.raises(VerificationFailed, match=message) as caught:
        open_bundle(path, cache=cache)
    assert caught.value.remedy
    assert not list(cache.rglob("*.onnx"))


def forge(path: Path, name: str, change: Callable[[zipfile.ZipInfo], None]) -> None:
    """Write the members again, with `change` of the record of one of them."""
    forge_zip(path, zip_members(path), lambda info: change(info) if info.filename == name else None)


def patch_directory(path: Path, name: str, at: int, value: bytes) -> None:
    """Overwrite bytes of the directory record of one member."""
    data = path.read_bytes()
    start = data.rindex(name.encode()) - 46
    assert data[start : start + 4] == b"PK\1\2"
    path.write_bytes(data[: start + at] + value + data[start + at + len(value) :])


@pytest.mark.parametrize("name", ALL)
def test_bit_flip_in_a_member_is_refused(packed: Path, tmp_path: Path, name: str) -> None:
    """One wrong bit in the middle of any member is found: by digest, by signature, or by CRC-32."""
    data, content = packed.read_bytes(), zip_members(packed)[name]
    start = data.index(content)
    at = start + len(content) // 2
    packed.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(VerificationFailed, match=r"'.*small\.edgert'"):
        check_bundle(packed)
        open_bundle(packed, trusted_keys=[tmp_path / "key.pub"], cache=tmp_path / "cache")


def test_bit_flip_in_the_zip_structure_is_refused(packed: Path) -> None:
    """Not one flipped bit in any header, directory or end record is overlooked."""
    data, members = packed.read_bytes(), zip_members(packed)
    inside: set[int] = set()
    for content in members.values():
        start = data.index(content)
        inside |= set(range(start, start + len(content)))
    for at in sorted(set(range(len(data))) - inside):
        packed.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises((VerificationFailed, BadInput)):
            check_bundle(packed)


def test_zip_bomb_is_refused_for_it_is_compressed(packed: Path) -> None:
    """A member of 100 MB in 100 kB never gets to be inflated."""
    members = {**zip_members(packed), "weights.bin": bytes(100_000_000)}

    def deflate(info: zipfile.ZipInfo) -> None:
        if info.filename == "weights.bin":
            info.compress_type = zipfile.ZIP_DEFLATED

    forge_zip(packed, members, deflate)
    assert packed.stat().st_size < 1_000_000
    refused(packed, "'weights.bin' is compressed")


def test_zip_bomb_of_overlapping_members_is_refused(packed: Path) -> None:
    """Two directory records that share the same bytes do not add up."""
    members = zip_members(packed)
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(members, key=lambda name: (name != "manifest.json", name)):
            archive.writestr(zipfile.ZipInfo(name), members[name])
        archive.filelist[-1].header_offset = archive.filelist[-2].header_offset
        archive._didModify = True  # type: ignore[attr-defined]
    refused(packed, "damaged or forged")


def test_symlink_in_the_zip_is_refused(packed: Path) -> None:
    """A link member could have a later one written anywhere."""

    def link(info: zipfile.ZipInfo) -> None:
        info.external_attr = 0o120777 << 16

    forge(packed, "weights.bin", link)
    refused(packed, "'weights.bin' is a symbolic link")


@pytest.mark.parametrize("flag", [0x1, 0x40, 0x2000])
def test_encrypted_flag_is_refused(packed: Path, flag: int) -> None:
    """Each of the flags that zip has for encryption."""
    patch_directory(packed, "weights.bin", 8, struct.pack("<H", flag))
    refused(packed, "'weights.bin' is encrypted")


@pytest.mark.parametrize(
    "name", ["../escape.bin", "/abs.bin", "a\\b.bin", "C:\\x.bin", "sub/x.bin", "X.bin", "n\x1bl.bin", ".x", "é.bin"]
)
def test_member_name_that_is_not_flat_is_refused(packed: Path, name: str) -> None:
    """No member leaves the folder it is unpacked to; nothing is written outside."""
    forge_zip(packed, {**zip_members(packed), name: b"x"})
    refused(packed, "its member")
    assert not (packed.parent / "escape.bin").exists()


def test_name_twice_in_the_zip_is_refused(packed: Path) -> None:
    """Two tools could read two different files under the same name."""
    with zipfile.ZipFile(packed, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("weights.bin", b"other")
    refused(packed, "it holds 'weights.bin' twice")


def test_undeclared_member_is_refused(packed: Path) -> None:
    """What the manifest does not list is not unpacked."""
    path = packed
    members = {**zip_members(path), "extra.bin": b"x"}
    write_zip_in_our_form(path, members)
    refused(path, "holds 'extra.bin', which manifest.json does not list")


def test_missing_member_is_refused_by_name(packed: Path) -> None:
    """What the manifest lists must be there."""
    members = zip_members(packed)
    del members["golden.npz"]
    write_zip_in_our_form(packed, members)
    refused(packed, r"'golden\.npz' is missing")


def test_member_of_another_size_is_refused_before_unpacking(packed: Path) -> None:
    """Sizes are compared first."""
    write_zip_in_our_form(packed, {**zip_members(packed), "weights.bin": bytes(9000)})
    refused(packed, "'weights.bin' is 9000 bytes, the manifest says 8192")


def test_member_of_other_bytes_is_refused_and_not_cached(packed: Path) -> None:
    """The bytes are hashed while they are unpacked; on a mismatch there is no cache entry."""
    write_zip_in_our_form(packed, {**zip_members(packed), "weights.bin": b"\1" * 8192})
    refused(packed, "'weights.bin' has SHA-256")
    assert list((packed.parent / "cache" / "bundles").iterdir()) == []


def test_zip_without_a_manifest_is_no_bundle(packed: Path) -> None:
    """Any other uncompressed zip file is not called damaged."""
    write_zip_in_our_form(packed, {"a.bin": b"x"})
    with pytest.raises(BadInput, match="holds no manifest"):
        open_bundle(packed)


def test_truncated_zip_is_refused_at_every_length(packed: Path) -> None:
    """Whatever part of the file has arrived, it is not taken for the whole."""
    data = packed.read_bytes()
    for length in [*range(200), *range(200, len(data), 97), *range(len(data) - 200, len(data))]:
        packed.write_bytes(data[:length])
        with pytest.raises((VerificationFailed, BadInput)):
            open_bundle(packed, cache=packed.parent / "cache")


@pytest.mark.parametrize("tail", [b"\0", b"x" * 100, b"PK\5\6" + bytes(18)])
def test_trailing_data_is_refused(packed: Path, tail: bytes) -> None:
    """A second end record would show other tools another content."""
    packed.write_bytes(packed.read_bytes() + tail)
    with pytest.raises(EdgertError, match=r"added|damaged"):
        open_bundle(packed, cache=packed.parent / "cache")


def test_leading_data_is_refused(packed: Path) -> None:
    """A program with a zip file behind it is not a bundle."""
    packed.write_bytes(b"#!/bin/sh\n" + packed.read_bytes())
    with pytest.raises(BadInput, match="does not begin as a zip file"):
        open_bundle(packed)


def test_zip_comment_and_gap_are_refused(packed: Path) -> None:
    """There is no room for bytes that nothing vouches for."""
    data, members = packed.read_bytes(), zip_members(packed)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = b"hidden"
    refused(packed, "damaged or forged")
    end = len(data) - 22
    size, offset = struct.unpack_from("<II", data, end + 12)
    gap = data[:offset] + b"gap!" + data[offset:end] + data[end : end + 16]
    packed.write_bytes(gap + struct.pack("<IH", offset + 4, 0))
    assert zip_members(packed) == members
    assert size == end - offset
    refused(packed, "do not fill")


@pytest.mark.parametrize("count", [0, 1, 260, 65535])
def test_wrong_member_count_is_refused(packed: Path, count: int) -> None:
    """The count in the end record is compared with the directory, and has a limit."""
    data = packed.read_bytes()
    packed.write_bytes(data[:-14] + struct.pack("<HH", count, count) + data[-10:])
    refused(packed, "damaged or forged")


def test_huge_number_of_members_is_refused(packed: Path) -> None:
    """The directory is not read when it declares too many."""
    members = zip_members(packed)
    forge_zip(packed, {**members, **{f"{number}.bin": b"" for number in range(300)}})
    refused(packed, "at most 259 are allowed")


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
def test_huge_declared_member_size_is_refused_at_once(packed: Path, size: int) -> None:
    """A size beyond the file itself is found before anything is read."""
    patch_directory(packed, "weights.bin", 20, struct.pack("<II", size, size))
    refused(packed, "damaged or forged")


@pytest.mark.parametrize("offset", [1 << 40, (1 << 63) + 1, (1 << 64) - 1])
def test_huge_64_bit_directory_offset_is_refused(packed: Path, offset: int) -> None:
    """64-bit fields that lie are no different."""
    data = packed.read_bytes()
    count, _, size, _ = struct.unpack("<HHII", data[-14:-2])
    end_64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 0x32D, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(data) - 22, 1)
    packed.write_bytes(data[:-22] + end_64 + locator + data[-22:-6] + b"\xff\xff\xff\xff\0\0")
    refused(packed, "damaged or forged")


def test_zip_of_another_tool_is_refused(packed: Path) -> None:
    """There is one byte sequence for one content, so a copy that was packed again is not the published file."""
    forge_zip(packed, zip_members(packed))
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
    members = zip_members(packed)
    with zipfile.ZipFile(packed, "w") as archive:
        for name in reversed(list(members)):
            archive.writestr(zipfile.ZipInfo(name), members[name])
    refused(packed, "not in order")


def write_zip_in_our_form(path: Path, members: dict[str, bytes]) -> None:
    """Write a zip file that only a bundle's own rules can refuse."""
    import zlib

    from edgert.stored_zip import Entry, in_order, lay_out

    names = in_order(list(members))
    layout = lay_out([Entry(name, len(members[name]), zlib.crc32(members[name])) for name in names])
    with path.open("wb") as file:
        for header, name in zip(layout.headers, names, strict=True):
            file.write(header + members[name])
        file.write(layout.tail)
