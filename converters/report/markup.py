"""Pieces of HTML that every section uses. Cells and bodies are ready HTML: whoever makes them escapes names."""

import re
from collections.abc import Sequence
from html import escape

from converters.report.style import STYLE

PROSE = 32
"""A cell of more characters is prose, which may go over several lines; names and figures stay on one."""


def page(title: str, body: str) -> str:
    """Return a whole HTML document."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = (), marked: int = -1
) -> str:
    """Return a table of ready HTML cells; columns in `numbers` are right-aligned, row `marked` is the chosen one."""

    def line(cells: Sequence[str], tag: str, css: str = "") -> str:
        inner = "".join(f"<{tag}{_kind(cell, column in numbers)}>{cell}</{tag}>" for column, cell in enumerate(cells))
        return f"<tr{css}>{inner}</tr>"

    body = "".join(line(row, "td", " class=chosen" if number == marked else "") for number, row in enumerate(rows))
    return f"<div class='scroll'><table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table></div>"


def _kind(cell: str, is_number: bool) -> str:
    """Return the class attribute of a cell."""
    if is_number:
        return " class=n"
    return " class=prose" if len(re.sub(r"<[^>]*>", "", cell)) > PROSE else ""


def where_tag(where: str) -> str:
    """Return the badge that says where a figure was measured."""
    return f"<span class='tag {escape(where)}'>{escape(where)}</span>"


def folded(summary: str, body: str, *, is_open: bool = False) -> str:
    """Return a body that is shown when its summary, plain text, is clicked."""
    return f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>{body}</details>"


def megabytes(count: int) -> str:
    """Return bytes as text in megabytes."""
    return f"{count / 1e6:.2f} MB"


def provider_name(name: str) -> str:
    """Return the name of an execution provider as people say it, escaped."""
    return escape(name.removesuffix("ExecutionProvider"))
