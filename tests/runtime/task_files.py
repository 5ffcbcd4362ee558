"""Small tokenizers, sounds and bundles with a task, for the tests of what a model is for."""

import wave as wave_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgert.bundle import write_bundle
from edgert.image_spec import ImageSpec
from edgert.manifest import Golden, Manifest, Placement, TensorSpec, Variant
from edgert.runtime.golden import GoldenVector, write_golden
from edgert.runtime.session import Session
from edgert.task import AudioSpec, GenerateSpec, Task, TextSpec
from tests.runtime.small_models import CPU

WORDS = "a the dog cat sat on mat more and is not good bad very".split()
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def save_word_tokenizer(path: Path) -> Path:
    """Save a tokenizer of whole words: ids 0-3 are [PAD] [UNK] [CLS] [SEP], then `WORDS`; a text is [CLS] … [SEP]."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*SPECIAL, *WORDS))}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(path))
    return path


def tones() -> dict[str, np.ndarray]:
    """Return sounds at 16 kHz, float32: like speech, a tone at full scale, silence, a long one."""
    random = np.random.default_rng(0)
    time = np.arange(16000 * 4) / 16000
    speech = 0.3 * np.sin(2 * np.pi * 440 * time) * np.exp(-time) + 0.05 * random.standard_normal(time.size) * (
        time > 2
    )
    return {
        "speech": speech.astype(np.float32),
        "tone": np.sin(2 * np.pi * 1000 * time).astype(np.float32),
        "silence": np.zeros(1000, np.float32),
        "long": (0.1 * random.standard_normal(16000 * 7)).astype(np.float32),
    }


@dataclass(frozen=True)
class Net:
    """A graph with its inputs and outputs, and one sample of the inputs for the golden vectors."""

    nodes: Sequence[onnx.NodeProto]
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    weights: Mapping[str, object]
    sample: Mapping[str, np.ndarray]


def node(op_type: str, inputs: str, output: str, domain: str = "", **attributes: object) -> onnx.NodeProto:
    """Return a node; `inputs` are names with blanks between."""
    return helper.make_node(op_type, inputs.split(), [output], name=output, domain=domain, **attributes)


def embedder(batch: int | str = "batch", length: int | str = "length") -> Net:
    """Return a net: the mean over the mask of a random row of 8 numbers for each token."""
    table = np.random.default_rng(1).standard_normal((len(SPECIAL) + len(WORDS), 8)).astype(np.float32)
    return Net(
        [
            node("Gather", "table input_ids", "rows"),
            node("Cast", "attention_mask", "mask", to=TensorProto.FLOAT),
            node("Unsqueeze", "mask last", "column"),
            node("Mul", "rows column", "kept"),
            node("ReduceSum", "kept middle", "sum", keepdims=0),
            node("ReduceSum", "mask middle", "count"),
            node("Div", "sum count", "embedding"),
        ],
        [TensorSpec(name, "int64", (batch, length)) for name in ("input_ids", "attention_mask")],
        [TensorSpec("embedding", "float32", (batch, 8))],
        {"table": table, "last": np.array([2]), "middle": np.array([1])},
        dict.fromkeys(
            ("input_ids", "attention_mask"), np.ones([1, length if isinstance(length, int) else 3], np.int64)
        ),
    )


def mean_color() -> Net:
    """Return a net for pictures [1,3,4,4]: the mean of each channel, 0..1."""
    return Net(
        [node("ReduceMean", "x", "scores", axes=[2, 3], keepdims=0)],
        [TensorSpec("x", "float32", (1, 3, 4, 4), ImageSpec())],
        [TensorSpec("scores", "float32", (1, 3))],
        {},
        {"x": np.ones((1, 3, 4, 4), np.float32)},
    )


def loudness() -> Net:
    """Return a net for 100 samples of sound: the largest and the mean value."""
    return Net(
        [
            node("ReduceMax", "wave", "peak", axes=[1]),
            node("ReduceMean", "wave", "mean", axes=[1]),
            node("Concat", "peak mean", "scores", axis=1),
        ],
        [TensorSpec("wave", "float32", (1, 100))],
        [TensorSpec("scores", "float32", (1, 2))],
        {},
        {"wave": np.ones((1, 100), np.float32)},
    )


def opinion() -> Net:
    """Return a net for text [rows, 1] itself, as scikit-learn's are: the text's label, and two probabilities."""
    words = {"keys_strings": ["good", "bad"]}
    return Net(
        [
            node("LabelEncoder", "text", "yes", "ai.onnx.ml", **words, values_floats=[0.9, 0.2], default_float=0.5),
            node("Sub", "one yes", "no"),
            node("Concat", "no yes", "probabilities", axis=1),
            node("LabelEncoder", "text", "said", "ai.onnx.ml", **words, values_strings=["+", "-"], default_string="?"),
            node("Reshape", "said flat", "label"),
        ],
        [TensorSpec("text", "str", ("rows", 1))],
        [TensorSpec("label", "str", ("rows",)), TensorSpec("probabilities", "float32", ("rows", 2))],
        {"one": np.float32(1), "flat": np.array([-1])},
        {"text": np.array([["good"]], object)},
    )


def encoder(frames: int = 100) -> Net:
    """Return a net for log-mel features [1,80,frames]: `hint` [1,18], 0, but 5 at token 7 where there is sound."""
    hint = np.zeros((1, VOCABULARY), np.float32)
    hint[0, 7] = 5
    return Net(
        [
            node("ReduceMax", "features", "loudest", axes=[1, 2], keepdims=0),
            node("Greater", "loudest least", "is_sound"),
            node("Cast", "is_sound", "sound", to=TensorProto.FLOAT),
            node("Mul", "sound table", "hint"),
        ],
        [TensorSpec("features", "float32", (1, 80, frames))],
        [TensorSpec("hint", "float32", (1, VOCABULARY))],
        {"least": np.float32(-1), "table": hint},
        {"features": np.zeros((1, 80, frames), np.float32)},
    )


def decoder() -> Net:
    """Return a net that says the script token by token: step n, by the length of its cache, prefers SCRIPT[n].

    Token 7 is preferred at the first step after the prompt where the `hint` says so.
    """
    table = np.zeros((len(SCRIPT), VOCABULARY), np.float32)
    table[np.arange(len(SCRIPT)), SCRIPT] = 3 + 3 * (np.arange(len(SCRIPT)) != 1)
    return Net(
        [
            node("Shape", "past", "length", start=1, end=2),
            node("Gather", "table length", "row"),
            node("Add", "row hint", "sum"),
            node("Unsqueeze", "sum first", "logits"),
            node("Cast", "ids", "value", to=TensorProto.FLOAT),
            node("Unsqueeze", "value last", "entry"),
            node("Concat", "past entry", "present", axis=1),
        ],
        [
            TensorSpec("ids", "int64", (1, 1)),
            TensorSpec("hint", "float32", (1, VOCABULARY)),
            TensorSpec("past", "float32", (1, "past", 1)),
        ],
        [
            TensorSpec("logits", "float32", (1, 1, VOCABULARY)),
            TensorSpec("present", "float32", (1, "present", 1)),
        ],
        {"table": table, "first": np.array([0]), "last": np.array([2])},
        {
            "ids": np.array([[2]]),
            "hint": np.zeros((1, VOCABULARY), np.float32),
            "past": np.zeros((1, 0, 1), np.float32),
        },
    )


VOCABULARY = len(SPECIAL) + len(WORDS)
SCRIPT = (0, 5, 6, 7, 3, 3)  # the first belongs to the prompt; then "the dog cat", and [SEP] ends
SPEECH = Task(
    "speech-to-text",
    "hint",
    text=TextSpec("tokenizer.json", 16, ids=""),
    audio=AudioSpec("features", "log-mel", 16000, 1.0, n_fft=400, hop=160, mels=80),
    generate=GenerateSpec(
        "decoder", "ids", "logits", (2, 1), (3,), 6, cross={"hint": "hint"}, cache={"past": "present"}
    ),
)


def save_net(net: Net, path: Path) -> Path:
    """Save the graph as ONNX, opset 17 and ai.onnx.ml 3."""
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "str": TensorProto.STRING}
    inputs, outputs = (
        [helper.make_tensor_value_info(spec.name, kinds[spec.dtype], spec.shape) for spec in specs]
        for specs in (net.inputs, net.outputs)
    )
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in net.weights.items()]
    graph = helper.make_graph(list(net.nodes), "net", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def write_task_bundle(
    path: Path, net: Net, task: Task | None = None, files: Mapping[str, bytes] | None = None, **changes: object
) -> Path:
    """Write a bundle of the net for the CPU at `path`, with a tokenizer where the task names one, and `files`."""
    staging = path.with_name(f"{path.name}-staging")
    staging.mkdir()
    save_net(net, staging / "fp32.onnx")
    with Session.open(staging / "fp32.onnx", CPU, threads=1) as session:
        write_golden(staging / "golden.npz", [GoldenVector(net.sample, session.run(net.sample))])
    (staging / "reference.json").write_text("{}", encoding="utf-8")
    if task is not None and task.text is not None:
        save_word_tokenizer(staging / task.text.tokenizer)
    for name, data in (files or {}).items():
        (staging / name).write_bytes(data)
    manifest = Manifest(
        name="tasked",
        version="1",
        license="Apache-2.0",
        profile="x86-avx2",
        arch="x86_64",
        isa=(),
        inputs=tuple(net.inputs),
        outputs=tuple(net.outputs),
        variants=(Variant("fp32", "fp32", "fp32.onnx"),),
        chosen="fp32",
        placements=(Placement("fp32", "CPUExecutionProvider", "cpu"),),
        golden=Golden("golden.npz", 1, {"fp32": 0.99}),
        reference="reference.json",
        task=task,
    )
    write_bundle(staging, replace(manifest, **changes), path)
    return path


def write_speech_bundle(folder: Path) -> Path:
    """Write a bundle of speech to text whose decoder says the script; see `decoder`."""
    part = write_task_bundle(folder / "decoder.edgert", decoder())
    files = {"decoder.edgert": part.read_bytes()}
    return write_task_bundle(folder / "speech.edgert", encoder(), SPEECH, files, parts={"decoder": "decoder.edgert"})


def save_wav(path: Path, wave: np.ndarray, rate: int) -> Path:
    """Save float samples -1..1 as 16-bit PCM, one channel."""
    with wave_module.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.clip(np.rint(wave * 32767), -32768, 32767).astype("<i2").tobytes())
    return path
