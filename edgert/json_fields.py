"""Typed, bounded reading of a JSON object: a getter returns what its name says, or BadInput names the key.

What the keys mean is left to `edgert.manifest`.
"""

import math
import re
from collections.abc import Mapping

from edgert.errors import BadInput

MAX_ITEMS = 1024  # entries of a list or table
MAX_TEXT = 4096  # characters
MAX_NAME = 100  # characters
MAX_WHOLE = (1 << 63) - 1

_REMEDY = "make the bundle again with `edgert convert`, or take a fresh copy of it"
_FLAT_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]*")
_RESERVED_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


def refused(message: str) -> BadInput:
    """Return the error for a document that cannot be used."""
    return BadInput(message, _REMEDY)


def name_defect(name: str) -> str | None:
    """Return why `name` is not a flat name, or None when it is one.

    A flat name is 1 to 100 characters of `a-z 0-9 . _ -`, does not begin or end with a dot and is not a
    device name on Windows: one file in one folder on every system, and two names never differ only in case.
    """
    if not 1 <= len(name) <= MAX_NAME:
        return f"has {len(name)} characters, 1 to {MAX_NAME} are allowed"
    if not _FLAT_NAME.fullmatch(name):
        return "holds more than a-z 0-9 . _ - or begins with a dot"
    if name.endswith("."):
        return "ends with a dot"
    if _RESERVED_ON_WINDOWS.fullmatch(name):
        return "is a device name on Windows"
    return None


def flat_name(text: str) -> str:
    """Return the flat name nearest to `text`: lower case, other characters replaced by `-`, never empty."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip(".-")[:MAX_NAME].rstrip(".")
    return name if name_defect(name) is None else f"model-{name}".rstrip("-")


class Fields:
    """The members of one JSON object; `where` names it in errors, such as `manifest.json 'variants'[2]`."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, dict):
            raise refused(f"{where} is {kind(document)}, an object is expected")
        self._members: Mapping[str, object] = document
        self._where = where
        self._read: set[str] = set()

    def has(self, key: str) -> bool:
        """Return whether the optional `key` is there; null counts as absent."""
        self._read.add(key)
        return self._members.get(key) is not None

    def path(self, key: str) -> str:
        """Return how errors name the member `key`."""
        return f"{self._where} '{key}'"

    def value(self, key: str) -> object:
        """Return the member of any type."""
        self._read.add(key)
        if key not in self._members:
            raise refused(f"{self.path(key)} is missing")
        return self._members[key]

    def text(self, key: str) -> str:
        """Return printable text of 1 to 4096 characters."""
        return checked_text(self.value(key), self.path(key))

    def name(self, key: str) -> str:
        """Return a flat name."""
        return checked_name(self.value(key), self.path(key))

    def word(self, key: str, pattern: str) -> str:
        """Return text that matches the regular expression `pattern` from end to end."""
        return checked_word(self.value(key), self.path(key), pattern)

    def whole(self, key: str, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`."""
        return checked_whole(self.value(key), self.path(key), low, high)

    def items(self, key: str, limit: int = MAX_ITEMS) -> list[object]:
        """Return a list with at most `limit` entries."""
        value = self.value(key)
        if not isinstance(value, list):
            raise refused(f"{self.path(key)} is {kind(value)}, a list is expected")
        if len(value) > limit:
            raise refused(f"{self.path(key)} has {len(value)} entries, at most {limit} are allowed")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of printable texts."""
        return tuple(checked_text(item, f"{self.path(key)}[{i}]") for i, item in enumerate(self.items(key)))

    def table(self, key: str) -> dict[str, object]:
        """Return an object with at most 1024 members."""
        value = self.value(key)
        if not isinstance(value, dict):
            raise refused(f"{self.path(key)} is {kind(value)}, an object is expected")
        if len(value) > MAX_ITEMS:
            raise refused(f"{self.path(key)} has {len(value)} entries, at most {MAX_ITEMS} are allowed")
        return value

    def rest(self) -> dict[str, object]:
        """Return the members that nobody asked for: what a newer edgert has added."""
        return {key: value for key, value in self._members.items() if key not in self._read}


def kind(value: object) -> str:
    """Return what JSON calls the type of `value`."""
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")


def checked_text(value: object, path: str) -> str:
    """Return `value` if it is 1 to 4096 printable characters: no control, bidi or surrogate characters."""
    if not isinstance(value, str):
        raise refused(f"{path} is {kind(value)}, a string is expected")
    if not 1 <= len(value) <= MAX_TEXT:
        raise refused(f"{path} has {len(value)} characters, 1 to {MAX_TEXT} are allowed")
    if not value.isprintable():
        raise refused(f"{path} is {value[:80]!a}, which holds control or invisible characters")
    return value


def checked_name(value: object, path: str) -> str:
    """Return `value` if it is a flat name."""
    text = checked_text(value, path)
    defect = name_defect(text)
    if defect:
        raise refused(f"{path} is {text[:MAX_NAME]!r}, which {defect}")
    return text


def checked_word(value: object, path: str, pattern: str) -> str:
    """Return `value` if it is text that matches the regular expression `pattern` from end to end."""
    text = checked_text(value, path)
    if not re.fullmatch(pattern, text):
        raise refused(f"{path} is {text[:MAX_NAME]!r}, which does not match {pattern}")
    return text


def checked_whole(value: object, path: str, low: int, high: int) -> int:
    """Return `value` if it is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise refused(f"{path} is {kind(value)}, a whole number is expected")
    if not low <= value <= high:
        raise refused(f"{path} is {value if abs(value) <= MAX_WHOLE else 'too big'}, {low} to {high} is allowed")
    return value


def checked_real(value: object, path: str, low: float, high: float) -> float:
    """Return `value` as a float if it is a finite number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refused(f"{path} is {kind(value)}, a number is expected")
    if not (math.isfinite(value) if isinstance(value, float) else abs(value) <= MAX_WHOLE) or not low <= value <= high:
        raise refused(f"{path} is out of range, {low} to {high} is allowed")
    return float(value)
