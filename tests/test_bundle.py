"""Bundles: deterministic bytes, both forms, the cache, and a disk that fails."""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import onnxruntime
import pytest

from edgert.bundle import Bundle, check_bundle, open_bundle, write_bundle
from edgert.errors import BadInput, EdgertError, EnvironmentFailed, UsageError, VerificationFailed
from edgert.stored_zip import Entry, lay_out, read_entries
from tests.bundle_files import BUNDLE_FILES, small_manifest, small_model, stage

OUTSIDE = "measurements.json"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return stage(tmp_path / "staging")


@pytest.fixture
def packed(staging: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.edgert"
    write_bundle(staging, small_manifest(), path)
    return path


def opened(path: Path, tmp_path: Path) -> Bundle:
    return open_bundle(path, cache=tmp_path / "cache")


def test_bundle_written_twice_has_the_same_bytes(staging: Path, tmp_path: Path) -> None:
    """Times and modes of the staged files, and the moment of writing, leave no trace."""
    one, other, again = tmp_path / "one.edgert", tmp_path / "other.edgert", stage(tmp_path / "again")
    for path in again.iterdir():
        os.utime(path, (1e9, 1e9))
        path.chmod(0o600)
    assert write_bundle(staging, small_manifest(), one) == write_bundle(again, small_manifest(), other)
    assert one.read_bytes() == other.read_bytes()


def test_bundle_digest_is_the_sha256_of_the_manifest_in_both_forms(staging: Path, tmp_path: Path) -> None:
    """Folder and file of the same content have the same digest, and it can be computed with any tool."""
    folder, file = tmp_path / "folder", tmp_path / "file.edgert"
    digest = write_bundle(staging, small_manifest(), folder)
    assert write_bundle(staging, small_manifest(), file) == digest
    assert digest == "sha256:" + hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert opened(folder, tmp_path).digest == opened(file, tmp_path).digest == digest


def test_bundle_measurements_do_not_change_the_digest(staging: Path, tmp_path: Path) -> None:
    """What was measured lies outside the digest and is not listed."""
    with_them = write_bundle(staging, small_manifest(), tmp_path / "a.edgert")
    (staging / OUTSIDE).unlink()
    assert write_bundle(staging, small_manifest(), tmp_path / "b.edgert") == with_them
    first, second = opened(tmp_path / "a.edgert", tmp_path), opened(tmp_path / "b.edgert", tmp_path)
    assert first.folder == second.folder
    assert first.measurements() == {"latency_ms": {"p50": 1.5}}
    assert second.measurements() is None


def test_bundle_file_is_a_zip_that_other_tools_read(packed: Path) -> None:
    """The members are stored, dated 1980-01-01, with the manifest first and the others sorted."""
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
    names = [info.filename for info in infos]
    assert names == ["manifest.json", *sorted([*BUNDLE_FILES, OUTSIDE])]
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.external_attr >> 16 for info in infos} == {0o100644}


