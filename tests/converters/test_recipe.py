"""`recipe.toml`: a bundle says how to make it again, to the same bytes, and nothing else passes for the same."""

import json
import shutil
import tomllib
import zipfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from converters.bench import open_bench
from converters.candidates.choose import choose
from converters.candidates.cpu_search import Search
from converters.candidates.integers import CORRECTED, EQUALISED, ROUNDED
from converters.candidates.rebuild import rebuild
from converters.job import Job
from converters.packing import pack
from converters.parts import convert_part, open_parts
from converters.pipeline import convert
from converters.recipe import FLAGS, MAX_CHARACTERS, Built, parse_recipe, read_recipe, write_recipe
from converters.replay import replayed
from converters.request import BundleReport, Conversion, ProfileFailure, Request
from converters.sources.imported import Imported
from edgert.bundle import open_bundle, write_bundle
from edgert.errors import BadInput, UsageError, VerificationFailed
from edgert.host import host_facts
from edgert.image_spec import ImageSpec
from edgert.profile import detect_profile, load_profile, profiles_folder
from edgert.runtime.providers import find_device
from tests.bundle_files import small_manifest, stage
from tests.converters.evaluated import classifier_files
from tests.converters.outlier_net import save_outlier_net
from tests.converters.quantize.nets import net, normal
from tests.converters.wide_net import save_wide_net
from tests.runtime.small_models import present
from tests.runtime.task_files import SPEECH, decoder, encoder, save_net, save_word_tokenizer
from tests.test_cli import call

CPU, NPU, GPU = "raspberry-pi-5", "snapdragon-8-gen-3", "intel-core-ultra-s2-igpu"
OWN = detect_profile(host_facts())


def the(conversion: Conversion) -> BundleReport:
    (entry,) = conversion.bundles
    assert isinstance(entry, BundleReport), entry
    return entry


def save_products(folder: Path) -> tuple[Path, Path]:
    """Write a net of matrix products, which integer weights suit, and a folder of samples."""
    model, samples = folder / "products.onnx", folder / "samples"
    weights = {"w0": normal(64, 64) / 8, "w1": normal(64, 64, seed=1) / 8}
    body = "a = MatMul (x, w0)\nb = Relu (a)\ny = MatMul (b, w1)"
    ir.save(net(body, "float[1,64] x", "float[1,64] y", weights), model)
    samples.mkdir()
    for number in range(4):
        np.savez(samples / f"{number}.npz", x=normal(1, 64, seed=50 + number))
    return model, samples


def save_unequal(folder: Path) -> tuple[Path, Path]:
    """Write convolutions with channels of very unequal size between them, which equalisation evens out."""
    model, samples = folder / "unequal.onnx", folder / "samples"
    loud = np.logspace(0, 3, 8).astype(np.float32)
    weights = {
        "w0": normal(8, 3, 3, 3) * loud[:, None, None, None],
        "w1": normal(8, 8, 3, 3, seed=1) / loud[:, None, None],
    }
    weights |= {"b0": normal(8, seed=2) * loud, "b1": normal(8, seed=3)}
    body = "a = Conv <pads = [1,1,1,1]> (x, w0, b0)\nb = Relu (a)\ny = Conv <pads = [1,1,1,1]> (b, w1, b1)"
    ir.save(net(body, "float[1,3,12,12] x", "float[1,8,12,12] y", weights), model)
    samples.mkdir()
    for number in range(4):
        np.savez(samples / f"{number}.npz", x=normal(1, 3, 12, 12, seed=50 + number))
    return model, samples


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path, BundleReport]:
    """Return a model, its samples, and a bundle of it for a CPU whose int8 needs some layers in float."""
    folder = tmp_path_factory.mktemp("made")
    model, samples = save_outlier_net(folder)
    report = the(convert(model, [CPU], calibration=str(samples), output=folder / "out", precision="mixed"))
    return model, samples, report


