"""Archives that frameworks would unpack, real ones and bombs."""

import bz2
import gzip
import io
import lzma
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from converters.sources.archives import MAX_BYTES, MAX_MEMBERS, MAX_RATIO, RATIO_FROM_BYTES, check_archive
from edgert.errors import BadInput

BOMB_BYTES = RATIO_FROM_BYTES + (1 << 20)
COMPRESSORS = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
}


def refused(path: Path, why: str) -> BadInput:
    with pytest.raises(BadInput, match=why) as caught:
        check_archive(path)
    assert str(path) in caught.value.message
    assert caught.value.remedy
    return caught.value


def zipped(path: Path, *members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("model_id", ["effnet-lite0", "silero-vad-jit"])
def test_archive_of_a_real_model_passes(model_path, model_id):
    """A state_dict and a TorchScript file are archives like any model's."""
    check_archive(model_path(model_id))


def test_archive_of_compressed_weights_passes(tmp_path):
    """Random weights in a compressed `.npz` are no bomb."""
    weights = np.random.default_rng(0).normal(size=(1000, 100)).astype(np.float32)
    np.savez_compressed(tmp_path / "weights.npz", weights=weights)
    check_archive(tmp_path / "weights.npz")


def test_archive_of_small_zeros_passes(tmp_path):
    """Below 100 MB no ratio is too high: biases are zeros in many a model."""
    check_archive(zipped(tmp_path / "a.zip", ("bias", bytes(1 << 20)), compression=zipfile.ZIP_DEFLATED))


def test_archive_that_is_none_passes(tmp_path):
    """A file of another kind holds nothing to unpack."""
    (tmp_path / "model.bin").write_bytes(b"x" + bytes(100))
    check_archive(tmp_path / "model.bin")
    (tmp_path / "empty").touch()
    check_archive(tmp_path / "empty")


def test_archive_zip_bomb_is_refused_by_its_table(tmp_path):
    """A hundred kilobytes that would unpack to a hundred megabytes are refused, and nothing is unpacked."""
    path = zipped(tmp_path / "bomb.pt", ("data.pkl", bytes(BOMB_BYTES)), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size * MAX_RATIO < BOMB_BYTES
    refused(path, f"over {MAX_RATIO} times as much")


def test_archive_zip_that_claims_more_than_a_disk_holds_is_refused(tmp_path):
    """The sizes in the table are summed before anything is believed to fit."""
    path = zipped(tmp_path / "huge.keras", *((f"{i}", b"x") for i in range(20)), compression=zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    claimed = struct.pack("<I", 0xFFFFFFF0)
    entries = data.split(b"PK\x01\x02")
    patched = [entries[0], *(entry[:20] + claimed + entry[24:] for entry in entries[1:])]
    path.write_bytes(b"PK\x01\x02".join(patched))
    with zipfile.ZipFile(path) as archive:
        assert sum(info.file_size for info in archive.infolist()) > MAX_BYTES
    refused(path, "64 GB")


def test_archive_zip_whose_members_overlap_is_refused(tmp_path):
    """Two names for the same bytes: the trick that makes a bomb without a nested archive."""
    path = zipped(tmp_path / "twice.npz", ("a", bytes(range(256)) * 40), ("b", b"y"))
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 16 : second + 28] = data[first + 16 : first + 28]
    path.write_bytes(data)
    refused(path, "overlap")


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:/evil", "C:evil"])
def test_archive_member_that_leads_out_is_refused(tmp_path, name):
    """Names that leave the folder are refused and shown."""
    refused(zipped(tmp_path / "a.zip", ("fine", b"1"), (name, b"2")), "a member is called .*evil")


def test_archive_with_one_name_twice_is_refused(tmp_path):
    """Two readers may take different members of the same name: a check of one says nothing about the other."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zipped(tmp_path / "a.zip", ("data.pkl", b"harmless"), ("data.pkl", b"harmful"))
    refused(path, "'data.pkl' occurs twice")


def test_archive_with_a_link_is_refused(tmp_path):
    """A symbolic link would let the next member write anywhere."""
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc")
    refused(tmp_path / "a.zip", "'link' is a link")


def test_archive_with_too_many_members_is_refused(tmp_path):
    """A model has thousands of members at the very most."""
    path = zipped(tmp_path / "many.zip", *((str(i), b"") for i in range(MAX_MEMBERS + 1)))
    refused(path, f"{MAX_MEMBERS + 1} members")


def archive_of(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def test_archive_inside_an_archive_is_checked_as_well(tmp_path):
    """`.pt2` files hold `.pt` files: a bomb in one of them is found, and the message says where."""
    bomb = archive_of(("data.pkl", bytes(BOMB_BYTES)), compression=zipfile.ZIP_DEFLATED)
    path = zipped(tmp_path / "model.pt2", ("weights/w.pt", archive_of(("data", b"1"))), ("inputs/x.pt", bomb))
    assert "inputs/x.pt" in refused(path, f"over {MAX_RATIO} times").message


def test_archive_inside_an_archive_passes(tmp_path):
    """The same without the bomb is a model."""
    check_archive(zipped(tmp_path / "model.pt2", ("weights/w.pt", archive_of(("data", b"1")))))


def test_archives_nested_too_deep_are_refused(tmp_path):
    """Nothing holds an archive in an archive in an archive in an archive."""
    inner = archive_of(("data", b"1"))
    for _ in range(2):
        inner = archive_of(("inner", inner))
    refused(zipped(tmp_path / "deep.zip", ("inner", inner)), "more than 2 deep")


def test_archive_compressed_once_more_inside_an_archive_is_refused(tmp_path):
    """Such an archive could only be looked through by unpacking it."""
    inner = archive_of(("data", bytes(1000)))
    refused(zipped(tmp_path / "a.zip", ("in", inner), compression=zipfile.ZIP_DEFLATED), "compressed once more")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_archive_that_is_cut_off_is_refused_as_damaged(tmp_path, model_path, kept):
    """A download that ended early is told from a hostile file."""
    data = model_path("silero-vad-jit").read_bytes()
    (tmp_path / "cut.jit").write_bytes(data[: int(len(data) * kept)])
    assert "copy or download" in refused(tmp_path / "cut.jit", "damaged").remedy


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_archive_stream_passes(tmp_path, kind):
    """What joblib compresses with each of the methods of Python's library is inflated to its end."""
    data = np.random.default_rng(0).integers(0, 255, 3 << 19, np.uint8).tobytes()
    (tmp_path / "model.joblib").write_bytes(COMPRESSORS[kind](data))
    check_archive(tmp_path / "model.joblib")


@pytest.mark.parametrize("kind", ["gzip", "zlib", "bzip2"])
def test_archive_stream_bomb_is_refused(tmp_path, kind):
    """Zeros that were compressed a thousandfold stop being inflated as soon as they exceed what a model may be."""
    (tmp_path / "bomb.joblib").write_bytes(COMPRESSORS[kind](bytes(BOMB_BYTES)))
    refused(tmp_path / "bomb.joblib", f"over {MAX_RATIO} times as much")


def test_archive_bomb_in_the_second_stream_is_refused(tmp_path):
    """gzip files may be joined; readers go on to the second, and so does the check."""
    harmless, bomb = COMPRESSORS["gzip"](b"weights"), COMPRESSORS["gzip"](bytes(BOMB_BYTES))
    (tmp_path / "joined.gz").write_bytes(harmless + bomb)
    refused(tmp_path / "joined.gz", f"over {MAX_RATIO} times as much")


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_archive_stream_that_is_cut_off_is_refused_as_damaged(tmp_path, kind):
    """A compressed file that ends early is named so."""
    data = np.random.default_rng(0).integers(0, 255, 1 << 16, np.uint8).tobytes()
    (tmp_path / "cut.joblib").write_bytes(COMPRESSORS[kind](data)[:-1000])
    refused(tmp_path / "cut.joblib", "damaged")