@pytest.mark.parametrize("name", ["small.edgert", "small"])
def test_bundle_opened_runs_in_onnxruntime_by_path(staging: Path, tmp_path: Path, name: str) -> None:
    """A model with external data is loaded from the folder that was handed out."""
    write_bundle(staging, small_manifest(), tmp_path / name)
    bundle = opened(tmp_path / name, tmp_path)
    assert bundle.manifest.name == "small"
    session = onnxruntime.InferenceSession(bundle.file("fp32.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "y"


def test_bundle_file_of_an_unknown_name_is_an_error(packed: Path, tmp_path: Path) -> None:
    """Only listed files are handed out."""
    with pytest.raises(UsageError, match="lists no file"):
        opened(packed, tmp_path).file("../small.edgert")


def test_bundle_folder_is_opened_without_writing(staging: Path, tmp_path: Path) -> None:
    """The folder form needs no cache, which is what a read-only device has."""
    write_bundle(staging, small_manifest(), tmp_path / "folder")
    bundle = open_bundle(tmp_path / "folder", cache=tmp_path / "never")
    assert bundle.folder == tmp_path / "folder"
    assert not (tmp_path / "never").exists()


def test_bundle_default_cache_is_that_of_the_host(packed: Path) -> None:
    """Without `cache` the file is unpacked below `edgert.host.cache_dir()`."""
    assert open_bundle(packed).folder.is_relative_to(os.environ["EDGERT_CACHE"])


def test_bundle_cache_is_private_and_filled_once(packed: Path, tmp_path: Path) -> None:
    """The second opening finds the same files and leaves nothing else behind."""
    first = opened(packed, tmp_path)
    before = {path.name: path.stat().st_ino for path in first.folder.iterdir()}
    second = opened(packed, tmp_path)
    assert {path.name: path.stat().st_ino for path in second.folder.iterdir()} == before
    assert list(first.folder.parent.iterdir()) == [first.folder]
    if os.name == "posix":
        assert stat.S_IMODE(first.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(first.folder.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "extra", "folder", "signature", "manifest", "file"])
def test_bundle_cache_that_is_damaged_is_mended(packed: Path, tmp_path: Path, damage: str) -> None:
    """A wrong entry is never handed out: it is unpacked again."""
    entry = opened(packed, tmp_path).folder
    weights = entry / "weights.bin"
    data = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(b"\1" + data[1:])
    elif damage == "cut":
        weights.write_bytes(data[:-1])
    elif damage == "missing":
        weights.unlink()
    elif damage == "folder":
        weights.unlink()
        weights.mkdir()
    elif damage == "manifest":
        (entry / "manifest.json").write_text("{}")
    elif damage == "file":
        shutil.rmtree(entry)
        entry.write_text("not a folder")
    else:
        (entry / ("extra.bin" if damage == "extra" else "signature.dsse.json")).write_text("{}")
    bundle = opened(packed, tmp_path)
    assert {path.name for path in bundle.folder.iterdir()} == {"manifest.json", *BUNDLE_FILES}
    assert bundle.file("weights.bin").read_bytes() == data
    assert list(entry.parent.iterdir()) == [entry]


def test_bundle_leftovers_of_killed_openers_are_removed_after_a_day(packed: Path, tmp_path: Path) -> None:
    """A fresh one may belong to a process that is still at work, so it stays."""
    bundles = tmp_path / "cache" / "bundles"
    old, fresh = bundles / ".unpack-old", bundles / ".unpack-fresh"
    for folder in (old, fresh):
        folder.mkdir(parents=True)
    os.utime(old, (1e9, 1e9))
    opened(packed, tmp_path)
    assert not old.exists()
    assert fresh.exists()


OPEN_TWENTY_TIMES = """
import sys, pathlib
from edgert.bundle import open_bundle
for _ in range(20):
    bundle = open_bundle(sys.argv[1], cache=pathlib.Path(sys.argv[2]))
    assert bundle.file("weights.bin").read_bytes() == bytes(8192)
"""


@pytest.mark.parametrize("mode", ["fresh", "damaged"])
def test_bundle_opened_by_processes_at_once_works_for_each(packed: Path, tmp_path: Path, mode: str) -> None:
    """Two processes that unpack or mend the same entry at the same time both get the right files."""
    cache = tmp_path / "cache"
    if mode == "damaged":
        open_bundle(packed, cache=cache).file("weights.bin").write_bytes(b"damaged")
    command = [sys.executable, "-c", OPEN_TWENTY_TIMES, str(packed), str(cache)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    children = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors


def test_bundle_opened_by_threads_at_once_works_for_each(packed: Path, tmp_path: Path) -> None:
    """Threads of one process are no different."""
    with ThreadPoolExecutor(8) as pool:
        bundles = list(pool.map(lambda _: opened(packed, tmp_path), range(16)))
    assert len({bundle.folder for bundle in bundles}) == 1


def test_bundle_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    """The error names the path."""
    with pytest.raises(BadInput, match=r"no bundle at .*nowhere"):
        opened(tmp_path / "nowhere.edgert", tmp_path)


def test_bundle_that_is_another_file_or_folder_is_bad_input(tmp_path: Path) -> None:
    """A text file and an empty folder are not damaged bundles: they are none."""
    (tmp_path / "text.edgert").write_text("hello")
    (tmp_path / "empty").mkdir()
    for name in ("text.edgert", "empty"):
        with pytest.raises(BadInput, match="is not a bundle"):
            opened(tmp_path / name, tmp_path)


def test_write_bundle_replaces_a_bundle_and_nothing_else(staging: Path, tmp_path: Path) -> None:
    """A folder that is a bundle is replaced; one that is not stays as it is, and so does the staging folder."""
    target = tmp_path / "target"
    write_bundle(staging, small_manifest(), target)
    digest = write_bundle(staging, small_manifest(version="2.0"), target)
    assert opened(target, tmp_path).digest == digest
    other = tmp_path / "other"
    other.mkdir()
    (other / "diary.txt").write_text("dear diary")
    with pytest.raises(UsageError, match="is not a bundle"):
        write_bundle(staging, small_manifest(), other)
    assert [path.name for path in other.iterdir()] == ["diary.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "staging", "target"]
    assert sorted(path.name for path in staging.iterdir()) == sorted([*BUNDLE_FILES, OUTSIDE])


def test_write_bundle_over_a_folder_named_edgert_is_refused(staging: Path, tmp_path: Path) -> None:
    """A name that ends in .edgert is one file."""
    (tmp_path / "x.edgert").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        write_bundle(staging, small_manifest(), tmp_path / "x.edgert")


@pytest.mark.parametrize("name", ["manifest.json", "signature.dsse.json", "UPPER.bin", "a b", ".hidden"])
def test_write_bundle_with_a_wrong_staged_name_is_refused(staging: Path, tmp_path: Path, name: str) -> None:
    """What the reader would refuse is not written."""
    (staging / name).write_text("{}")
    with pytest.raises(BadInput, match="staging folder"):
        write_bundle(staging, small_manifest(), tmp_path / "x.edgert")
    assert not (tmp_path / "x.edgert").exists()


def test_write_bundle_with_nan_in_the_recipe_is_refused(staging: Path, tmp_path: Path) -> None:
    """NaN is not JSON."""
    with pytest.raises(BadInput, match="cannot be written"):
        write_bundle(staging, small_manifest(recipe={"x": float("nan")}), tmp_path / "x.edgert")


def test_write_bundle_with_a_missing_file_is_refused(staging: Path, tmp_path: Path) -> None:
    """A variant without its file is found before anything is written."""
    (staging / "relu.onnx").unlink()
    with pytest.raises(BadInput, match=r"relu\.onnx"):
        write_bundle(staging, small_manifest(), tmp_path / "x.edgert")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a real file system of 64 KiB; skips where mounting is not permitted."""
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("there is no mount command here, so no full disk can be made")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting a small tmpfs is not permitted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("name", ["x.edgert", "x"])
def test_write_bundle_on_a_full_disk_leaves_nothing(staging: Path, tiny_disk: Path, name: str) -> None:
    """The error says how many bytes are needed and free, and the disk is as empty as before."""
    (staging / "weights.bin").write_bytes(os.urandom(200_000))
    with pytest.raises(EnvironmentFailed, match=r"bytes are needed, [0-9]+ are free") as caught:
        write_bundle(staging, small_manifest(), tiny_disk / name)
    assert "free space" in caught.value.remedy
    assert list(tiny_disk.iterdir()) == []


def test_write_bundle_on_a_full_disk_keeps_the_bundle_before(staging: Path, tiny_disk: Path) -> None:
    """A replacement that does not fit does not harm what is there."""
    path = tiny_disk / "x.edgert"
    write_bundle(staging, small_manifest(), path)
    before = path.read_bytes()
    (staging / "weights.bin").write_bytes(os.urandom(200_000))
    with pytest.raises(EnvironmentFailed):
        write_bundle(staging, small_manifest(), path)
    assert [entry.name for entry in tiny_disk.iterdir()] == ["x.edgert"]
    assert path.read_bytes() == before


def test_open_bundle_with_a_full_cache_leaves_nothing(staging: Path, tiny_disk: Path, tmp_path: Path) -> None:
    """A bundle that cannot be unpacked says what to do, and the cache holds no half of it."""
    (staging / "weights.bin").write_bytes(os.urandom(200_000))
    write_bundle(staging, small_manifest(), tmp_path / "x.edgert")
    with pytest.raises(EnvironmentFailed, match="bytes are needed") as caught:
        open_bundle(tmp_path / "x.edgert", cache=tiny_disk)
    assert "EDGERT_CACHE" in caught.value.remedy
    assert list((tiny_disk / "bundles").iterdir()) == []


WRITE_WITH_A_LIMIT = """
import resource, sys, pathlib
from edgert.bundle import write_bundle
from edgert.errors import EnvironmentFailed
from tests.bundle_files import small_manifest
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    write_bundle(pathlib.Path(sys.argv[1]), small_manifest(), pathlib.Path(sys.argv[2]))
except EnvironmentFailed as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
@pytest.mark.parametrize("name", ["x.edgert", "x"])
def test_write_bundle_over_the_file_size_limit_leaves_nothing(staging: Path, tmp_path: Path, name: str) -> None:
    """A write that the system cuts short is the same as a full disk; this needs no right to mount."""
    out = tmp_path / "out"
    out.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WRITE_WITH_A_LIMIT, str(staging), str(out / name)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert list(out.iterdir()) == []


def test_write_bundle_below_a_file_fails_as_the_environment(staging: Path, tmp_path: Path) -> None:
    """A destination whose parent is a file cannot be made; the error names it."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentFailed, match="cannot write"):
        write_bundle(staging, small_manifest(), tmp_path / "file" / "x.edgert")


def test_check_bundle_reads_every_member_where_it_lies(packed: Path, tmp_path: Path) -> None:
    """A flip in the file is found even when the cache still holds the right bytes."""
    opened(packed, tmp_path)
    data = packed.read_bytes()
    at = data.index(b"Free to use")
    packed.write_bytes(data[:at] + b"f" + data[at + 1 :])
    with pytest.raises(VerificationFailed, match=r"license\.txt"):
        check_bundle(packed)


def test_zip_layout_beyond_4_gib_is_read_by_us_and_by_others(tmp_path: Path) -> None:
    """Large members and offsets get 64-bit fields, small ones none; the file is sparse, so this is cheap."""
    entries = [Entry("manifest.json", 2, 0), Entry("a.bin", 5 << 30, 0), Entry("b.bin", 3, 0)]
    layout = lay_out(entries)
    path = tmp_path / "large.edgert"
    with path.open("wb") as file:
        for header, offset in zip(layout.headers, layout.data_offsets, strict=True):
            file.seek(offset - len(header))
            file.write(header)
        file.seek(layout.tail_offset)
        file.write(layout.tail)
    with path.open("rb") as file:
        assert list(read_entries(file, "large")[0]) == entries
    with zipfile.ZipFile(path) as archive:
        assert [(info.filename, info.file_size) for info in archive.infolist()] == [
            (entry.name, entry.size) for entry in entries
        ]
    assert len(lay_out(entries[:1]).headers[0]) == 30 + len("manifest.json")


def test_write_bundle_with_unlisted_external_data_is_refused(staging: Path, tmp_path: Path) -> None:
    """A model whose weights are not in the bundle is found when it is written."""
    onnx.save(small_model("elsewhere.bin"), staging / "fp32.onnx")
    with pytest.raises(EdgertError, match=r"elsewhere\.bin"):
        write_bundle(staging, small_manifest(), tmp_path / "x.edgert")
