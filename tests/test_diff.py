"""`edgert diff`: what differs between two bundles is named, and what is the same is not."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from converters.graph_diff import compare_graphs
from converters.pipeline import convert
from converters.request import BundleReport
from edgert.bundle import open_bundle, write_bundle
from edgert.bundle_diff import compare, facts_of, figures, flat
from edgert.manifest import Golden, Placement, Variant
from tests.bundle_files import small_manifest, stage
from tests.converters.quantize.nets import conv_net
from tests.test_cli import call

PROFILE = "raspberry-pi-5"


def differ(capsys: pytest.CaptureFixture[str], a: Path, b: Path) -> dict:
    """Return the document of two bundles that differ."""
    code, out, err = call(capsys, "diff", a, b, "--json")
    assert code == 1, err
    return json.loads(out)


@pytest.fixture
def bundle(tmp_path) -> Path:
    """Return the small bundle as a folder."""
    write_bundle(stage(tmp_path / "staging"), small_manifest(), tmp_path / "small")
    return tmp_path / "small"


def changed(tmp_path: Path, **changes: object) -> Path:
    """Return the small bundle with another manifest."""
    write_bundle(tmp_path / "staging", small_manifest(**changes), tmp_path / "changed.edgert")
    return tmp_path / "changed.edgert"


@pytest.fixture(scope="module")
def converted(tiny_model, tiny_samples, tmp_path_factory) -> tuple[Path, Path]:
    """Return the tiny model for one profile as float and as int8."""

    def made(precision: str) -> Path:
        folder = tmp_path_factory.mktemp(precision)
        (entry,) = convert(
            tiny_model, [PROFILE], calibration=str(tiny_samples), output=folder, precision=precision
        ).bundles
        assert isinstance(entry, BundleReport), entry
        return entry.path

    return made("fp32"), made("int8")


def test_diff_of_the_file_and_the_folder_of_a_bundle_exits_0(capsys, bundle, tmp_path):
    """The digest decides: form and measurements make no difference."""
    write_bundle(tmp_path / "staging", small_manifest(), tmp_path / "small.edgert")
    (bundle / "measurements.json").unlink()
    code, out, _ = call(capsys, "diff", bundle, tmp_path / "small.edgert")
    assert code == 0
    assert out.endswith("the same\n")
    code, out, _ = call(capsys, "diff", bundle, tmp_path / "small.edgert", "--json")
    document = json.loads(out)
    assert (code, document["same"]) == (0, True)
    sections = ("identity", "inputs", "outputs", "placements", "golden", "recipe", "files")
    assert [document[section] for section in sections] == [[]] * 7
    assert document["warnings"] == {"a": [], "b": []}


@pytest.mark.parametrize(
    ("changes", "section", "expected"),
    [
        ({"profile": "raspberry-pi-5"}, "identity", {"key": "profile", "a": "x86-avx2", "b": "raspberry-pi-5"}),
        ({"version": "2"}, "identity", {"key": "version", "a": "1.0.0", "b": "2"}),
        (
            {"golden": Golden("golden.npz", 1, {"fp32": 0.5})},
            "golden",
            {"key": "min_cosine.fp32", "a": 0.999, "b": 0.5},
        ),
        ({"recipe": {"passes": ["fold_constants"], "seed": 1}}, "recipe", {"key": "seed", "a": 0, "b": 1}),
        (
            {"recipe": {"passes": ["fold_constants"], "seed": 0, "deep": {"bits": 8}}},
            "recipe",
            {"key": "deep.bits", "a": None, "b": 8},
        ),
        (
            {"inputs": (dataclasses.replace(small_manifest().inputs[0], shape=(2, 64)),)},
            "inputs",
            {"key": "x", "a": {"dtype": "float32", "shape": [1, 64]}, "b": {"dtype": "float32", "shape": [2, 64]}},
        ),
        (
            {"outputs": (dataclasses.replace(small_manifest().outputs[0], name="z"),)},
            "outputs",
            {"key": "z", "a": None, "b": {"dtype": "float32", "shape": [1, "n", None]}},
        ),
    ],
)
def test_diff_of_one_change_names_it_and_nothing_else(capsys, bundle, tmp_path, changes, section, expected):
    """Each key of the manifest that differs is there with both values, in its section."""
    document = differ(capsys, bundle, changed(tmp_path, **changes))
    assert expected in document[section]
    others = {"identity", "inputs", "outputs", "placements", "golden", "recipe", "files"} - {section}
    assert all(document[other] == [] for other in others)
    assert [change["graph"]["op_types"] for change in document["variants"]] == [[], []]


def test_diff_of_placements_tells_order_and_options(capsys, bundle, tmp_path):
    """What runs first, and with which options, decides how a bundle runs."""
    npu = Placement("relu", "QNNExecutionProvider", "npu", {"htp_performance_mode": "default"}, {})
    cpu = Placement("fp32", "CPUExecutionProvider", "cpu")
    found = {
        change["key"]: (change["a"], change["b"])
        for change in differ(capsys, bundle, changed(tmp_path, placements=(cpu, npu)))["placements"]
    }
    before, after = found["relu on QNNExecutionProvider"]
    assert (before["place"], after["place"]) == (1, 2)
    assert (before["options.htp_performance_mode"], after["options.htp_performance_mode"]) == ("burst", "default")


def test_diff_of_variants_and_warnings_says_in_which_bundle_they_are(capsys, bundle, tmp_path):
    """A variant or a warning that only one of them has is there with null on the other side."""
    other = changed(
        tmp_path,
        variants=(Variant("fp32", "fp32", "fp32.onnx"), Variant("new", "fp32", "relu.onnx")),
        placements=(Placement("fp32", "CPUExecutionProvider", "cpu"),),
        warnings=("another",),
    )
    document = differ(capsys, bundle, other)
    found = {change["key"]: (bool(change["a"]), bool(change["b"])) for change in document["variants"]}
    assert found == {"fp32": (True, True), "relu": (True, False), "new": (False, True)}
    assert document["warnings"] == {"a": ["random calibration data"], "b": ["another"]}


def test_diff_of_float_and_int8_shows_graph_recipe_and_figures(capsys, converted):
    """Two real conversions: what was asked, what came out, and what was measured side by side."""
    document = differ(capsys, *converted)
    recipe = {change["key"]: (change["a"], change["b"]) for change in document["recipe"]}
    assert recipe["gate.precision"] == ("fp32", "int8")
    assert recipe["candidate.precision"] == ("fp32", "int8")
    assert "model.sha256" not in recipe
    assert {change["key"] for change in document["identity"]} == {"chosen"}
    sides = {row["key"]: (row["a"], row["b"]) for row in document["measurements"]}
    (only_a, only_b) = (next(iter(sides[key])) for key in sorted(sides))
    assert {one is None for one in (only_a, only_b)} == {True, False}
    figure = only_a or only_b
    assert figure["where"] == "emulated"
    assert figure["cosine"] > 0.9
    assert figure["p50_ms"] > 0
    code, out, _ = call(capsys, "diff", *converted)
    assert code == 1
    for word in ("recipe", "gate.precision", "measured at conversion", "emulated"):
        assert word in out


def test_graph_diff_counts_operators_encodings_and_tensors(tmp_path):
    """An operator more, a tensor with other bytes, an encoding with another scale: each is counted once."""
    from converters.quantize.calibrate import calibrate
    from converters.quantize.plan import plan_quantization
    from converters.quantize.qdq import apply_qdq
    from edgert.profile import load_profile
    from tests.converters.quantize.nets import images

    float_model = conv_net()
    plan = plan_quantization(
        float_model, calibrate(float_model, images(), workdir=tmp_path), load_profile(PROFILE).quantization, 8
    )
    ir.save(apply_qdq(float_model, plan), tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    quantize = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    own = onnx.TensorProto.FromString(_initializer(model, quantize.input[1]).SerializeToString())
    own.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(own) * 2, "own_scale"))
    model.graph.initializer.append(own)
    quantize.input[1] = "own_scale"
    output = model.graph.output[0].name
    last = next(node for node in model.graph.node if output in node.output)
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Identity", ["before"], [output]))
    onnx.save(model, tmp_path / "b.onnx")
    found = compare_graphs(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert found["op_types"] == [{"op_type": "Identity", "a": 0, "b": 1}]
    assert found["nodes"]["b"] - found["nodes"]["a"] == 1
    assert found["encodings"]["differ"] == 1
    assert found["encodings"]["same"] > 1
    assert found["tensors"]["differ"] == 0
    assert found["tensors"]["only_b"] == 1


def _initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(one for one in model.graph.initializer if one.name == name)


def test_diff_of_weights_alone_counts_the_tensors(capsys, bundle, tmp_path):
    """A model trained further has the same graph file and other weights."""
    (tmp_path / "staging" / "weights.bin").write_bytes(np.ones(2048, np.float32).tobytes())
    document = differ(capsys, bundle, changed(tmp_path))
    graphs = {change["key"]: change["graph"] for change in document["variants"]}
    assert graphs["fp32"]["tensors"] == {"same": 0, "differ": 1, "only_a": 0, "only_b": 0}
    assert graphs["relu"]["tensors"]["differ"] == 0
    assert [change["key"] for change in document["files"]] == ["weights.bin"]


def test_diff_of_parts_goes_into_them(capsys, tmp_path, bundle):
    """A part is compared like a bundle; what differs inside is told by name."""
    for name, version in (("one", "1"), ("two", "2")):
        staging = shutil.copytree(tmp_path / "staging", tmp_path / name)
        write_bundle(tmp_path / "staging", small_manifest(version=version), staging / "decoder.edgert")
        write_bundle(staging, small_manifest(parts={"decoder": "decoder.edgert"}), tmp_path / f"{name}.edgert")
    document = differ(capsys, tmp_path / "one.edgert", tmp_path / "two.edgert")
    assert document["parts"]["decoder"]["identity"] == [{"key": "version", "a": "1", "b": "2"}]
    _, out, _ = call(capsys, "diff", tmp_path / "one.edgert", tmp_path / "two.edgert")
    assert "part decoder" in out


@pytest.mark.parametrize("what", ["missing", "not a bundle", "damaged"])
def test_diff_with_a_bad_bundle_exits_2_and_prints_no_document(capsys, bundle, tmp_path, what):
    """Both are verified before they are compared, and 1 means nothing but that they differ."""
    bad = tmp_path / "bad"
    if what == "not a bundle":
        bad.write_bytes(b"no zip file")
    elif what == "damaged":
        shutil.copytree(bundle, bad)
        (bad / "weights.bin").write_bytes(b"\1" * 8192)
    for pair in ((bundle, bad), (bad, bundle)):
        ended, out, err = call(capsys, "diff", *pair, "--json")
        assert (ended, out) == (2, "")
        assert "bad" in err


@pytest.mark.parametrize(
    "measured",
    [
        {},
        {"variants": 3},
        {"variants": [3, None]},
        {"variants": [{"parity": [1], "latency_ms": "fast"}]},
        {"variants": [{"name": "x", "parity": {"y": {"cosine": "near"}, "z": 1}}]},
    ],
)
def test_diff_takes_any_measurements(measured):
    """Nothing vouches for measurements.json: whatever stands in it, there are no figures instead of an error."""
    for figure in figures(measured).values():
        assert figure["cosine"] is None
        assert figure["p50_ms"] is None


def test_diff_prints_no_control_character_of_a_bundle(capsys, bundle):
    """A file that nobody signs must not command the terminal."""
    text = json.dumps({"variants": [{"name": "\x1b[2Jx", "provider": "p", "where": "\x1b]0;title\x07"}]})
    other = shutil.copytree(bundle, bundle.parent / "other")
    (other / "measurements.json").write_text(text, encoding="utf-8")
    manifest = json.loads((other / "manifest.json").read_text(encoding="utf-8"))
    (other / "manifest.json").write_text(json.dumps({**manifest, "version": "3"}), encoding="utf-8")
    code, out, _ = call(capsys, "diff", bundle, other)
    assert code == 1
    assert "?[2Jx on p" in out
    assert "\x1b[2J" not in out
    assert "\x07" not in out


def test_diff_without_the_converter_compares_all_but_graphs(bundle, tmp_path):
    """A device has no onnx: the command works there and says what it leaves out."""
    other = changed(tmp_path, version="9")
    script = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('onnx', 'onnx_ir', 'onnxscript', 'tomli_w'): raise ImportError(name)\n"
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name in ('onnx', 'onnx_ir') else real(name, package)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from edgert import cli\n"
        f"cli.main(['diff', {str(bundle)!r}, {str(other)!r}, *sys.argv[1:]])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert "edgert[convert]" in document["note"]
    assert [change["graph"] for change in document["variants"]] == [None, None]
    assert document["identity"] == [{"key": "version", "a": "1.0.0", "b": "9"}]
    plain = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "graphs were not compared" in plain.stdout


def test_compare_is_pure(bundle):
    """The same facts give the same document, and they are left as they are."""
    facts = facts_of(open_bundle(bundle))
    assert compare(facts, facts) == compare(facts, facts)
    assert compare(facts, facts)["same"] is True


def test_flat_joins_keys_with_dots():
    """Nested tables become dotted keys; lists stay whole."""
    assert flat({"a": {"b": 1, "c": {"d": [1]}}, "e": None}) == {"a.b": 1, "a.c.d": [1], "e": None}
