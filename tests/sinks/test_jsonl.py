"""Reports in a file: readable, bounded, and whatever the disk does nothing reaches the loop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgert.errors import BadInput
from edgert.record import Birth, LogLines
from edgert.sinks.jsonl import JsonLines
from edgert.wire_json import report_from_json
from tests.sinks.reports import AT, BIRTH, born, window


def bodies(path: Path) -> list[object]:
    return [report_from_json(line)[1] for line in path.read_text("utf-8").splitlines()]


def log(size: int) -> list[tuple[object, object]]:
    return [(AT, LogLines(((0, "info", "x" * size),)))]


def test_lines_are_the_reports_that_were_given(tmp_path):
    """One line per body with its stamp; reading them gives the same objects."""
    sink = JsonLines(tmp_path / "reports.jsonl")
    sink(born())
    sink(window())
    found = [report_from_json(line) for line in (tmp_path / "reports.jsonl").read_text().splitlines()]
    assert found[0] == (AT, BIRTH)
    assert repr(found[1][1].columns) == repr(tuple(window()[0][1].columns))
    assert [one for _, one in found[2:]] == [body for _, body in window()[1:]]
    assert (sink.written, sink.dropped) == (4, 0)


def test_files_never_grow_beyond_their_cap_and_each_begins_with_the_birth(tmp_path):
    """Two files at most, of `max_bytes` at most; the newest lines are there, and both can be read by themselves."""
    path = tmp_path / "reports.jsonl"
    sink = JsonLines(path, max_bytes=20_000)
    sink(born())
    for number in range(200):
        sink([(AT, LogLines(((number, "info", "x" * 900),)))])
        assert sum(one.stat().st_size for one in tmp_path.iterdir()) <= 40_000
    assert sorted(one.name for one in tmp_path.iterdir()) == ["reports.jsonl", "reports.jsonl.1"]
    assert bodies(path)[-1].lines[0][0] == 199
    older = bodies(tmp_path / "reports.jsonl.1")
    assert isinstance(older[0], Birth)
    assert isinstance(bodies(path)[0], Birth)
    numbers = [one.lines[0][0] for one in (*older, *bodies(path)) if isinstance(one, LogLines)]
    assert numbers == list(range(numbers[0], 200))
    assert sink.dropped == 0


def test_program_that_starts_again_goes_on_in_the_same_file(tmp_path):
    """What was there stays; a line that a power failure cut is ended, so that only it is lost."""
    path = tmp_path / "reports.jsonl"
    JsonLines(path)(born())
    with path.open("ab") as file:
        file.write(b'{"kind": "tel", "mo')
    JsonLines(path)(born())
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    assert [report_from_json(lines[place])[1] for place in (0, 2)] == [BIRTH, BIRTH]


def test_full_disk_drops_and_counts_and_goes_on_when_there_is_room(tmp_path, caplog):
    """ENOSPC of a real device file: nothing is raised, it is told once, and the file's return is enough."""
    path = tmp_path / "reports.jsonl"
    path.symlink_to("/dev/full")
    sink = JsonLines(path)
    for _ in range(3):
        sink(window())
    assert (sink.written, sink.dropped) == (0, 9)
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    path.unlink()
    sink(born())
    assert bodies(path) == [BIRTH]


def test_line_that_fits_only_partly_is_taken_back(tmp_path):
    """A limit in the middle of a line, by the kernel: the file ends with a whole line, and later ones are whole."""
    code = """
import resource, sys
from pathlib import Path
from edgert.sinks.jsonl import JsonLines
from tests.sinks.reports import AT, born
from edgert.record import LogLines
sink = JsonLines(Path(sys.argv[1]))
sink(born())
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
for number in range(9):
    sink([(AT, LogLines(((number, "info", "x" * 500),)))])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink([(AT, LogLines(((99, "info", "x" * 500),)))])
print(sink.written, sink.dropped)
"""
    path = tmp_path / "reports.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    written, dropped = map(int, done.stdout.split())
    assert written + dropped == 11
    assert dropped > 0
    assert len(bodies(path)) == written
    assert bodies(path)[-1].lines[0][0] == 99
    assert done.stderr.count("only part of a line") == done.stderr.count("\n") == 1


@pytest.mark.parametrize("make", ["no folder", "a folder in its place", "a file where the folder should be"])
def test_path_that_cannot_be_written_is_told_once_and_never_raised(make, tmp_path, caplog):
    """No folder, a folder of that name, a file in the way."""
    path = tmp_path / "place" / "reports.jsonl"
    if make == "a folder in its place":
        path.mkdir(parents=True)
    elif make == "a file where the folder should be":
        path.parent.write_text("")
    sink = JsonLines(path)
    sink(born())
    sink(born())
    assert (sink.written, sink.dropped) == (0, 2)
    assert len(caplog.records) == 1


def test_read_only_file_system_drops_and_counts(tmp_path):
    """A file system that is mounted read-only; skips where nobody may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"cannot mount a tmpfs: {made.stderr.decode().strip()}")
    try:
        sink = JsonLines(folder / "reports.jsonl", max_bytes=10_000)
        sink(born())
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for _ in range(30):  # past the cap as well: it cannot be rotated either
            sink(window())
        assert (sink.written, sink.dropped) == (1, 90)
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        sink(born())
        assert bodies(folder / "reports.jsonl") == [BIRTH, BIRTH]
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_body_that_no_line_can_hold_is_dropped(tmp_path):
    """Text that is no Unicode, and a line above the cap: dropped, and the next one is written."""
    sink = JsonLines(tmp_path / "reports.jsonl", max_bytes=10_000)
    sink([(AT, LogLines(((0, "info", os.fsdecode(b"\xff")),)))])
    sink(log(20_000))
    sink(log(10))
    assert (sink.written, sink.dropped) == (1, 2)
    assert json.loads((tmp_path / "reports.jsonl").read_text())["body"] == [[0, "info", "x" * 10]]


def test_cap_that_holds_nothing_is_refused(tmp_path):
    """A cap of a few bytes is a typo."""
    with pytest.raises(BadInput):
        JsonLines(tmp_path / "reports.jsonl", max_bytes=100)


def test_json_lines_need_no_package_of_an_extra(tmp_path):
    """Without cbor2 in reach the sketches of a model are written all the same."""
    code = """
import sys
sys.modules["cbor2"] = None
from pathlib import Path
from edgert.record import Categories, Sketches, Stamp
from edgert.sinks.jsonl import JsonLines
sink = JsonLines(Path(sys.argv[1]))
sink([(Stamp(0), Sketches(0, 1, {"class/y": Categories({"a": 1})}))])
print(sink.written)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "reports.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n", done.stderr
