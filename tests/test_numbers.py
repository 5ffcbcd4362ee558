"""The numbers that subcommands take."""

import click
import pytest

from edgert.commands.numbers import BYTES


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500MB", 5e8), ("1GB", 1e9), ("1.5 gb", 1.5e9), ("800000000", 8e8), ("2kB", 2e3), ("7B", 7.0), ("1TB", 1e12)],
)
def test_bytes_with_and_without_a_unit_are_read(text, expected):
    """Units are powers of ten, in any case, with or without a space."""
    assert BYTES.convert(text, None, None) == expected


@pytest.mark.parametrize("text", ["", "0", "0.4", "-5MB", "1GiB", "MB", "1e9", "nan", "inf", "5 M B", "٣MB"])
def test_bytes_anything_else_is_refused(text):
    """What is not a positive size is an error that shows how one is written."""
    with pytest.raises(click.BadParameter, match="such as 500MB"):
        BYTES.convert(text, None, None)
