"""JSON as edgert writes and reads it: sorted keys, finite numbers, no duplicate keys, valid Unicode, bounded.

What the documents mean is left to `manifest` and the callers.
"""

import json
import math
from collections import Counter
from typing import NoReturn

from edgert.errors import BadInput

MAX_BYTES = 16_000_000
MAX_DEPTH = 64


def dumps(document: object) -> str:
    """Return `document` as JSON text with sorted keys and a final newline; ValueError on NaN or Infinity."""
    return json.dumps(document, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def loads(text: str | bytes, what: str) -> object:
    """Parse JSON text strictly; `what` names the document in the BadInput that any defect raises."""
    if len(text) > MAX_BYTES:
        raise BadInput(f"{what} is {len(text)} bytes, more than the {MAX_BYTES} allowed", _REMEDY)

    def refuse_constant(word: str) -> NoReturn:
        raise BadInput(f"{what} holds {word}, which is not JSON", _REMEDY)

    def finite(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise BadInput(f"{what} holds the number {digits[:40]}, which is too large", _REMEDY)
        return number

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name in counts if counts[name] > 1)
            raise BadInput(f"{what} holds the key '{twice}' twice", _REMEDY)
        return result

    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        document: object = json.loads(
            decoded, parse_constant=refuse_constant, parse_float=finite, object_pairs_hook=unique
        )
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # refuses a lone surrogate
    except (ValueError, RecursionError) as exc:
        raise BadInput(f"{what} is not valid JSON: {exc}", _REMEDY) from exc
    if _depth(document) > MAX_DEPTH:
        raise BadInput(f"{what} is nested deeper than {MAX_DEPTH} levels", _REMEDY)
    return document


_REMEDY = "make the file again with the tool that wrote it"


def _depth(document: object) -> int:
    """Return the nesting depth without recursion, so that a hostile document cannot exhaust the stack."""
    deepest, queue = 0, [(document, 1)]
    while queue:
        item, level = queue.pop()
        deepest = max(deepest, level)
        children = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        queue.extend((child, level + 1) for child in children)
    return deepest
