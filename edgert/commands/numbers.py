"""The ranges of the numbers that several subcommands take, so that a slip of the finger is an error and not a hang."""

import re

import click

THREADS = click.IntRange(0, 1024)
COUNT = click.IntRange(1, 1_000_000)

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class ByteCount(click.ParamType[float]):
    """A number of bytes above zero, with an SI unit or without: 500MB, 1.5 GB, 800000000."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the bytes; click's error for anything else."""
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?B)?", str(value).strip(), re.IGNORECASE)
        count = float(found.group(1)) * _UNITS[(found.group(2) or "").upper()] if found else 0.0
        if count < 1:
            self.fail(f"'{value}' is not a size such as 500MB or 2GB", param, ctx)
        return count


BYTES = ByteCount()
