"""Hugging Face folders: real models through transformers and optimum, in the child process that has them."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from converters.sources import huggingface
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput, EnvironmentFailed, GateFailed, UsageError
from edgert.image_spec import ImageSpec
from edgert.runtime.audio import read_sound
from edgert.runtime.mel import fit_length, log_mel
from edgert.runtime.providers import ProviderDevice, find_device
from edgert.runtime.session import Session
from edgert.runtime.tokens import Tokenizer
from edgert.runtime.transcribe import generate
from edgert.task import AudioSpec, TextSpec
from examples.whisper import ct2
from examples.whisper.accuracy import source_texts
from examples.whisper.prompts import prompts

Feeds = dict[str, np.ndarray]
LEAST_DB = 80.0
"""float32 against float32; --parity asks for 40."""


class Loader:
    """Loads folders, each once, into a work folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: dict[str, Imported] = {}

    def __call__(self, path: Path, task: str | None = None) -> Imported:
        key = f"{path.name}-{task}"
        if key not in self.loaded:
            self.loaded[key] = huggingface.load(path, self.options(task=task))
        return self.loaded[key]

    def options(self, **members: object) -> Options:
        """Return options with an empty work folder."""
        work = self.folder / str(len(list(self.folder.iterdir())))
        work.mkdir()
        return Options(work, **members)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def load(source_environment: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """Return a function that loads a folder; skips where transformers and optimum are not installed."""
    source_environment("huggingface")
    return Loader(tmp_path_factory.mktemp("huggingface"))


@pytest.fixture(scope="module")
def minilm(model_path: Callable[[str], Path]) -> Path:
    """Return MiniLM's folder, as sentence-transformers saved it."""
    return model_path("minilm-l6")


@pytest.fixture(scope="module")
def tiny(source_environment: Callable[[str], Path], minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of tiny models, made by transformers."""
    out = tmp_path_factory.mktemp("tiny")
    script = Path(__file__).with_name("tiny_huggingface.py")
    command = [str(source_environment("huggingface")), str(script), str(out), str(minilm / "tokenizer.json")]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def whisper(model_path: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Hugging Face folder that examples/whisper/ct2.py makes."""
    out = tmp_path_factory.mktemp("whisper") / "whisper"
    ct2.convert(model_path("whisper-tiny-en"), out)
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a config.json and weights, both of which mean little."""
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    (place / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return place


def parity(imported: Imported, feeds: list[Feeds], folder: Path, part: str = "") -> float:
    """Return the least SQNR in dB of any output of ONNX Runtime on the graph, against transformers itself."""
    given, out = folder / "given", folder / "out"
    given.mkdir()
    out.mkdir()
    for index, arrays in enumerate(feeds):
        np.savez(given / f"{index:04}.npz", allow_pickle=False, **arrays)
    assert imported.rerun is not None
    imported.rerun(given, out, part)
    session = onnxruntime.InferenceSession(imported.parts[part] if part else imported.path)
    names = [output.name for output in session.get_outputs()]
    worst = np.inf
    for index, arrays in enumerate(feeds):
        with np.load(out / f"{index:04}.npz", allow_pickle=False) as truth:
            assert sorted(truth.files) == sorted(names)
            for name, made in zip(names, session.run(names, arrays), strict=True):
                assert made.shape == truth[name].shape
                noise = float(np.square(made - truth[name]).mean())
                worst = min(worst, 10 * np.log10(np.square(truth[name]).mean() / max(noise, 1e-30)))
    return worst


def tokens(random: np.random.Generator, batch: int, length: int, shortest: int) -> Feeds:
    """Return token ids, masks and types for texts from `shortest` to `length` tokens."""
    lengths = np.linspace(shortest, length, batch).astype(int)
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    ids = random.integers(1000, 20000, (batch, length)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def constants(model: onnx.ModelProto) -> Iterator[np.ndarray]:
    """Yield every weight and constant of a graph."""
    for tensor in model.graph.initializer:
        yield numpy_helper.to_array(tensor)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            yield numpy_helper.to_array(node.attribute[0].t)


def test_minilm_loaded_says_how_sentences_are_compared(load: Loader, minilm: Path) -> None:
    """The task, the tokenizer and its limit come with the graph, which has one output: a vector of each sentence."""
    imported = load(minilm)
    assert imported.kind == "huggingface" and imported.framework.startswith("transformers 4.57")
    assert imported.task is not None
    assert (imported.task.kind, imported.task.output) == ("sentence-embedding", "sentence_embedding")
    assert imported.task.text == TextSpec("tokenizer.json", 256, "input_ids", "attention_mask", "token_type_ids")
    assert imported.files["tokenizer.json"].read_bytes() == (minilm / "tokenizer.json").read_bytes()
    assert not imported.warnings
    (output,) = onnx.load(imported.path).graph.output
    assert [dim.dim_value for dim in output.type.tensor_type.shape.dim] == [0, 384]


def test_minilm_exported_equals_sentence_transformers(load: Loader, minilm: Path, tmp_path: Path) -> None:
    """Pooling and normalising in the graph give what transformers and torch give, for any batch, length and mask."""
    random = np.random.default_rng(0)
    feeds = [tokens(random, 1, 5, 5), tokens(random, 4, 33, 2), tokens(random, 2, 256, 120)]
    assert parity(load(minilm), feeds, tmp_path) >= LEAST_DB


def test_minilm_exported_masks_with_plain_float_arithmetic(load: Loader, minilm: Path) -> None:
    """Nothing in the graph is refused by an NPU or infinite in float16: no Where, Expand, Equal; no -3.4e38."""
    model = onnx.load(load(minilm).path)
    used = {node.op_type for node in model.graph.node}
    assert not used & {"Where", "Expand", "Equal", "If", "Loop", "Range", "LpNormalization"}
    floats = [array for array in constants(model) if array.dtype == np.float32 and array.size]
    assert min(float(array.min()) for array in floats) == -1e4
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def test_sentence_transformer_with_every_step_equals_torch(load: Loader, tiny: Path, tmp_path: Path) -> None:
    """All modes of pooling at once, a dense layer and length 1 are what sentence-transformers computes."""
    feeds = [tokens(np.random.default_rng(1), 3, 17, 4)]
    imported = load(tiny / "sentence")
    assert parity(imported, feeds, tmp_path) >= LEAST_DB
    (vectors,) = onnxruntime.InferenceSession(imported.path).run(None, feeds[0])
    assert vectors.shape == (3, 24)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_task_given_replaces_the_one_of_the_folder(load: Loader, tiny: Path) -> None:
    """--task feature-extraction leaves the tokens' vectors as they are, also where a folder says how to pool them."""
    imported = load(tiny / "sentence", "feature-extraction")
    assert imported.task is not None and imported.task.output == "last_hidden_state"
    (output,) = onnx.load(imported.path).graph.output
    assert (output.name, len(output.type.tensor_type.shape.dim)) == ("last_hidden_state", 3)


def test_text_classifier_of_many_labels_declares_names_and_sigmoid(load: Loader, tiny: Path) -> None:
    """Labels become a file, several labels at once are scored by sigmoid, and the tokenizer's own limit holds."""
    imported = load(tiny / "text")
    assert imported.task is not None and imported.task.text is not None
    assert (imported.task.kind, imported.task.scores) == ("text-classification", "sigmoid")
    assert json.loads(imported.files[imported.task.labels].read_text()) == ["cat", "dog", "bird"]
    assert imported.task.text.max_tokens == 64


def test_picture_classifier_declares_the_rules_of_its_processor(load: Loader, tiny: Path, tmp_path: Path) -> None:
    """Resizing, filter, mean and std are declared for pixels of 0..255, and height and width of the input are fixed."""
    imported = load(tiny / "picture")
    rules = imported.images["pixel_values"]
    assert (rules.resize, rules.shortest_edge, rules.filter) == ("crop", 72, "bicubic")
    assert np.allclose(rules.mean, (123.675, 116.28, 103.53)) and np.allclose(rules.std, (58.395, 57.12, 57.375))
    assert not imported.warnings
    (given,) = onnx.load(imported.path).graph.input
    assert [dim.dim_value for dim in given.type.tensor_type.shape.dim] == [0, 3, 64, 64]
    pictures = np.random.default_rng(4).normal(size=(2, 3, 64, 64)).astype(np.float32)
    assert parity(imported, [{"pixel_values": pictures}], tmp_path) >= LEAST_DB


def test_picture_rules_that_cannot_be_declared_are_a_warning(load: Loader, tiny: Path) -> None:
    """Stretching to one size and cutting another out of it has no declared form, and the difference is measured."""
    imported = load(tiny / "stretched-and-cut")
    assert imported.images["pixel_values"] == ImageSpec(
        mean=(127.5,) * 3, std=(127.5,) * 3, resize="stretch", filter="bicubic"
    )
    assert [text for text in imported.warnings if "DeiTImageProcessor" in text and "differ by up to" in text]


def test_sound_classifier_declares_rate_and_normalising(load: Loader, tiny: Path, tmp_path: Path) -> None:
    """The sample rate and normalising come from the feature extractor; any length of sound gives equal logits."""
    imported = load(tiny / "sound")
    assert imported.task is not None
    assert imported.task.audio == AudioSpec("input_values", "waveform", 16_000, normalise=True)
    waves = np.random.default_rng(5).normal(size=(1, 5_000)).astype(np.float32)
    assert parity(imported, [{"input_values": waves}, {"input_values": waves[:, :3_001]}], tmp_path) >= LEAST_DB


def test_whisper_loaded_has_an_encoder_and_one_decoder_with_every_weight_once(load: Loader, whisper: Path) -> None:
    """Two graphs without subgraphs; no weight of a thousand numbers is there twice, and none is missing."""
    imported = load(whisper)
    assert set(imported.parts) == {"decoder"}
    total = 0
    for path in (imported.path, imported.parts["decoder"]):
        model = onnx.load(path)
        assert not {"If", "Loop", "Scan"} & {node.op_type for node in model.graph.node}
        large = [array.tobytes() for array in constants(model) if array.size >= 1000]
        assert len(large) == len(set(large))
        total += sum(map(len, large))
    stored = (whisper / "model.safetensors").stat().st_size  # float16
    assert 0.99 * 2 * stored < total < 1.01 * 2 * stored


def test_whisper_encoder_equals_transformers(load: Loader, whisper: Path, tmp_path: Path) -> None:
    """The encoder's graph gives the keys and values that transformers keeps in its cache for cross attention."""
    features = np.random.default_rng(6).normal(size=(2, 80, 3000)).astype(np.float32)
    assert parity(load(whisper), [{"input_features": features}], tmp_path) >= LEAST_DB


def test_whisper_decoder_equals_transformers(load: Loader, whisper: Path, tmp_path: Path) -> None:
    """One decoder graph is right for an empty and a filled cache, one token or several, one clip or two."""
    random = np.random.default_rng(7)
    feeds = []
    for batch, length, past in ((1, 2, 0), (1, 1, 9), (2, 3, 4)):
        shapes = {"past": (batch, 6, past, 64), "cross": (batch, 6, 1500, 64)}
        arrays: Feeds = {
            f"{kind}_{what}_{layer}": random.normal(size=shape).astype(np.float32)
            for kind, shape in shapes.items()
            for what in ("key", "value")
            for layer in range(4)
        }
        feeds.append({"input_ids": random.integers(0, 50_000, (batch, length)), **arrays})
    assert parity(load(whisper), feeds, tmp_path, "decoder") >= LEAST_DB


def test_whisper_prompts_are_heard_as_transformers_hears_them(load: Loader, whisper: Path) -> None:
    """Features, two graphs and generation by the declared rules end in the very text of transformers' generate."""
    imported = load(whisper)
    assert imported.task is not None
    task, rules, text = imported.task, imported.task.generate, imported.task.text
    assert rules is not None and text is not None and task.audio is not None
    assert (rules.prompt, rules.end, rules.suppress_first) == ((50257, 50362), (50256,), (220, 50256))
    try:
        clips = prompts(2)
    except EnvironmentFailed as exc:
        pytest.skip(exc.message)
    tokenizer = Tokenizer.open(imported.files["tokenizer.json"], text)
    heard = []
    cpu = find_device("CPUExecutionProvider")
    assert isinstance(cpu, ProviderDevice)
    with Session.open(imported.path, cpu) as encoder, Session.open(imported.parts["decoder"], cpu) as decoder:
        for clip in clips:
            wave = fit_length(read_sound(clip.file, 16_000), 480_000)
            encoded = encoder.run({"input_features": log_mel(wave, task.audio)[np.newaxis]})
            heard.append(tokenizer.decode(generate(encoded, decoder, rules)))
    assert heard == [said.strip() for said in source_texts(whisper, clips)]


def test_weights_cut_off_are_refused(load: Loader, tiny: Path, tmp_path: Path) -> None:
    """A .safetensors file that ends early is bad input and not a crash."""
    broken = shutil.copytree(tiny / "text", tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(BadInput, match="weights cannot be read"):
        load(broken)


def test_weights_without_the_head_are_refused(load: Loader, tiny: Path) -> None:
    """A head that the folder has no weights for would be random: the missing weight is named."""
    with pytest.raises(BadInput, match=r"not there, such as 'classifier\."):
        load(tiny / "sentence", "text-classification")


def test_operator_that_the_exporter_does_not_know_is_named_with_its_layer(load: Loader, tiny: Path) -> None:
    """The message has the operator and the first layer that calls it."""
    with pytest.raises(GateFailed, match=r"aten::expm1.*encoder\.layer\.0\.intermediate\.intermediate_act_fn"):
        load(tiny / "unknown-operator")


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        ({"model_type": "nosuch"}, GateFailed, "architecture 'nosuch'"),
        (
            {"model_type": "funnel", "architectures": ["FunnelModel"]},
            GateFailed,
            "no exporter for the architecture 'funnel'",
        ),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, BadInput, "GPT2LMHeadModel"),
    ],
)
def test_architecture_that_is_not_supported_is_named(
    load: Loader, folder: Path, config: dict[str, object], error: type[Exception], said: str
) -> None:
    """What neither transformers nor optimum knows, and a task that is not there, are told with what is supported."""
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=said) as caught:
        load(folder)
    assert "supported: " in caught.value.remedy or "known: " in caught.value.remedy  # type: ignore[attr-defined]


