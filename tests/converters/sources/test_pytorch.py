"""PyTorch as a source: real exports in the real environment, each compared with torch itself."""

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from converters.sources import pytorch
from converters.sources.environments import find
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput, GateFailed, MissingExtra, UsageError
from edgert.image_spec import parse_image_spec
from edgert.runtime.images import load_image
from examples.efficientnet import top1
from tests import real_samples
from tests.source_answers import source_answers

MODELS = "tests.converters.sources.torch_models"
MAKER = Path(__file__).parent / "torch_models.py"

Open = Callable[..., Imported]
Outputs = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def python() -> Path:
    """Return the Python that has torch; skips with the line that installs it where there is none."""
    try:
        return find(pytorch.ENVIRONMENTS)
    except MissingExtra as error:
        pytest.skip(f"{error.message}: {error.remedy}")


@pytest.fixture(scope="session")
def made(python, tmp_path_factory) -> Path:
    """Return the folder of files that `torch_models.py` writes."""
    folder = tmp_path_factory.mktemp("torch")
    subprocess.run([python, str(MAKER), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture
def load(python, tmp_path) -> Open:
    """Return a function that loads a model, by a path or `module:function`."""

    def call(path: object, **options: object) -> Imported:
        return pytorch.load(Path(str(path)), Options(workdir=tmp_path, **options))

    return call


@pytest.fixture
def mark(tmp_path, monkeypatch) -> Path:
    """Return the path of the file that a hostile model makes when its code runs."""
    monkeypatch.setenv("TORCH_TEST_MARK", str(tmp_path / "mark"))
    return tmp_path / "mark"


def normal(*shape: int) -> np.ndarray:
    """Return seeded noise, float32."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def both(imported: Imported, *feeds: Outputs) -> list[tuple[Outputs, Outputs]]:
    """Return for each sample what torch gives and what ONNX gives."""
    return list(source_answers(imported, feeds, imported.path.parent))


def assert_equal(pairs: list[tuple[Outputs, Outputs]], tolerance: float = 1e-5) -> None:
    """Assert that torch and ONNX give the same shapes and numbers."""
    for expected, found in pairs:
        for name, array in found.items():
            assert array.shape == expected[name].shape
            np.testing.assert_allclose(array, expected[name], atol=tolerance, rtol=tolerance)


def interface(imported: Imported) -> tuple[dict[str, list[object]], dict[str, list[object]]]:
    """Return the shapes of the inputs and of the outputs by name."""
    session = onnxruntime.InferenceSession(imported.path, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return {value.name: value.shape for value in inputs}, {value.name: value.shape for value in outputs}


def test_state_dict_with_factory_equals_torch_at_any_batch(load, made):
    """--dynamic makes a dimension free, although the example has a 1 there; names come from forward and its dict."""
    imported = load(
        made / "weights.pth",
        factory=f"{MODELS}:net",
        shapes={"x": (1, 3, 8, 8)},
        dynamic={"x": ("batch", "", "", "")},
    )
    assert interface(imported) == (
        {"x": ["batch", 3, 8, 8]},
        {"logits": ["batch", 2], "features": ["batch", 4]},
    )
    assert imported.framework == "torch 2.13.0"
    assert set(imported.tools) == {"torch", "onnx", "onnxscript"}
    assert_equal(both(imported, {"x": normal(1, 3, 8, 8)}, {"x": normal(3, 3, 8, 8)}))


@pytest.mark.parametrize("file", ["legacy.pth", "checkpoint.pt"])
def test_state_dict_in_other_wrappings_equals_torch(load, made, file):
    """The format before torch 1.6, and a training checkpoint of DataParallel, of which a warning tells."""
    imported = load(made / file, factory=f"{MODELS}:net_with_example")
    assert ("DataParallel" in " ".join(imported.warnings)) == (file == "checkpoint.pt")
    assert_equal(both(imported, {"x": normal(1, 3, 8, 8)}))


def test_program_keeps_its_free_dimension_and_gets_its_name(load, made):
    """A .pt2 file needs no code, and --dynamic names the dimension that was free when it was exported."""
    imported = load(made / "net.pt2", dynamic={"x": ("n", "", "", "")})
    assert interface(imported)[0] == {"x": ["n", 3, 8, 8]}
    assert_equal(both(imported, {"x": normal(1, 3, 8, 8)}, {"x": normal(3, 3, 8, 8)}))


def test_program_fixed_dimension_cannot_become_free(load, made):
    """The message says which dimension and what it was exported with."""
    with pytest.raises(GateFailed, match=r"dimension 1 of 'x' cannot be 'c': .* exported with 3"):
        load(made / "net.pt2", dynamic={"x": ("n", "c", "", "")})


def test_callable_with_keywords_and_dataclass_equals_torch(load):
    """Integers, defaults, keyword arguments and a dataclass as output become plain inputs and outputs."""
    imported = load(f"{MODELS}:encoder")
    assert interface(imported) == ({"ids": [1, 5], "mask": [1, 5]}, {"tokens": [1, 5, 4], "pooled": [1, 4]})
    assert_equal(both(imported, {"ids": np.array([[1, 2, 3, 4, 9]]), "mask": normal(1, 5)}))


def test_large_weights_lie_in_a_file_of_their_own(load):
    """Weights beyond 64 MB are external data, which the rest of the converter maps instead of reading."""
    imported = load(f"{MODELS}:large")
    assert imported.path.stat().st_size < 100_000
    assert imported.path.with_name("model.onnx.data").stat().st_size >= 80_000_000
    assert_equal(both(imported, {"input": normal(1, 5000)}))


def test_script_numbers_become_inputs(load, made):
    """TorchScript has types: its int arguments are inputs, with or without a default."""
    imported = load(made / "scaled.jit", shapes={"x": (2,)})
    assert interface(imported)[0] == {"x": [2], "times": [], "more": []}
    assert_equal(both(imported, {"x": normal(2), "times": np.array(4), "more": np.array(5)}))


def test_silero_script_agrees_with_torch_and_with_the_onnx_of_its_authors(load, model_path):
    """One net in two formats gives the same speech probability and state, within 1e-4, at any batch."""
    imported = load(
        model_path("silero-vad-jit"),
        submodule="_model",
        shapes={"x": (1, 576), "state": (2, 1, 128)},
        dynamic={"x": ("batch", ""), "state": ("", "batch", "")},
    )
    assert interface(imported) == (
        {"x": ["batch", 576], "state": [2, "batch", 128]},
        {"output": ["batch", 1], "output_1": [2, "batch", 128]},
    )
    samples = list(real_samples.silero_vad())
    found = both(imported, *({"x": sample["input"], "state": sample["state"]} for sample in samples))
    assert_equal(found)
    theirs = onnxruntime.InferenceSession(model_path("silero-vad-16k"), providers=["CPUExecutionProvider"])
    for sample, (_, outputs) in zip(samples, found, strict=True):
        feed = {value.name: sample[value.name] for value in theirs.get_inputs()}
        for expected, ours in zip(theirs.run(None, feed), outputs.values(), strict=True):
            np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_efficientnet_of_the_example_equals_torch(load, model_path):
    """The example's class fits the published weights, every one, and its graph is the same net."""
    imported = load(model_path("effnet-lite0"), factory="examples.efficientnet.model:build")
    assert interface(imported) == ({"image": [1, 3, 224, 224]}, {"logits": [1, 1000]})
    assert_equal(both(imported, {"image": normal(1, 3, 224, 224)}), tolerance=1e-4)


@pytest.mark.shared
def test_efficientnet_top1_is_that_of_torch(load, model_path, shared_folder):
    """On labelled photos the graph is as right as PyTorch, within 0.2 points, and right in at least 87 of 100."""
    labels = top1.read_labels(shared_folder / "models" / "imagenet_sample")
    rules = parse_image_spec(top1.RULES)
    samples = [{"image": load_image(file, rules, top1.SHAPE, "float32")} for file in labels]
    imported = load(model_path("effnet-lite0"), factory=top1.FACTORY)
    session = onnxruntime.InferenceSession(imported.path, providers=["CPUExecutionProvider"])
    graph = np.concatenate([session.run(["logits"], sample)[0] for sample in samples])
    ours = top1.accuracy(graph, list(labels.values()), 1)
    theirs = top1.accuracy(top1.rerun_logits(imported, samples), list(labels.values()), 1)
    assert theirs >= 0.87
    assert abs(ours - theirs) <= 0.002


def test_state_dict_without_factory_is_refused(load, made):
    """Weights have no code; the error says so and names the option."""
    with pytest.raises(BadInput, match=r"4 tensors \(conv\.weight, .* has no code") as error:
        load(made / "weights.pth")
    assert "--factory" in error.value.remedy


def test_state_dict_of_another_module_names_the_weights(load, made):
    """A wrong factory is found by the names, not by wrong numbers."""
    with pytest.raises(BadInput, match=r"do not fit .*Missing key\(s\).*embed\.weight"):
        load(made / "weights.pth", factory=f"{MODELS}:encoder")


def test_inputs_of_unknown_shape_are_named(load):
    """Without an example nothing can be traced; the remedy is the option, filled in."""
    with pytest.raises(BadInput, match="shapes of its inputs are not known; forward takes x") as error:
        load(f"{MODELS}:net")
    assert "--shape x=DIMS" in error.value.remedy


@pytest.mark.parametrize(
    ("path", "options", "kind", "message"),
    [
        ("no_such_module:build", {}, BadInput, "No module named 'no_such_module'"),
        (f"{MODELS}:raises", {}, BadInput, "raised ValueError: no such checkpoint"),
        (f"{MODELS}:flat", {"dynamic": {"y": ("n",)}}, UsageError, "names 'y', but the inputs are x"),
        (f"{MODELS}:flat", {"submodule": "a"}, UsageError, "--submodule is for TorchScript"),
        (f"{MODELS}:flat", {"dynamic": {"x": ("n", "", "")}}, GateFailed, r"cannot be free: .*constant \(2\)"),
        (f"{MODELS}:branching", {}, GateFailed, r"cannot follow the module: .* at torch_models\.py:\d+"),
        (f"{MODELS}:mysterious", {}, GateFailed, r"'edgert_tests::mystery\.default' of layer '1' \(Mystery\)"),
    ],
)
def test_callable_that_cannot_be_exported_says_why(load, path, options, kind, message):
    """Each reason has its message: the name, the option, the dimension, the line, or the operator with its layer."""
    with pytest.raises(kind, match=message):
        load(path, **options)


@pytest.mark.parametrize(
    ("file", "options", "kind", "message"),
    [
        ("mystery.pt2", {}, GateFailed, r"edgert_tests\.mystery\.default' of layer '1' \(Mystery\)"),
        ("eigen.jit", {"shapes": {"input": (4, 4)}}, GateFailed, r"'aten::linalg_eigh' in submodule '1' at torch_mod"),
        ("scaled.jit", {}, BadInput, "forward takes x, times, more"),
        ("scaled.jit", {"submodule": "head"}, UsageError, "there is no submodule 'head'"),
        ("writer.jit", {"shapes": {"x": (1,)}}, BadInput, "code that reaches for files: 'torch.save'"),
    ],
)
def test_file_that_cannot_be_exported_says_why(load, made, file, options, kind, message):
    """An operator that the exporter does not know is named with its place; a script that writes files is not run."""
    with pytest.raises(kind, match=message):
        load(made / file, **options)


def test_silero_outer_script_names_the_line_that_keeps_state(load, model_path, tmp_path, monkeypatch):
    """The whole of silero keeps its state in attributes; the error names the line of its source."""
    (tmp_path / "silero_example.py").write_text("import torch\ndef make():\n    return torch.zeros(1, 512), 16000\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GateFailed, match=r"at vad_annotator\.py:\d+ cannot be exported") as error:
        load(model_path("silero-vad-jit"), factory="silero_example:make")
    assert "--submodule" in error.value.remedy


@pytest.mark.parametrize("file", ["weights.pth", "legacy.pth", "net.pt2", "scaled.jit"])
def test_file_cut_off_is_damaged(load, made, tmp_path, file):
    """A half copied file is recognised by how it begins, and refused before torch sees the half of it."""
    cut = tmp_path / file
    data = (made / file).read_bytes()
    cut.write_bytes(data[: len(data) * 2 // 3])
    assert pytorch.matches(cut)
    with pytest.raises(BadInput, match=r"damaged|cut off|cannot be read"):
        load(cut, factory=f"{MODELS}:net_with_example")


def test_files_of_other_kinds_are_not_pytorch(made, tmp_path, tiny_model):
    """Content decides, not the suffix: an ONNX file, an .npz, text and a folder do not match, a renamed .pt2 does."""
    (tmp_path / "text.pt").write_text("not a model")
    np.savez(tmp_path / "arrays.npz", x=np.zeros(3))
    renamed = tmp_path / "model.bin"
    renamed.write_bytes((made / "net.pt2").read_bytes())
    others = (tiny_model, tmp_path / "text.pt", tmp_path / "arrays.npz", tmp_path, tmp_path / "missing.pt")
    assert not any(pytorch.matches(path) for path in others)
    assert all(pytorch.matches(path) for path in (renamed, made / "legacy.pth", made / "whole.pt", made / "scaled.jit"))
    with pytest.raises(BadInput, match="not a PyTorch file"):
        pytorch.load(tmp_path / "text.pt", Options(workdir=tmp_path))


def test_archive_bomb_is_refused(tmp_path):
    """An archive that would unpack to a thousandfold of its size never reaches torch."""
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\x80\x02}q\x00.")
        with archive.open("bomb/data/0", "w") as member:
            for _ in range(200):
                member.write(bytes(1 << 20))
    assert pytorch.matches(bomb)
    with pytest.raises(BadInput):
        pytorch.load(bomb, Options(workdir=tmp_path))


def test_pickled_module_is_refused_with_the_class_it_names(load, made):
    """torch.save(model) keeps a class by its name, and unpickling imports it: refused, with what to do instead."""
    with pytest.raises(BadInput, match=r"it names '__main__\.Net'.*runs code") as error:
        load(made / "whole.pt")
    assert "state_dict" in error.value.remedy
    assert "--trust-pickle" in error.value.remedy


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("hostile.pth", r"it names '\w+\.system'"),
        ("hostile-inputs.pt2", "a pickle of more than tensors"),
        ("hostile-size.pt2", "code in the place of a size"),
        ("hostile-target.pt2", r"operator 'torch\.os\.system' of layer"),
        ("hostile-name.pt2", "a name that is none"),
        ("hostile-weights.pt2", "pickled tensors"),
    ],
)
def test_hostile_file_is_refused_and_runs_nothing(load, made, mark, file, message):
    """A pickle in a state_dict, and each way in which torch.export.load would run code of a .pt2 file."""
    with pytest.raises((BadInput, GateFailed), match=message):
        load(made / file, factory=f"{MODELS}:net_with_example" if file.endswith("pth") else None)
    assert not mark.exists()


@pytest.mark.parametrize("file", ["hostile.pth", "hostile-size.pt2"])
def test_hostile_file_runs_its_code_when_it_is_trusted(load, made, mark, file):
    """The refusals guard against something: with --trust-pickle the same files do run their code."""
    with pytest.raises((BadInput, GateFailed)):
        load(made / file, trust_pickle=True)
    assert mark.exists()
