"""Make a Hugging Face folder of Whisper weights in CTranslate2's format, with numpy alone.

    python -m examples.whisper.ct2 MODEL_DIR OUT_DIR

CTranslate2 stores the very tensors that Hugging Face does, under other names, with the projections of one attention
joined into one matrix. `model.bin` (binary version 6, specification `WhisperSpec`, revision 3), little-endian:

    u32 version, str specification, u32 revision, u32 count
    count times: str name, u8 rank, u32 dims[rank], u8 dtype, u32 bytes, data
    u32 count of aliases, then that many times: str alias, str name
    str: u16 length, which counts the NUL at the end, and the characters

Floating-point weights are taken as they are (fp32, fp16). Quantized weights are refused: what they lost is lost.
"""

import json
import shutil
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgert.errors import BadInput, EdgertError, UsageError

Array = npt.NDArray[Any]

BINARY_VERSION = 6
SPECIFICATION = "WhisperSpec"
DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
SAFETENSORS_NAMES = {"<f4": "F32", "<f2": "F16"}
MOST_TENSORS = 10_000
LONGEST_RANK = 4
MOST_JSON_BYTES = 64_000_000
MULTILINGUAL_VOCABULARY = 51_865
_AGAIN = "copy the folder again and compare its sizes"


class _Reader:
    """Reads numbers, names and tensors one after the other from a mapped file; BadInput at the end of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data: Array = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as exc:  # ValueError: an empty file
            raise BadInput(f"{path}: cannot be read: {exc}", "give a folder that CTranslate2 wrote") from exc
        self.position = 0

    def take(self, count: int) -> Array:
        start, end = self.position, self.position + count
        if end > len(self.data):
            raise BadInput(f"{self.path}: the file is cut off: {len(self.data)} bytes, {end} are needed", _AGAIN)
        self.position = end
        return self.data[start:end]

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)).tobytes())
        return int(value)

    def text(self) -> str:
        data = self.take(self.number("<H")).tobytes()
        try:
            return data.removesuffix(b"\0").decode("ascii")
        except UnicodeDecodeError as exc:
            raise BadInput(f"{self.path}: a name at byte {self.position} is no text", _AGAIN) from exc

    def tensor(self, name: str) -> Array:
        rank = self.number("<B")
        if rank > LONGEST_RANK:
            raise BadInput(f"{self.path}: '{name}' has {rank} dimensions, at most {LONGEST_RANK} are expected", _AGAIN)
        shape = tuple(self.number("<I") for _ in range(rank))
        dtype, size = self.number("<B"), self.number("<I")
        if dtype not in DTYPES:
            raise BadInput(
                f"{self.path}: '{name}' has the type {dtype}, which is not known", "use fp32 or fp16 weights"
            )
        count = 1
        for dim in shape:
            count *= dim
        if size != count * np.dtype(DTYPES[dtype]).itemsize:
            raise BadInput(f"{self.path}: '{name}' has {size} bytes, which its shape {shape} does not need", _AGAIN)
        return self.take(size).view(DTYPES[dtype]).reshape(shape)


def read_model(path: Path) -> dict[str, Array]:
    """Return the tensors of a `model.bin` by CTranslate2's names, as views of the mapped file.

    Raises BadInput for another format, a file that is cut off, and sizes that contradict each other.
    """
    reader = _Reader(path)
    version, specification, revision = reader.number("<I"), "", 0
    if version == BINARY_VERSION:
        specification, revision = reader.text(), reader.number("<I")
    if specification != SPECIFICATION:
        raise BadInput(
            f"{path}: not a Whisper model of CTranslate2: version {version}, specification '{specification}'",
            f"give a model.bin of version {BINARY_VERSION} that holds a {SPECIFICATION}",
        )
    count = reader.number("<I")
    if count > MOST_TENSORS:
        raise BadInput(f"{path}: revision {revision} with {count} tensors, at most {MOST_TENSORS} are expected", _AGAIN)
    tensors: dict[str, Array] = {}
    for _ in range(count):
        name = reader.text()
        tensors[name] = reader.tensor(name)
    return tensors


@dataclass(frozen=True)
class Weights:
    """CTranslate2's tensors, asked for by name; a missing or quantized one is BadInput."""

    tensors: Mapping[str, Array]

    def __getitem__(self, name: str) -> Array:
        if name not in self.tensors:
            raise BadInput(
                f"the model has no tensor '{name}'", "give a Whisper model that CTranslate2's converter wrote"
            )
        array = self.tensors[name]
        if array.dtype.kind != "f" and array.ndim:
            raise BadInput(f"'{name}' is quantized to {array.dtype}", "convert the model with --quantization float16")
        return array

    def layers(self, side: str) -> int:
        """Return how many layers the encoder or the decoder has."""
        return len({name.split("/")[1] for name in self.tensors if name.startswith(f"{side}/layer_")} - {"layer_norm"})


