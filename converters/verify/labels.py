"""The right answers for some files: a list that also says which files score a variant instead of calibrating it.

Reading the samples themselves is left to `converters.samples`, what an answer means to `evaluate`.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgert.errors import BadInput, nearest

MAX_BYTES = 64_000_000
HEADER = ("file", "label")
_REMEDY = 'give lines of file,label, or JSON of the form {"photo.jpg": "cat", "other.jpg": 7}'


@dataclass(frozen=True)
class Labelled:
    """One file and its label: the index of a class where it is a whole number, else a class name or a text."""

    path: Path
    label: str | int


@dataclass(frozen=True)
class Labels:
    """All that a file of labels says; `digest` is the SHA-256 of its bytes."""

    path: Path
    entries: tuple[Labelled, ...]
    digest: str

    @property
    def files(self) -> frozenset[Path]:
        """The resolved paths of all files, which are not calibrated with."""
        return frozenset(entry.path.resolve() for entry in self.entries)


def read_labels(path: Path, calibration: str | None = None) -> Labels:
    """Read a CSV of `file,label` lines, with or without that header, or a JSON object of file to label.

    Files are looked for beside the list, then in the folder `calibration`. Raises BadInput, with the line, for a list
    that cannot be read, says nothing, names a file twice, or names one that is not there.
    """
    data, text = _load(path)
    pairs = list(_from_json(text, path) if text.lstrip().startswith("{") else _from_csv(text, path))
    if not pairs:
        raise BadInput(f"'{path}' has no labels", _REMEDY)
    entries = _resolved(path, pairs, [path.parent, *_folder(calibration)])
    return Labels(path, entries, hashlib.sha256(data).hexdigest())


def _load(path: Path) -> tuple[bytes, str]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"'{path}': {path.stat().st_size} bytes are too many for labels", _REMEDY)
        data = path.read_bytes()
        return data, data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise BadInput(f"'{path}' is not text in UTF-8: {exc.reason} at byte {exc.start}", "save it as UTF-8") from exc
    except OSError as exc:
        raise BadInput(f"'{path}': the labels cannot be read: {exc.strerror}", "check the path of --labels") from exc


Pair = tuple[str, str | int, str]
"""A file, its label, and where that is said."""


def _from_csv(text: str, path: Path) -> Iterator[Pair]:
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        for row in reader:
            cells = tuple(cell.strip() for cell in row)
            where = f"'{path}', line {reader.line_num}"
            if not any(cells) or (reader.line_num == 1 and cells == HEADER):
                continue
            if len(cells) != 2:
                raise BadInput(
                    f"{where} has {len(cells)} cells, file,label is expected", 'quote a text with commas: a.png,"a, b"'
                )
            yield cells[0], cells[1], where
    except csv.Error as exc:
        raise BadInput(f"'{path}', line {reader.line_num} is no CSV: {exc}", _REMEDY) from exc


def _from_json(text: str, path: Path) -> Iterator[Pair]:
    try:
        found: list[tuple[str, object]] = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError) as exc:
        raise BadInput(f"'{path}' starts like JSON and is none: {exc}", _REMEDY) from exc
    for file, label in found:
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise BadInput(f"'{path}': the label of '{file}' is neither a text nor a whole number", _REMEDY)
        yield file, label.strip() if isinstance(label, str) else label, f"'{path}'"


def _folder(calibration: str | None) -> list[Path]:
    return [Path(calibration)] if calibration is not None and Path(calibration).is_dir() else []


def _resolved(path: Path, pairs: Sequence[Pair], folders: Sequence[Path]) -> tuple[Labelled, ...]:
    """Return the entries with the files that are there; BadInput for the first that is not, or comes twice."""
    seen: set[Path] = set()
    entries = []
    missing = [(file, where) for file, _, where in pairs if _find(file, folders) is None]
    if missing:
        raise _absent(*missing[0], len(missing), folders)
    for file, label, where in pairs:
        found = _find(file, folders)
        assert found is not None, "looked for above"
        if found.resolve() in seen:
            raise BadInput(f"{where}: '{file}' has a label already", "give each file one label")
        seen.add(found.resolve())
        entries.append(Labelled(found, label))
    return tuple(entries)


def _find(file: str, folders: Sequence[Path]) -> Path | None:
    places = (folder / file for folder in folders)
    return next((place for place in places if file and _is_file(place)), None)


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except (OSError, ValueError):  # a name that no system takes
        return False


def _absent(file: str, where: str, count: int, folders: Sequence[Path]) -> BadInput:
    more = f"; {count - 1} more files are not there either" if count > 1 else ""
    there = [entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir()]
    near = nearest(file, there)
    looked = " or ".join(f"'{folder}'" for folder in folders)
    return BadInput(
        f"{where}: there is no file '{file}' in {looked}{more}",
        f"did you mean '{near}'?" if near else "name files relative to the list, or to the folder of --calibration",
    )
