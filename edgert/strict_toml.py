"""TOML as edgert reads it: every key known, every type checked, errors that name the file and the key.

What the tables mean is left to `profile` and other readers.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgert.errors import BadInput, nearest

MAX_CHARACTERS = 100_000

_T = TypeVar("_T")


def loads(text: str, where: str, limit: int = MAX_CHARACTERS) -> "Table":
    """Parse TOML text of at most `limit` characters; `where` names the file in the BadInput that a defect raises."""
    if len(text) > limit:
        raise BadInput(f"{where} has {len(text)} characters, more than the {limit} allowed", "make it shorter")
    try:
        return Table(tomllib.loads(text), where, "")
    except (ValueError, RecursionError) as exc:
        raise BadInput(f"{where} is not valid TOML: {exc}", "correct the file at that line") from exc


@dataclass(frozen=True)
class Table:
    """One TOML table with the place it came from, so that each error can name file and key."""

    values: Mapping[str, object]
    where: str
    path: str

    def names(self) -> tuple[str, ...]:
        return tuple(self.values)

    def has(self, key: str) -> bool:
        return key in self.values

    def error(self, key: str, problem: str, remedy: str) -> BadInput:
        return BadInput(f"{self.where}: '{self._full(key)}' {problem}", remedy)

    def allow(self, known: Sequence[str], required: Sequence[str] = ()) -> None:
        """Refuse keys that are not `known`, then a missing `required` one."""
        for key in self.values:
            if key not in known:
                raise self.error(key, "is not a known key", _nearest_or_all(key, known))
        for key in required:
            if key not in self.values:
                raise self.error(key, "is missing", f"add {key} to the file")

    def text(self, key: str) -> str:
        value = self._get(key, str, "a string")
        if not value.strip():
            raise self.error(key, "is an empty string", "write the text")
        return value

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        value = self.text(key)
        if not pattern.fullmatch(value):
            raise self.error(key, f"is '{value}', which does not match {pattern.pattern}", "write it in that form")
        return value

    def word(self, key: str, known: Sequence[str]) -> str:
        return self._known_word(key, self.text(key), known)

    def words(self, key: str, known: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._known_word(key, word, known) for word in self.texts(key))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings without repetition; an absent key is an empty list."""
        if not self.has(key):
            return ()
        items = self._get(key, list, "a list of strings")
        texts = tuple(item for item in items if isinstance(item, str) and item.strip())
        if len(texts) != len(items):
            raise self.error(key, "holds something that is not a string with text", "write a list of strings")
        if len(set(texts)) != len(texts):
            raise self.error(key, f"holds a string twice: {', '.join(texts)}", "keep one of them")
        return texts

    def texts_matching(self, key: str, pattern: re.Pattern[str], expected: str) -> tuple[str, ...]:
        """Return a list of strings that all match; `expected` says in words what they are."""
        for word in self.texts(key):
            if not pattern.fullmatch(word):
                raise self.error(key, f"holds '{word}', which is not {expected}", f"write {expected}")
        return self.texts(key)

    def flag(self, key: str) -> bool:
        return self._get(key, bool, "true or false")

    def integer(self, key: str, low: int, high: int) -> int:
        value = self._get(key, int, "an integer")
        if not low <= value <= high:
            raise self.error(key, f"is {value}, expected {low}..{high}", "write a number in that range")
        return value

    def integers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """Return a list of whole numbers, each within the range."""
        items = self._get(key, list, "a list of integers")
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int) or not low <= item <= high:
                raise self.error(key, f"holds {item!r}, expected integers of {low}..{high}", "write such numbers")
        return tuple(items)

    def real(self, key: str, low: float, high: float) -> float:
        """Return a number within the range."""
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong_type(key, "a number")
        if not low <= value <= high:
            raise self.error(key, f"is {value}, expected {low:g}..{high:g}", "write a number in that range")
        return float(value)

    def positive(self, key: str) -> float:
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong_type(key, "a number")
        if not 0 < value < 1e15:
            raise self.error(key, f"is {value}, expected a number above 0 and below 1e15", "write the number")
        return float(value)

    def table(self, key: str) -> "Table":
        """Return a sub-table; an absent one is empty."""
        values: dict[str, object] = self._get(key, dict, "a table") if self.has(key) else {}
        return Table(values, self.where, self._full(key))

    def tables(self, key: str) -> tuple["Table", ...]:
        items = self._get(key, list, "an array of tables")
        if not all(isinstance(item, dict) for item in items):
            raise self._wrong_type(key, "an array of tables")
        return tuple(Table(item, self.where, f"{self._full(key)}[{index}]") for index, item in enumerate(items))

    def all_texts(self) -> dict[str, str]:
        """Return every key of this table, all of them strings: provider options."""
        return {key: self._get(key, str, "a string") for key in self.values}

    def _get(self, key: str, kind: type[_T], expected: str) -> _T:
        value = self.values[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self._wrong_type(key, expected)
        return value

    def _wrong_type(self, key: str, expected: str) -> BadInput:
        value = self.values[key]
        return self.error(key, f"is {value!r} ({type(value).__name__}), expected {expected}", f"write {expected}")

    def _known_word(self, key: str, word: str, known: Sequence[str]) -> str:
        if word not in known:
            raise self.error(key, f"holds '{word}', which is not known", _nearest_or_all(word, known))
        return word

    def _full(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def _nearest_or_all(word: str, known: Sequence[str]) -> str:
    near = nearest(word, known)
    return f"did you mean '{near}'?" if near else f"known: {', '.join(known) or 'none'}"
