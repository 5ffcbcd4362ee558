"""Text becomes tokens of the inputs' dtype and length, and a file that is no tokenizer is named."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgert.errors import BadInput, VerificationFailed
from edgert.manifest import TensorSpec
from edgert.runtime.tokens import Tokenizer
from edgert.task import TextSpec
from tests.runtime.task_files import save_word_tokenizer

NAMES = ("ids", "mask", "types")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a small tokenizer: [PAD] [UNK] [CLS] [SEP] a the dog cat sat are 0 to 8."""
    return save_word_tokenizer(tmp_path / "tokenizer.json")


def inputs(length: int | str = "length", dtype: str = "int64") -> list[TensorSpec]:
    """Return three inputs [batch, length]."""
    return [TensorSpec(name, dtype, ("batch", length)) for name in NAMES]


def test_encode_pads_to_the_longest(path: Path) -> None:
    """Ids, mask and types of a batch are rectangles, padded with [PAD] and zeros."""
    feeds = Tokenizer.open(path, TextSpec("t", 16, *NAMES)).encode(["the Dog", "the cat sat zzz"], inputs())
    assert feeds["ids"].tolist() == [[2, 5, 6, 3, 0, 0], [2, 5, 7, 8, 1, 3]]
    assert feeds["mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert feeds["types"].tolist() == [[0] * 6] * 2
    assert {array.dtype.name for array in feeds.values()} == {"int64"}


def test_encode_cuts_to_the_most_tokens_and_keeps_the_last_special_one(path: Path) -> None:
    """A text is cut before its [SEP], not after."""
    feeds = Tokenizer.open(path, TextSpec("t", 4, *NAMES)).encode(["the cat sat on"], inputs())
    assert feeds["ids"].tolist() == [[2, 5, 7, 3]]


def test_encode_that_cuts_says_so(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left out silently: a text that is too long is a warning, one that fits is none."""
    tokenizer = Tokenizer.open(path, TextSpec("t", 4, *NAMES))
    tokenizer.encode(["the cat"], inputs())
    assert caplog.messages == []
    tokenizer.encode(["the cat", "the cat sat on"], inputs())
    assert caplog.messages == ["1 of 2 texts are longer than 4 tokens; what comes after them is left out"]


@pytest.mark.parametrize("length", [3, 6])
def test_encode_for_a_fixed_length_fills_exactly_it(path: Path, length: int) -> None:
    """An input of a fixed length is cut and padded to it, in its own dtype."""
    spec = TextSpec("t", 5, *NAMES)
    feeds = Tokenizer.open(path, spec).encode(["the cat sat on"], inputs(length, "int32"))
    assert feeds["ids"].tolist() == [[2, 5, 3] if length == 3 else [2, 5, 7, 8, 3, 0]]
    assert feeds["ids"].dtype == np.int32


def test_encode_feeds_only_the_inputs_that_are_named(path: Path) -> None:
    """A model without types gets none."""
    feeds = Tokenizer.open(path, TextSpec("t", 5, "ids", "mask")).encode(["dog"], inputs())
    assert sorted(feeds) == ["ids", "mask"]


def test_encode_ignores_padding_and_cutting_that_the_file_asks_for(path: Path) -> None:
    """What the task says counts; only the padding token comes from the file."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    document["padding"] = {
        "strategy": {"Fixed": 12},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 9,
        "pad_type_id": 0,
        "pad_token": "on",
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    feeds = Tokenizer.open(path, TextSpec("t", 16, *NAMES)).encode(["the dog sat", "a"], inputs())
    assert feeds["ids"].tolist() == [[2, 5, 6, 8, 3], [2, 4, 3, 9, 9]]


def test_encode_without_room_for_a_text_says_so(path: Path) -> None:
    """One token cannot hold [CLS] and [SEP]."""
    with pytest.raises(BadInput, match="1 tokens leave no room"):
        Tokenizer.open(path, TextSpec("t", 1, *NAMES)).encode(["dog"], inputs())


@pytest.mark.parametrize(("text", "words"), [("\udc80", "not valid Unicode"), ("x" * 1_000_001, "1000001 characters")])
def test_encode_of_a_text_that_cannot_be_read_is_bad_input(path: Path, text: str, words: str) -> None:
    """Half a character, as a shell may pass on, and megabytes are refused by name."""
    with pytest.raises(BadInput, match=words):
        Tokenizer.open(path, TextSpec("t", 16, *NAMES)).encode([text], inputs())


def test_decode_leaves_special_tokens_out(path: Path) -> None:
    """Tokens become words again."""
    assert Tokenizer.open(path, TextSpec("t", 16, "")).decode([2, 5, 6, 8, 3]) == "the dog sat"


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b"\xff\xfe", b'{"version": "1.0", "model": {"type": "X"}}'])
def test_open_of_a_broken_file_is_verification_failed(tmp_path: Path, data: bytes) -> None:
    """The bundle is not what its manifest says, and the file is named."""
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(VerificationFailed, match=r"tokenizer\.json"):
        Tokenizer.open(tmp_path / "tokenizer.json", TextSpec("t", 16, "ids"))


def test_open_of_a_file_that_makes_the_library_panic_is_verification_failed(path: Path) -> None:
    """A template that names a token which is not there stops the library's Rust code, and is an error here."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document["post_processor"]["special_tokens"] = {}
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(VerificationFailed, match=r"tokenizer\.json"):
        Tokenizer.open(path, TextSpec("t", 16, *NAMES)).encode(["dog"], inputs())


def test_open_of_a_huge_file_reads_nothing(path: Path) -> None:
    """The size is looked at first: a sparse file of a terabyte costs nothing."""
    os.truncate(path, 1 << 40)
    with pytest.raises(VerificationFailed, match="1099511627776 bytes, at most"):
        Tokenizer.open(path, TextSpec("t", 16, "ids"))


def test_open_without_the_package_names_the_extra(path: Path) -> None:
    """The base install says which command makes texts work."""
    code = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from pathlib import Path\n"
        "from edgert.errors import MissingExtra\n"
        "from edgert.runtime.tokens import Tokenizer\n"
        "from edgert.task import TextSpec\n"
        "try:\n    Tokenizer.open(Path(sys.argv[1]), TextSpec('t', 16, 'ids'))\n"
        "except MissingExtra as error:\n    print(error.exit_code, error.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "3 pip install 'edgert[text]'\n"


def test_encode_with_the_tokenizer_of_minilm_gives_its_tokens(model_path: Callable[[str], Path]) -> None:
    """The ids are those that transformers gives: [CLS] 101, [SEP] 102, [PAD] 0."""
    tokenizer = Tokenizer.open(model_path("minilm-l6") / "tokenizer.json", TextSpec("t", 256, *NAMES))
    feeds = tokenizer.encode(["Hello, world!", "a"], inputs())
    assert feeds["ids"].tolist() == [[101, 7592, 1010, 2088, 999, 102], [101, 1037, 102, 0, 0, 0]]


def test_decode_with_the_tokenizer_of_whisper_gives_its_text(model_path: Callable[[str], Path]) -> None:
    """Bytes of tokens become text again, control tokens left out."""
    tokenizer = Tokenizer.open(model_path("whisper-tiny-en") / "tokenizer.json", TextSpec("t", 448, ""))
    assert tokenizer.decode([50257, 50362, 1770, 13, 2264, 346, 353, 318, 50256]) == "Mr. Quilter is"
