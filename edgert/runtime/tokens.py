"""Text as tokens and tokens as text, by the `tokenizer.json` of a bundle.

Needs the package tokenizers, the extra `text`.
"""

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from edgert.errors import BadInput, MissingExtra, VerificationFailed
from edgert.manifest import TensorSpec
from edgert.task import TextSpec

Array = np.ndarray[Any, Any]

log = logging.getLogger("edgert")

MAX_TOKENIZER_BYTES = 64_000_000
MAX_TEXT_CHARACTERS = 1_000_000  # of one text; far more than any max_tokens keeps

_PAD_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>")


class Tokenizer:
    """An open tokenizer; made by `open`."""

    def __init__(self, tokenizer: Any, spec: TextSpec, name: str) -> None:
        self._tokenizer = tokenizer
        self._spec = spec
        self._name = name
        self._pad = _pad_id(tokenizer)
        tokenizer.no_padding()

    @classmethod
    def open(cls, path: Path, spec: TextSpec) -> Self:
        """Open the file at `path`; VerificationFailed when it is no tokenizer, MissingExtra without tokenizers."""
        library = _library()
        try:
            size = path.stat().st_size
            if size > MAX_TOKENIZER_BYTES:
                raise _broken(path.name, f"it is {size} bytes, at most {MAX_TOKENIZER_BYTES} are read")
            data = path.read_bytes()
        except OSError as exc:
            raise BadInput(f"'{path}' cannot be read: {exc.strerror or exc}", "check the path") from exc
        with _blaming(path.name):
            return cls(library.Tokenizer.from_buffer(data), spec, path.name)

    def encode(self, texts: Sequence[str], inputs: Sequence[TensorSpec]) -> dict[str, Array]:
        """Return the feeds of the inputs that the TextSpec names, [texts, tokens] of each input's dtype.

        Texts are cut to `max_tokens`, or to the length of the input where that is fixed, and padded to the longest
        one, or to that length. BadInput for a text that is too long to look at or is not valid Unicode,
        VerificationFailed for a tokenizer that fails on it.
        """
        by_name = {spec.name: spec for spec in inputs}
        fixed = _fixed_length(by_name[self._spec.ids])
        room = min(self._spec.max_tokens, fixed or self._spec.max_tokens)
        self._tokenizer.enable_truncation(room)
        rows = [self._encode_one(text) for text in texts]
        longest = max(len(row.ids) for row in rows)
        if longest > room:  # tokenizers does not cut where its special tokens alone do not fit
            raise BadInput(f"{room} tokens leave no room for a text between the special tokens", "allow more tokens")
        cut = sum(bool(row.overflowing) for row in rows)
        if cut:
            log.warning(
                "%d of %d texts are longer than %d tokens; what comes after them is left out", cut, len(rows), room
            )
        length = fixed or longest
        columns = {
            self._spec.ids: ([row.ids for row in rows], self._pad),
            self._spec.mask: ([row.attention_mask for row in rows], 0),
            self._spec.types: ([row.type_ids for row in rows], 0),
        }
        return {
            name: np.array([row + [pad] * (length - len(row)) for row in values], by_name[name].dtype)
            for name, (values, pad) in columns.items()
            if name
        }

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out."""
        with _blaming(self._name):
            text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
            return text.strip()

    def _encode_one(self, text: str) -> Any:
        if len(text) > MAX_TEXT_CHARACTERS:
            message = f"a text has {len(text)} characters, at most {MAX_TEXT_CHARACTERS} are read"
            raise BadInput(message, "cut it")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise BadInput(f"the text {text[:40]!a} is not valid Unicode", "give it in UTF-8") from exc
        with _blaming(self._name):
            return self._tokenizer.encode(text)


def _fixed_length(spec: TensorSpec) -> int:
    """Return the length that an input [texts, tokens] asks for, 0 where it is free."""
    length = spec.shape[-1] if len(spec.shape) == 2 else None
    return length if isinstance(length, int) else 0


def _pad_id(tokenizer: Any) -> int:
    """Return the token that fills a row: the one the file says, or one that is called so, or 0, which is masked."""
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    found = (tokenizer.token_to_id(token) for token in _PAD_TOKENS)
    return next((token for token in found if token is not None), 0)


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Turn what tokenizers raises for a file that it cannot use into VerificationFailed."""
    try:
        yield
    except (MemoryError, KeyboardInterrupt):
        raise
    except BaseException as exc:  # plain Exception it is mostly; a panic of its Rust code is not even that
        if isinstance(exc, Exception) or type(exc).__name__ == "PanicException":
            raise _broken(name, str(exc)) from exc
        raise


def _broken(name: str, reason: str) -> VerificationFailed:
    return VerificationFailed(
        f"'{name}' is not a tokenizer that can be used: {reason[:200]}",
        "convert the model again from a folder with a whole tokenizer.json",
    )


def _library() -> ModuleType:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as exc:
        message = "text needs the package tokenizers, which is not installed"
        raise MissingExtra(message, "pip install 'edgert[text]'") from exc