def state_dict(weights: Weights) -> dict[str, Array]:
    """Return the weights under the names of `transformers.WhisperForConditionalGeneration`."""
    found: dict[str, Array] = {}
    for side in ("encoder", "decoder"):
        found |= _norm(weights, f"{side}/layer_norm", f"model.{side}.layer_norm")
        found[f"model.{side}.embed_positions.weight"] = weights[f"{side}/position_encodings/encodings"]
        for layer in range(weights.layers(side)):
            found |= _layer(weights, side, layer)
    found["model.decoder.embed_tokens.weight"] = weights["decoder/embeddings/weight"]
    for conv in ("conv1", "conv2"):
        found |= _linear(weights, f"encoder/{conv}", f"model.encoder.{conv}")
    return found


def _layer(weights: Weights, side: str, layer: int) -> dict[str, Array]:
    ours, theirs = f"{side}/layer_{layer}", f"model.{side}.layers.{layer}"
    found = _norm(weights, f"{ours}/self_attention/layer_norm", f"{theirs}.self_attn_layer_norm")
    found |= _joined(weights, f"{ours}/self_attention/linear_0", f"{theirs}.self_attn", "qkv")
    found |= _linear(weights, f"{ours}/self_attention/linear_1", f"{theirs}.self_attn.out_proj")
    if side == "decoder":
        found |= _norm(weights, f"{ours}/attention/layer_norm", f"{theirs}.encoder_attn_layer_norm")
        found |= _joined(weights, f"{ours}/attention/linear_0", f"{theirs}.encoder_attn", "q")
        found |= _joined(weights, f"{ours}/attention/linear_1", f"{theirs}.encoder_attn", "kv")
        found |= _linear(weights, f"{ours}/attention/linear_2", f"{theirs}.encoder_attn.out_proj")
    found |= _norm(weights, f"{ours}/ffn/layer_norm", f"{theirs}.final_layer_norm")
    found |= _linear(weights, f"{ours}/ffn/linear_0", f"{theirs}.fc1")
    return found | _linear(weights, f"{ours}/ffn/linear_1", f"{theirs}.fc2")


def _norm(weights: Weights, ours: str, theirs: str) -> dict[str, Array]:
    return {f"{theirs}.weight": weights[f"{ours}/gamma"], f"{theirs}.bias": weights[f"{ours}/beta"]}


def _linear(weights: Weights, ours: str, theirs: str) -> dict[str, Array]:
    return {f"{theirs}.weight": weights[f"{ours}/weight"], f"{theirs}.bias": weights[f"{ours}/bias"]}


def _joined(weights: Weights, ours: str, theirs: str, letters: str) -> dict[str, Array]:
    """Split a matrix into those of `letters`; Hugging Face keeps no bias for keys, where Whisper's is 0."""
    weight, bias = weights[f"{ours}/weight"], weights[f"{ours}/bias"]
    if len(weight) % len(letters) or len(bias) != len(weight):
        raise BadInput(f"'{ours}' has {len(weight)} rows, which are not {len(letters)} equal parts", _AGAIN)
    found: dict[str, Array] = {}
    for letter, rows, offsets in zip(
        letters, np.split(weight, len(letters)), np.split(bias, len(letters)), strict=True
    ):
        found[f"{theirs}.{letter}_proj.weight"] = rows
        if letter != "k":
            found[f"{theirs}.{letter}_proj.bias"] = offsets
        elif np.any(offsets):
            raise BadInput(f"'{ours}' has a bias for the keys, which no Whisper has", _AGAIN)
    return found