@pytest.mark.parametrize(
    ("save", "profile", "precision", "settings"),
    [
        (save_outlier_net, CPU, "fp32", {}),
        (save_wide_net, CPU, "int8", {"calibration_method"}),
        (save_outlier_net, CPU, "mixed", {"calibration_method", "keep_float"}),
        (save_products, CPU, "w8", {"bits", "block_size", "symmetric"}),
        (save_products, CPU, "int4", {"bits", "block_size"}),
        (save_wide_net, NPU, "w8a16", {"calibration_method"}),
        (save_wide_net, NPU, "mixed", {"calibration_method", "wide"}),
        (save_outlier_net, NPU, "fp16", {}),
        (save_outlier_net, GPU, "auto", {}),
    ],
)
def test_recipe_replayed_gives_the_same_digest_without_a_search(tmp_path, save, profile, precision, settings):
    """Only the recipe's candidate is built, and its bundle has the very same bytes."""
    _need(profile)
    model, samples = save(tmp_path)
    options = {
        "precision": precision,
        "max_drop": 0.5 if precision in ("int8", "int4") else 0.01,
        "emulator_samples": 1,
    }
    first = the(convert(model, [profile], calibration=str(samples), output=tmp_path / "out", license="MIT", **options))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    again = the(
        convert(
            shutil.copy(model, moved / "renamed.onnx"),
            recipe=first.path,
            calibration=str(shutil.copytree(samples, moved / "data")),
            output=moved,
        )
    )
    assert again.digest == first.digest
    assert again.path.name == first.path.name
    assert list(again.warnings) == list(first.warnings)
    assert "recipe" in again.reason
    recipe = read_recipe(first.path)
    assert set(settings) - set(FLAGS) == recipe.built.document().keys() - {"label", "precision", "processor", *FLAGS}
    if profile != GPU:
        assert [one.variant for one in again.candidates] == [recipe.built.label]


@pytest.mark.parametrize(
    ("save", "most", "among"),
    [
        (save_outlier_net, 0.01, ("plain", ROUNDED, CORRECTED)),
        (save_unequal, 0.5, (EQUALISED,)),
        (save_products, 0.5, ("dyn-int8", "w8")),
    ],
)
def test_recipe_rebuilds_every_candidate_of_a_cpu_search(tmp_path, monkeypatch, save, most, among):
    """Whatever a search may choose, its recipe alone gives the same file, with the same words in the manifest."""
    monkeypatch.setattr("converters.candidates.cpu_search.LEAST_WEIGHTS", 0.0)
    model, samples = save(tmp_path)
    request = Request(model, (CPU,), tmp_path / "out", calibration=str(samples), max_drop=most)
    profile = load_profile(CPU)
    (tmp_path / "scratch").mkdir()
    with ExitStack() as stack:
        imported = Imported("onnx", model, "0" * 64)
        shared = stack.enter_context(open_bench(request, imported, tmp_path / "scratch", [profile]))
        search = Search(Job(shared, profile), True, stack)
        search.run()
        labels = [trial.label for trial in search.trials]
        assert all(any(word in label for label in labels) for word in among), labels
        for trial in search.trials:
            for key in [one for one in shared.graphs if isinstance(one, tuple) and one[0] == "rounded"]:
                del shared.graphs[key]  # a replay has nothing that a search left behind
            built = Built.of({**trial.recipe, "candidate": trial.label}, trial.precision, "cpu")
            again = rebuild(Job(shared, profile), built)
            assert _content(again.written.path) == _content(trial.written.path), trial.label
            assert (again.label, again.variant, again.precision) == (trial.label, trial.variant, trial.precision)
            assert {key: value for key, value in again.recipe.items() if value} == {
                key: value for key, value in trial.recipe.items() if value
            }


def _content(path: Path) -> dict[str, bytes]:
    return {file.suffix: file.read_bytes() for file in path.parent.iterdir() if file.stem in (path.stem, "weights")}


def _need(profile: str) -> None:
    provider = {NPU: "QNNExecutionProvider", GPU: "WebGpuExecutionProvider"}.get(profile)
    if provider:
        present(find_device(provider, allow_emulated=True), pytest.skip)