def test_matches_tells_hugging_face_folders_from_others(folder: Path, tmp_path: Path) -> None:
    """config.json with a model type, or .safetensors, makes the difference; a file never matches."""
    assert huggingface.matches(folder)
    assert not huggingface.matches(folder / "config.json")
    (folder / "model.safetensors").unlink()
    assert huggingface.matches(folder)
    (folder / "config.json").write_text('{"Global": {"model_name": "other"}}')
    assert not huggingface.matches(folder)
    (folder / "config.json").write_text("not JSON")
    assert not huggingface.matches(folder)


def refused(path: Path, tmp_path: Path, **options: object) -> BadInput:
    """Return the error of loading `path`, which comes before any child process is started."""
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(BadInput) as caught:
        huggingface.load(path, Options(work, **options))  # type: ignore[arg-type]
    assert not list(work.iterdir())
    return caught.value


def test_hub_name_is_refused(tmp_path: Path) -> None:
    """A name of the hub is not looked up; the remedy asks for a folder."""
    error = refused(Path("sentence-transformers/all-MiniLM-L6-v2"), tmp_path)
    assert "hub names are not looked up" in error.message and "folder" in error.remedy


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    """An empty folder is told as such."""
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in refused(tmp_path / "empty", tmp_path).message


def test_file_is_refused(folder: Path, tmp_path: Path) -> None:
    """A file of the folder is not the model."""
    assert "is a file" in refused(folder / "model.safetensors", tmp_path).message


