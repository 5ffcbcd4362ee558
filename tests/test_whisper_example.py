"""The Whisper example: reading CTranslate2's format, word error rates, prompts."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from edgert.errors import BadInput, EnvironmentFailed
from examples.whisper import ct2
from examples.whisper.prompts import prompts
from examples.whisper.words import word_error_rate, words

WIDTH = 4
CODES = {"<f4": 0, "|i1": 1, "<i2": 2, "<f2": 4}


def model_bytes(tensors: Mapping[str, np.ndarray], specification: str = "WhisperSpec") -> bytes:
    """Return a model.bin that holds these tensors."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", 6), text(specification), struct.pack("<II", 3, len(tensors))]
    for name, array in tensors.items():
        shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        parts += [text(name), shape, struct.pack("<BI", CODES[array.dtype.str], array.nbytes), array.tobytes()]
    return b"".join(parts)


def tiny_whisper() -> dict[str, np.ndarray]:
    """Return the tensors of a Whisper of one layer, named as CTranslate2 names them."""
    random = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}

    def weight(name: str, *shape: int) -> None:
        tensors[name] = random.normal(size=shape).astype(np.float16)

    def linear(name: str, rows: int, columns: int = WIDTH) -> None:
        weight(f"{name}/weight", rows, columns)
        weight(f"{name}/bias", rows)

    def norm(name: str) -> None:
        weight(f"{name}/gamma", WIDTH)
        weight(f"{name}/beta", WIDTH)

    weight("encoder/conv1/weight", WIDTH, 80, 3)
    weight("encoder/conv2/weight", WIDTH, WIDTH, 3)
    weight("decoder/embeddings/weight", 9, WIDTH)
    for conv in ("conv1", "conv2"):
        weight(f"encoder/{conv}/bias", WIDTH)
    for side in ("encoder", "decoder"):
        weight(f"{side}/position_encodings/encodings", 5, WIDTH)
        tensors[f"{side}/num_heads"] = np.array(2, np.int16)
        norm(f"{side}/layer_norm")
        layer = f"{side}/layer_0"
        for part in ("self_attention", "ffn", *(["attention"] if side == "decoder" else [])):
            norm(f"{layer}/{part}/layer_norm")
        linear(f"{layer}/self_attention/linear_0", 3 * WIDTH)
        linear(f"{layer}/self_attention/linear_1", WIDTH)
        tensors[f"{layer}/self_attention/linear_0/bias"][WIDTH : 2 * WIDTH] = 0
        linear(f"{layer}/ffn/linear_0", 7)
        linear(f"{layer}/ffn/linear_1", WIDTH, 7)
    for index, rows in enumerate((WIDTH, 2 * WIDTH, WIDTH)):
        linear(f"decoder/layer_0/attention/linear_{index}", rows)
    tensors["decoder/layer_0/attention/linear_1/bias"][:WIDTH] = 0
    return tensors


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the folder of a tiny Whisper in CTranslate2's format."""
    folder = tmp_path / "ct2"
    folder.mkdir()
    (folder / "model.bin").write_bytes(model_bytes(tiny_whisper()))
    (folder / "config.json").write_text('{"suppress_ids": [1, 2], "suppress_ids_begin": [3]}')
    names = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")
    entries = [{"id": index, "content": name} for index, name in enumerate(names, 5)]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": entries}))
    return folder


def test_ct2_folder_converted_has_sizes_and_tokens_of_the_model(model: Path, tmp_path: Path) -> None:
    """config.json comes out of the tensors' shapes, generation_config.json out of tokenizer and CTranslate2's own."""
    ct2.convert(model, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["d_model"], config["vocab_size"], config["encoder_layers"], config["decoder_ffn_dim"]) == (
        4,
        9,
        1,
        7,
    )
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["decoder_start_token_id"]) == (5, 6)
    assert (generation["suppress_tokens"], generation["begin_suppress_tokens"]) == ([1, 2], [3])


def test_ct2_joined_projections_are_split_into_query_key_value(model: Path) -> None:
    """The rows of a joined matrix are those of query, key and value in this order; keys have no bias."""
    tensors = tiny_whisper()
    found = ct2.state_dict(ct2.Weights(ct2.read_model(model / "model.bin")))
    joined = tensors["encoder/layer_0/self_attention/linear_0/weight"]
    for letter, rows in zip("qkv", np.split(joined, 3), strict=True):
        assert np.array_equal(found[f"model.encoder.layers.0.self_attn.{letter}_proj.weight"], rows)
    values = tensors["decoder/layer_0/attention/linear_1/bias"][WIDTH:]
    assert np.array_equal(found["model.decoder.layers.0.encoder_attn.v_proj.bias"], values)
    assert "model.decoder.layers.0.encoder_attn.k_proj.bias" not in found
    used = {name for name in tensors if not name.endswith("num_heads")}
    assert sum(tensors[name].size for name in used) - 3 * WIDTH == sum(array.size for array in found.values())


