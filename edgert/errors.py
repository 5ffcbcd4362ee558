"""Errors: one class per thing a user can do about it.

Each error says what happened (message), what to do next (remedy) and how the command line ends (exit_code).
Printing and exiting are left to `edgert.cli`.
"""

import difflib
from collections.abc import Iterable


class EdgertError(Exception):
    """Something went wrong that the user can act on.

    `message` says what, where and the value; `remedy` says the next action; `exit_code` is the process exit code.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  remedy: {self.remedy}" if self.remedy else self.message


class GateFailed(EdgertError):
    """A check or gate said no: accuracy, lint, coverage."""

    exit_code = 1


class VerificationFailed(EdgertError):
    """A bundle is not what its manifest or its signature says."""

    exit_code = 1


class BadInput(EdgertError):
    """A file, folder, value or array given by the user cannot be used."""

    exit_code = 2


class UsageError(EdgertError):
    """The call itself is wrong: an unknown name or a contradictory request."""

    exit_code = 2


class MissingExtra(EdgertError):
    """An optional package is not installed."""

    exit_code = 3


class MissingDevice(EdgertError):
    """The processor that was asked for is not there."""

    exit_code = 3


class EnvironmentFailed(EdgertError):
    """The machine failed: disk full, permission denied, a killed child."""

    exit_code = 4


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word most like `word`, or None when nothing is close."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None