@pytest.mark.parametrize("label", ["fp32-plain", "dyn-int8"])
def test_recipe_edited_by_hand_builds_what_it_says(tmp_path, label):
    """The label decides: the graph as it came, or products quantized as they run; the search would not say so here."""
    model, samples = save_products(tmp_path)
    first = the(convert(model, [CPU], calibration=str(samples), output=tmp_path / "out", precision="fp32"))
    recipe = read_recipe(first.path)
    built = Built(label, "int8", "cpu", dynamic=True) if label == "dyn-int8" else Built(label, "fp32", "cpu")
    write_recipe(replace(recipe, built=built), tmp_path / "by-hand.toml")
    path = the(convert(model, recipe=tmp_path / "by-hand.toml", calibration=str(samples), output=tmp_path / "two")).path
    manifest = open_bundle(path).manifest
    assert manifest.recipe["candidate"] == label
    assert set(manifest.recipe["passes"]) == ({"set_input_shapes"} if label == "fp32-plain" else set(_passes(first)))
    assert read_recipe(path).built == built


def _passes(report: BundleReport) -> dict:
    return dict(open_bundle(report.path).manifest.recipe["passes"])


def test_recipe_on_this_machines_own_profile_replays_what_time_decided(tmp_path):
    """Which float graph is faster is measured, and may come out otherwise next time; a replay does not ask again."""
    model, samples = save_products(tmp_path)
    first = the(convert(model, [OWN], calibration=str(samples), output=tmp_path / "out"))
    again = the(convert(model, recipe=first.path, calibration=str(samples), output=tmp_path / "again"))
    assert again.digest == first.digest


def test_recipe_holds_no_path_of_this_machine_and_nothing_measured(made):
    """A bundle is given to others; and what was measured would change its digest."""
    model, samples, report = made
    bundle = open_bundle(report.path)
    text = bundle.file("recipe.toml").read_text(encoding="utf-8")
    assert str(samples.parent) not in text
    document = tomllib.loads(text)
    assert document["model"]["file"] == model.name
    assert document["calibration"]["data"] == samples.name
    assert not {"gate", "latency_ms", "speedup", "cosine", "p50", "error"} & set(document["candidate"])
    assert text == _written(read_recipe(report.path), report.path.parent / "again.toml")


def _written(recipe, path: Path) -> str:
    write_recipe(recipe, path)
    return path.read_text(encoding="utf-8")


def test_recipe_of_random_samples_needs_no_calibration_flag(tmp_path):
    """Random samples are the same each time: nothing has to be given again."""
    model, _ = save_products(tmp_path)
    first = the(convert(model, [CPU], calibration="random", output=tmp_path / "out"))
    assert the(convert(model, recipe=first.path, output=tmp_path / "again")).digest == first.digest