@pytest.mark.parametrize("kept", [0, 3, 20, 60, 1000, -1])
def test_ct2_file_cut_off_is_refused(model: Path, tmp_path: Path, kept: int) -> None:
    """A model.bin that ends anywhere too early is bad input, and no folder is written."""
    file = model / "model.bin"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BadInput, match=r"cut off|cannot be read"):
        ct2.convert(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [11_000, 0xFFFFFFFF])
def test_ct2_file_with_too_many_tensors_is_refused(model: Path, count: int) -> None:
    """The number of tensors is believed only within reason."""
    file = model / "model.bin"
    data = bytearray(file.read_bytes())
    data[22:26] = struct.pack("<I", count)
    file.write_bytes(data)
    with pytest.raises(BadInput, match=f"{count} tensors"):
        ct2.read_model(file)


def test_ct2_size_that_contradicts_the_shape_is_refused(model: Path) -> None:
    """A tensor's bytes must be what its shape and type need."""
    file = model / "model.bin"
    data = file.read_bytes()
    shape = struct.pack("<B2I", 2, 9, WIDTH)
    assert data.count(shape) == 1
    file.write_bytes(data.replace(shape, struct.pack("<B2I", 2, 0xFFFFFFFF, 0xFFFFFFFF)))
    with pytest.raises(BadInput, match="does not need"):
        ct2.read_model(file)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("decoder/embeddings/weight", np.zeros((9, WIDTH), np.int8), "quantized"),
        ("encoder/layer_0/self_attention/linear_0/bias", np.ones(3 * WIDTH, np.float16), "bias for the keys"),
        ("encoder/layer_0/self_attention/linear_0/weight", np.ones((10, WIDTH), np.float16), "equal parts"),
    ],
)
def test_ct2_weights_that_whisper_cannot_have_are_refused(
    model: Path, tmp_path: Path, name: str, array: np.ndarray, said: str
) -> None:
    """Quantized weights, a bias for keys and matrices that cannot be split are told."""
    (model / "model.bin").write_bytes(model_bytes({**tiny_whisper(), name: array}))
    with pytest.raises(BadInput, match=said):
        ct2.convert(model, tmp_path / "out")


def test_ct2_missing_tensor_and_other_model_are_refused(model: Path, tmp_path: Path) -> None:
    """A tensor that is not there is named; so is the specification of another kind of model."""
    tensors = tiny_whisper()
    del tensors["encoder/conv2/weight"]
    (model / "model.bin").write_bytes(model_bytes(tensors))
    with pytest.raises(BadInput, match="encoder/conv2/weight"):
        ct2.convert(model, tmp_path / "out")
    (model / "model.bin").write_bytes(model_bytes(tensors, "TransformerSpec"))
    with pytest.raises(BadInput, match="TransformerSpec"):
        ct2.convert(model, tmp_path / "out")


def test_ct2_command_without_two_folders_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    """The command line answers a wrong call with the right one."""
    assert ct2.main(["only-one"]) == 2
    assert "MODEL_DIR OUT_DIR" in capsys.readouterr().err


def test_words_of_numbers_and_case_are_compared_as_spoken() -> None:
    """Case, punctuation, hyphens and digits make no difference; "0" to "99" are numbers, longer ones are digits."""
    assert words("Press 1, then 42; re-enter PIN 162.") == "press one then forty two re enter pin one six two".split()
    assert words("thirty 30 07") == "thirty thirty zero seven".split()


def test_word_error_rate_counts_edits_per_true_word() -> None:
    """One word replaced, one left out and one added, of eight true words in all."""
    pairs = [("one two three four", "one too three"), ("five six seven eight", "five six seven ate eight")]
    assert word_error_rate(pairs) == 3 / 8
    assert word_error_rate([("The same.", "the same")]) == 0.0


def test_prompts_are_sentences_with_sound() -> None:
    """Prompts come with files that are there, no remarks in brackets, and the same ones every time."""
    try:
        found = prompts(13)
    except EnvironmentFailed as exc:
        pytest.skip(exc.message)
    assert len({prompt.file for prompt in found}) == 13
    assert all(prompt.file.is_file() and "[" not in prompt.text for prompt in found)
    assert found == prompts(13)


def test_whisper_tiny_en_is_read_whole(model_path: Callable[[str], Path]) -> None:
    """Every number of the real model.bin ends up under a Hugging Face name, but for zeros: 37.2 million weights."""
    tensors = ct2.read_model(model_path("whisper-tiny-en") / "model.bin")
    found = ct2.state_dict(ct2.Weights(tensors))
    floats = sum(array.size for array in tensors.values() if array.ndim)  # single numbers are settings
    keys_without_bias = 4 + 2 * 4
    assert floats - keys_without_bias * 384 == sum(array.size for array in found.values()) == 37_184_256 + 576_000