def test_folder_without_config_is_refused(folder: Path, tmp_path: Path) -> None:
    """Without config.json nobody knows what the weights are."""
    (folder / "config.json").unlink()
    assert "there is no config.json" in refused(folder, tmp_path).message


def test_folder_without_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    """A folder with everything but the weights is told as such."""
    (folder / "model.safetensors").unlink()
    assert "there are no weights" in refused(folder, tmp_path).message


def test_folder_with_code_of_its_own_is_refused(folder: Path, tmp_path: Path) -> None:
    """auto_map asks for Python files that come with the model: these are never run."""
    (folder / "config.json").write_text('{"model_type": "bert", "auto_map": {"AutoModel": "modeling.Mine"}}')
    assert "auto_map" in refused(folder, tmp_path, trust_pickle=True).message


def test_pickled_weights_are_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    """Only pickles in the folder: refused, saying that a pickle runs code and how to go on."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refused(folder, tmp_path)
    assert "run any code" in error.message and "--trust-pickle" in error.remedy


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/hostname", "weights.bin", "missing.safetensors"])
def test_index_that_names_a_file_outside_is_refused(folder: Path, tmp_path: Path, shard: str) -> None:
    """An index may name .safetensors of its own folder only, and they must be there."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert shard in refused(folder, tmp_path).message


def test_ctranslate2_folder_is_refused_with_the_way_on(model_path: Callable[[str], Path], tmp_path: Path) -> None:
    """CTranslate2's format is told from its first bytes, and the remedy is the example that converts Whisper."""
    path = model_path("whisper-tiny-en")
    assert huggingface.matches(path)
    assert "examples.whisper.ct2" in refused(path, tmp_path).remedy


def test_option_of_another_source_is_refused(folder: Path, tmp_path: Path) -> None:
    """What cannot be obeyed is not ignored."""
    with pytest.raises(UsageError, match="--dynamic"):
        huggingface.load(folder, Options(tmp_path, dynamic={"input_ids": ("batch", "")}))
    with pytest.raises(UsageError, match="--factory"):
        huggingface.load(folder, Options(tmp_path, factory="mine:make"))