def test_recipe_with_labels_wants_the_same_labels_again(tmp_path):
    """What judges is compared by its digest; it is given again, like all data."""
    files = classifier_files(tmp_path)
    given = {"calibration": str(files.folder), "precision": "int8"}
    first = the(convert(files.model, [CPU], labels=files.labels, output=tmp_path / "out", **given))
    assert read_recipe(first.path).labels == "labels.json"
    again = the(convert(files.model, recipe=first.path, labels=files.labels, output=tmp_path / "again", **given))
    assert again.digest == first.digest
    with pytest.raises(UsageError, match="needs --labels"):
        convert(files.model, recipe=first.path, output=tmp_path / "none", **given)
    files.labels.write_text(files.labels.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(BadInput, match="what judges the variants"):
        convert(files.model, recipe=first.path, labels=files.labels, output=tmp_path / "other", **given)


def test_recipe_with_a_function_never_calls_it_unasked(tmp_path, monkeypatch):
    """A recipe that comes from others runs no code: the function is given again, and must be the same file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scoring_of_a_recipe.py").write_text("def score(run):\n    return 1.0\n", encoding="utf-8")
    model, samples = save_products(tmp_path)
    given = {"calibration": str(samples), "output": tmp_path / "out"}
    first = the(convert(model, [CPU], evaluate="scoring_of_a_recipe:score", **given))
    with pytest.raises(UsageError, match="runs no code of its own"):
        convert(model, recipe=first.path, **given)
    with pytest.raises(UsageError, match="--evaluate other:score is not"):
        convert(model, recipe=first.path, evaluate="other:score", **given)
    again = the(convert(model, recipe=first.path, evaluate="scoring_of_a_recipe:score", **given))
    assert again.digest == first.digest


def test_convert_command_replays_a_bundle(made, tmp_path, capsys):
    """`edgert convert --recipe` needs no -p; without either it says what is missing."""
    model, samples, report = made
    common = ("convert", model, "--calibration", samples, "-o", tmp_path)
    code, out, _ = call(capsys, *common, "--recipe", report.path, "--json")
    assert code == 0
    assert json.loads(out)["bundles"][0]["digest"] == report.digest
    code, _, err = call(capsys, *common)
    assert code == 2
    assert "-p" in err


def test_recipe_with_every_field_comes_back_as_it_was(made, tmp_path):
    """Every field survives the file, those with odd names too."""
    recipe = replace(
        read_recipe(made[2].path),
        license=None,
        shapes={"a b": (1, 3), "": (2,)},
        images={"": ImageSpec(color="bgr", mean=(1.5, 2.0, 3.0), std=(9.0,), resize="crop", shortest_edge=8)},
        dynamic={"x": ("batch", "", "width")},
        max_drop=0.0,
        parity_db=-3.5,
        labels='etiquettes "été".csv',
        judge_sha256="0" * 64,
        parts={"decoder": Built("w8", "w8", "cpu", bits=8, block_size=32, warning="the decoder\nis on the CPU")},
    )
    write_recipe(recipe, tmp_path / "odd.toml")
    assert read_recipe(tmp_path / "odd.toml") == recipe


def test_recipe_with_another_model_is_refused(made, tmp_path):
    """The digest of the model decides, whatever its name."""
    _, samples, report = made
    other = save_products(tmp_path)[0].rename(tmp_path / "outlier.onnx")
    with pytest.raises(BadInput, match="SHA-256"):
        convert(other, recipe=report.path, calibration=str(samples), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_recipe_with_other_calibration_data_is_refused(made, tmp_path):
    """One sample less is other data."""
    model, samples, report = made
    fewer = shutil.copytree(samples, tmp_path / "samples")
    (fewer / "0.npz").unlink()
    with pytest.raises(BadInput, match=r"other samples: 7 .* with 8"):
        convert(model, recipe=report.path, calibration=str(fewer), output=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"profiles": [NPU]}, "for the profile 'raspberry-pi-5'"),
        ({"profiles": [CPU, NPU]}, "for the profile 'raspberry-pi-5'"),
        ({"precision": "int8"}, '--precision is not what the recipe says: "int8" and "mixed"'),
        ({"max_drop": 0.02}, "--max-drop is not"),
        ({"license": "MIT"}, '"MIT" and nothing'),
        ({"name": "other"}, "--name is not"),
        ({"shapes": {"x": (1, 3, 24, 24)}}, "--shape is not"),
        ({"calibration": None}, "needs --calibration"),
        ({"evaluate": "module:function"}, "--evaluate module:function is not"),
    ],
)
def test_recipe_with_a_flag_that_contradicts_it_is_refused(made, tmp_path, options, says):
    """What is given beside a recipe must be what it says; nothing is silently left out."""
    model, samples, report = made
    given = {"calibration": str(samples), "output": tmp_path / "out"} | options
    with pytest.raises(UsageError) as refused:
        convert(model, recipe=report.path, **given)
    assert says in refused.value.message
    assert refused.value.remedy


def test_recipe_with_flags_that_say_the_same_is_taken(made, tmp_path):
    """To repeat the first command with --recipe is no contradiction."""
    model, samples, report = made
    options = {"calibration": str(samples), "precision": "mixed", "name": "Outlier", "output": tmp_path / "out"}
    again = the(convert(model, [CPU], recipe=report.path, max_drop=0.01, **options))
    assert again.digest == report.digest


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("schema_version = 1", "schema_version = 2", "'schema_version' is 2; this edgert understands 1"),
        ("[bundle]", "[bundel]\n[bundle]", "'bundel' is not a known key"),
        ('label = "', 'label = "../../', "'candidate.label' is '../../"),
        ("keep_float = ", "keep_flaot = ", "'candidate.keep_flaot' is not a known key"),
        ('precision = "mixed"\nmetric', 'precision = "mixt"\nmetric', "'gate.precision'"),
        ("max_drop = 0.01", "max_drop = 2", "'gate.max_drop' is 2"),
        ("max_drop = 0.01", "max_drop = nan", "'gate.max_drop' is nan"),
        ("count = 8", "", "'calibration.count' is missing"),
        ("count = 8", "count = true", "'calibration.count' is True"),
        ('file = "outlier.onnx"', "file = outlier", "not valid TOML"),
        ("[candidate]", "[shapes]\nx = [1, 0]\n[candidate]", "'shapes.x' holds 0"),
        ("[candidate]", "[shapes]\nx = 1\n[candidate]", "'shapes.x' is 1 (int)"),
    ],
)
def test_recipe_file_with_a_defect_names_the_key(made, before, after, says):
    """The reader is strict: a typo is an error, not a setting that is left out."""
    text = open_bundle(made[2].path).file("recipe.toml").read_text(encoding="utf-8")
    assert text.count(before) == 1
    with pytest.raises(BadInput, match=r"recipe\.toml") as refused:
        parse_recipe(text.replace(before, after), "recipe.toml")
    assert says in refused.value.message


def test_recipe_that_is_too_long_or_not_there_is_refused(tmp_path):
    """A file of any length is not parsed; a missing one is named."""
    with pytest.raises(BadInput, match="characters"):
        parse_recipe("#" * (MAX_CHARACTERS + 1), "long.toml")
    with pytest.raises(BadInput, match=r"gone\.toml"):
        read_recipe(tmp_path / "gone.toml")


def test_recipe_of_a_bundle_without_one_says_so(tmp_path):
    """Bundles of an older edgert hold none."""
    write_bundle(stage(tmp_path / "staging"), small_manifest(), tmp_path / "old.edgert")
    with pytest.raises(BadInput, match=r"holds no recipe\.toml"):
        read_recipe(tmp_path / "old.edgert")


def test_recipe_that_names_a_node_which_is_not_there_is_refused(made, tmp_path):
    """A layer that cannot be found would be rounded without a word."""
    model, samples, report = made
    recipe = read_recipe(report.path)
    write_recipe(replace(recipe, built=replace(recipe.built, keep_float=("a0", "typo"))), tmp_path / "x.toml")
    (failure,) = convert(model, recipe=tmp_path / "x.toml", calibration=str(samples), output=tmp_path / "out").bundles
    assert isinstance(failure, ProfileFailure)
    assert "typo" in failure.message
    assert failure.exit_code == 2


def test_recipe_below_the_gate_is_not_written(made, tmp_path):
    """The candidate is verified as always: here int8 without its float layers, which the outlier ruins."""
    model, samples, report = made
    recipe = read_recipe(report.path)
    write_recipe(replace(recipe, built=replace(recipe.built, keep_float=())), tmp_path / "x.toml")
    (failure,) = convert(model, recipe=tmp_path / "x.toml", calibration=str(samples), output=tmp_path / "out").bundles
    assert isinstance(failure, ProfileFailure)
    assert "below 0.99" in failure.message
    assert failure.exit_code == 1
    assert not list((tmp_path / "out").glob("*.edgert"))


def test_recipe_of_other_tools_and_another_profile_warns(made, tmp_path):
    """The bundle is made, and says what may have made it different."""
    model, samples, report = made
    recipe = read_recipe(report.path)
    old = replace(recipe, tools={**recipe.tools, "onnx": "1.0"}, profile_sha256="0" * 64)
    write_recipe(old, tmp_path / "old.toml")
    again = the(convert(model, recipe=tmp_path / "old.toml", calibration=str(samples), output=tmp_path / "out"))
    said = [warning for warning in again.warnings if warning not in report.warnings]
    assert len(said) == 2
    assert "profile 'raspberry-pi-5' has changed" in said[0]
    assert f"onnx is {recipe.tools['onnx']} here and 1.0 in the recipe" in said[1]
    assert not set(said) & set(open_bundle(again.path).manifest.warnings)
    assert again.digest == report.digest


def test_recipe_profile_digest_ignores_what_only_people_read(made, tmp_path):
    """A new figure or note in a profile does not make it another one; another opset does."""
    model, samples, report = made
    text = (profiles_folder() / f"{CPU}.toml").read_text(encoding="utf-8")
    opset = next(line for line in text.splitlines() if line.startswith("opset"))
    for change, warned in (("# a remark\n" + text, False), (text.replace(opset, "opset = 19"), True)):
        path = tmp_path / "board.toml"
        path.write_text(change, encoding="utf-8")
        options = {"calibration": str(samples), "output": tmp_path / "out"}
        again = the(convert(model, [str(path)], recipe=report.path, **options))
        assert any("has changed" in warning for warning in again.warnings) is warned
        assert any("not the bytes" in warning for warning in again.warnings) is warned


def test_recipe_of_a_model_with_a_part_builds_the_part_too(tmp_path):
    """The outer recipe says what the decoder's candidate is; a part's own recipe is not one to replay."""
    report, request = _speech(tmp_path)
    bundle = open_bundle(report.path)
    recipe, inner = read_recipe(report.path), read_recipe(bundle.file("decoder.edgert"))
    assert recipe.parts == {"decoder": inner.built}
    assert (recipe.part, inner.part) == ("", "decoder")
    with pytest.raises(BadInput, match="part 'decoder'"):
        replayed(request, inner)
    again, _ = _speech(tmp_path / "again", lambda plain: replayed(plain, recipe))
    assert again.digest == report.digest


def _speech(folder: Path, change=lambda request: request) -> tuple[BundleReport, Request]:
    """Convert an encoder with a decoder, past the source, which needs a framework."""
    samples = folder / "samples"
    samples.mkdir(parents=True)
    for number, loudness in enumerate((0, -5)):
        features = np.random.default_rng(number).normal(loudness, size=(1, 80, 100)).astype(np.float32)
        np.savez(samples / f"{number}.npz", features=features)
    imported = Imported(
        "onnx",
        save_net(encoder(), folder / "encoder.onnx"),
        "0" * 64,
        task=SPEECH,
        parts={"decoder": save_net(decoder(), folder / "decoder.onnx")},
        files={"tokenizer.json": save_word_tokenizer(folder / "tokenizer.json")},
    )
    request = change(Request(imported.path, (CPU,), folder / "out", calibration=str(samples)))
    profile = load_profile(CPU)
    for name in ("scratch", "staging"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        shared = stack.enter_context(open_bench(request, imported, folder / "scratch", [profile]))
        (bench,) = [stack.enter_context(opened) for opened in open_parts(shared, [profile])]
        part = convert_part(bench, profile, folder / "staging")
        job = Job(shared, profile)
        return pack(job, choose(job), folder / "staging", folder / "speech.edgert", [part]), request


def test_recipe_of_a_damaged_bundle_is_not_read(made, tmp_path):
    """A recipe is only read out of a bundle that is what its manifest says."""
    with zipfile.ZipFile(made[2].path) as archive:
        archive.extractall(tmp_path / "folder")
    recipe = tmp_path / "folder" / "recipe.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("a0", "a1"), encoding="utf-8")
    with pytest.raises(VerificationFailed, match=r"recipe\.toml"):
        read_recipe(tmp_path / "folder")