def model_config(weights: Weights, tokens: Mapping[str, int]) -> dict[str, object]:
    """Return `config.json`: every size is that of a tensor."""
    conv, table = weights["encoder/conv1/weight"], weights["decoder/embeddings/weight"]
    end = tokens["<|endoftext|>"]
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "d_model": int(conv.shape[0]),
        "num_mel_bins": int(conv.shape[1]),
        "vocab_size": int(table.shape[0]),
        "max_source_positions": int(weights["encoder/position_encodings/encodings"].shape[0]),
        "max_target_positions": int(weights["decoder/position_encodings/encodings"].shape[0]),
        "encoder_layers": weights.layers("encoder"),
        "decoder_layers": weights.layers("decoder"),
        "encoder_attention_heads": int(weights["encoder/num_heads"]),
        "decoder_attention_heads": int(weights["decoder/num_heads"]),
        "encoder_ffn_dim": int(weights["encoder/layer_0/ffn/linear_0/weight"].shape[0]),
        "decoder_ffn_dim": int(weights["decoder/layer_0/ffn/linear_0/weight"].shape[0]),
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "decoder_start_token_id": tokens["<|startoftranscript|>"],
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "torch_dtype": str(table.dtype),
    }


def generation_config(ct2: Mapping[str, Any], vocabulary: int, tokens: Mapping[str, int]) -> dict[str, object]:
    """Return `generation_config.json`: how the answer begins and ends, and which tokens never come."""
    end = tokens["<|endoftext|>"]
    config: dict[str, object] = {
        "decoder_start_token_id": tokens["<|startoftranscript|>"],
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "no_timestamps_token_id": tokens["<|notimestamps|>"],
        "suppress_tokens": ct2.get("suppress_ids", []),
        "begin_suppress_tokens": ct2.get("suppress_ids_begin", []),
        "alignment_heads": ct2.get("alignment_heads", []),
        "is_multilingual": vocabulary >= MULTILINGUAL_VOCABULARY,
        "max_length": 448,
    }
    if config["is_multilingual"]:
        languages = {name: number for name, number in tokens.items() if number in ct2.get("lang_ids", [])}
        config["lang_to_id"] = languages
        config["task_to_id"] = {task: tokens[f"<|{task}|>"] for task in ("transcribe", "translate")}
    return config


def preprocessor_config(mels: int) -> dict[str, object]:
    """Return `preprocessor_config.json`; but for the bands these are the constants of every Whisper."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": mels,
        "sampling_rate": 16_000,
        "n_fft": 400,
        "hop_length": 160,
        "chunk_length": 30,
        "n_samples": 480_000,
        "nb_max_frames": 3_000,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def save_safetensors(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays as safetensors: u64 length of the header, the header in JSON, then the data in its order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": SAFETENSORS_NAMES[array.dtype.str],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())


def convert(model: Path, out: Path) -> None:
    """Read CTranslate2's folder `model` and write Hugging Face's folder `out`; what is in `out` is replaced."""
    weights = Weights(read_model(model / "model.bin"))
    tokens = _special_tokens(model / "tokenizer.json")
    arrays = state_dict(weights)
    config = model_config(weights, tokens)
    vocabulary = int(weights["decoder/embeddings/weight"].shape[0])
    documents = {
        "config.json": config,
        "generation_config.json": generation_config(_read_json(model / "config.json"), vocabulary, tokens),
        "preprocessor_config.json": preprocessor_config(int(weights["encoder/conv1/weight"].shape[1])),
        "tokenizer_config.json": {"tokenizer_class": "WhisperTokenizerFast", "model_max_length": 1024},
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        (out / name).write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")
    shutil.copyfile(model / "tokenizer.json", out / "tokenizer.json")
    save_safetensors(out / "model.safetensors", arrays)


def _special_tokens(path: Path) -> dict[str, int]:
    entries = _read_json(path).get("added_tokens", [])
    tokens = {str(entry["content"]): int(entry["id"]) for entry in entries}
    for name in ("<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"):
        if name not in tokens:
            raise BadInput(f"{path}: there is no token '{name}'", "give the tokenizer.json of a Whisper model")
    return tokens


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise BadInput(f"{path}: {path.stat().st_size} bytes, at most {MOST_JSON_BYTES} are read", _AGAIN)
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise BadInput(
            f"{path}: cannot be read: {exc}", "give a folder with model.bin, config.json, tokenizer.json"
        ) from exc
    if not isinstance(document, dict):
        raise BadInput(f"{path}: an object is expected", _AGAIN)
    return document


def main(arguments: list[str]) -> int:
    """Convert the folders that the command line names; returns the exit code."""
    try:
        if len(arguments) != 2:
            raise UsageError("two folders are expected", "python -m examples.whisper.ct2 MODEL_DIR OUT_DIR")
        convert(Path(arguments[0]), Path(arguments[1]))
    except EdgertError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"wrote {arguments[1]}; next: edgert convert {arguments[1]} -p PROFILE")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
