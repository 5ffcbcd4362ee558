"""Word error rate: what a transcript gets wrong, in words, where spelling and punctuation do not count.

Both texts become lower case, with hyphens as spaces and without other punctuation; numbers in digits become words, up
to 99 as one number, longer ones digit by digit, as telephones say them.
"""

import re
from collections.abc import Iterable, Sequence

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def words(text: str) -> list[str]:
    """Return the words of a text as they are compared."""
    plain = re.sub(r"[^\w\s]", "", text.lower().replace("-", " "))
    return [word for token in plain.split() for word in (_spoken(token) if token.isdecimal() else [token])]


def _spoken(digits: str) -> list[str]:
    number = int(digits)
    if len(digits) > 2 or digits[0] == "0":
        return [_ONES[int(digit)] for digit in digits]
    if number < 20:
        return [_ONES[number]]
    return [_TENS[number // 10 - 2], *([_ONES[number % 10]] if number % 10 else [])]


def word_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """Return the edits that make each heard text (second) the true one (first), per true word of all of them."""
    edits = count = 0
    for truth, heard in pairs:
        true_words = words(truth)
        edits += distance(true_words, words(heard))
        count += len(true_words)
    return edits / count


def distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Return how many words must be inserted, deleted or replaced."""
    row = list(range(len(right) + 1))
    for index, word in enumerate(left, 1):
        before, row[0] = row[0], index
        for other, wanted in enumerate(right, 1):
            before, row[other] = row[other], min(row[other] + 1, row[other - 1] + 1, before + (word != wanted))
    return row[-1]
