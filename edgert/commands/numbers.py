"""The ranges of the numbers that several subcommands take, so that a slip of the finger is an error and not a hang."""

import click

THREADS = click.IntRange(0, 1024)
COUNT = click.IntRange(1, 1_000_000)
