"""scikit-learn, XGBoost and LightGBM: what becomes of trained models, and what is refused before or after reading."""

import json
import pickle
import subprocess
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import converters
from converters.request import BundleReport
from converters.samples import open_samples
from converters.sources import sklearn
from converters.sources.imported import Imported, Options
from converters.verify.parity import OutputParity, ParityMeter, below
from edgert.errors import BadInput, GateFailed, UsageError
from edgert.manifest import TensorSpec
from edgert.runtime.model import load
from tests.source_answers import source_answers

MAKER = Path(__file__).with_name("make_sklearn.py")
PROFILE = "x86-avx512-vnni"

Feeds = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def made(source_environment, tmp_path_factory) -> Path:
    """Return the folder of models that scikit-learn, XGBoost and LightGBM have just trained."""
    folder = tmp_path_factory.mktemp("trained")
    command = [str(source_environment("sklearn")), str(MAKER), str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture
def imported(made, tmp_path) -> Callable[[str], Imported]:
    """Return a function that imports a file of that folder, pickles being trusted."""

    def load_file(name: str) -> Imported:
        return sklearn.load(made / name, Options(workdir=tmp_path, trust_pickle=True))

    return load_file


def feeds_of(made: Path, name: str) -> tuple[Feeds, np.ndarray | None]:
    """Return what the model of that name is fed, and the right answers where there are some."""
    with np.load(made / f"{Path(name).stem}.npz", allow_pickle=False) as arrays:
        feeds = {key: arrays[key] for key in arrays.files if key != "labels"}
        return feeds, arrays["labels"] if "labels" in arrays.files else None


def beside_the_source(model: Imported, feeds: Feeds, tmp_path: Path) -> tuple[dict[str, OutputParity], Feeds, Feeds]:
    """Run the graph and the framework itself; return their parity and the outputs of both."""
    ((expected, got),) = source_answers(model, [feeds], tmp_path)
    meter = ParityMeter()
    meter.add(expected, got)
    return meter.result(), expected, got


OUTPUTS = {
    "two-classes.joblib": ["label", "scores"],
    "forest.joblib": ["label", "probabilities"],
    "boosted.joblib": ["y"],
    "vote.joblib": ["label", "probabilities"],
    "scaled-lightgbm.joblib": ["y"],
    "xgboost-two.json": ["label", "probabilities"],
    "xgboost-three.ubj": ["label", "probabilities"],
    "lightgbm-three.txt": ["label", "probabilities"],
    "lightgbm-values.txt": ["y"],
    "table.joblib": ["label", "probabilities"],
    "text.joblib": ["label", "probabilities"],
}


@pytest.fixture(scope="module")
def measured(made, tmp_path_factory) -> dict[str, Future[dict[str, OutputParity]]]:
    """Return the parity of each of those models with its framework; they are imported two at a time."""

    def measure(name: str, folder: Path) -> dict[str, OutputParity]:
        model = sklearn.load(made / name, Options(workdir=folder, trust_pickle=True))
        return beside_the_source(model, feeds_of(made, name)[0], folder)[0]

    folders = {name: tmp_path_factory.mktemp(name) for name in OUTPUTS}
    with ThreadPoolExecutor(2) as pool:
        return {name: pool.submit(measure, name, folder) for name, folder in folders.items()}


@pytest.mark.parametrize("name", OUTPUTS)
def test_sklearn_model_gives_what_its_framework_gives(measured, name):
    """Labels are equal and floats 80 dB near: with missing values, unknown words, and values on a tree's thresholds."""
    parity = measured[name].result()
    assert list(parity) == OUTPUTS[name]
    assert below(parity, 80.0) == []
    assert all(entry.agreement in (None, 1.0) for entry in parity.values())


def test_sklearn_digits_have_the_accuracy_of_the_source(made, imported, tmp_path):
    """Top-1 on 597 digits that were not trained on is the source's within 0.2 points."""
    model = imported("digits.joblib")
    feeds, labels = feeds_of(made, "digits")
    assert labels is not None
    parity, expected, got = beside_the_source(model, feeds, tmp_path)
    right, own = (100 * float(np.mean(outputs["label"] == labels)) for outputs in (expected, got))
    assert own > 90
    assert abs(own - right) <= 0.2
    assert below(parity, 100.0) == []
    assert (got["probabilities"].argmax(axis=1) == got["label"]).all()
    assert model.task is not None
    assert (model.task.kind, model.task.output, model.task.labels) == ("classification", "probabilities", "labels.json")
    assert json.loads(model.files["labels.json"].read_text()) == [str(digit) for digit in range(10)]
    assert model.framework.startswith("scikit-learn ")
    assert "skl2onnx" in model.tools


def test_sklearn_scores_of_two_classes_point_to_the_label(made, imported, tmp_path):
    """The scores are [-d, d] for each row, so that the larger one is the label's, which has its name."""
    model = imported("two-classes.joblib")
    _, expected, got = beside_the_source(model, feeds_of(made, "two-classes")[0], tmp_path)
    names = json.loads(model.files["labels.json"].read_text())
    assert [names[index] for index in got["scores"].argmax(axis=1)] == list(got["label"])
    np.testing.assert_allclose(got["scores"], expected["scores"], atol=1e-4)


def test_sklearn_table_has_an_input_for_each_column(imported):
    """Columns keep their names and kinds; one that the model drops is not asked for."""
    session = onnxruntime.InferenceSession(imported("table.joblib").path, providers=["CPUExecutionProvider"])
    types = {value.name: value.type.removeprefix("tensor(").removesuffix(")") for value in session.get_inputs()}
    assert types == {"age": "float", "city": "string", "job of today": "string", "children": "int64"}
    assert {tuple(value.shape) for value in session.get_inputs()} == {("N", 1)}
    assert [value.shape for value in session.get_outputs()] == [["N"], ["N", 2]]


def test_sklearn_xgboost_estimator_that_stopped_early_keeps_its_best_trees(made, imported, tmp_path):
    """A file that an estimator saved predicts as that estimator does: up to its best iteration."""
    feeds, predicted = feeds_of(made, "xgboost-early")
    _, expected, got = beside_the_source(imported("xgboost-early.json"), feeds, tmp_path)
    np.testing.assert_allclose(got["y"][:, 0], predicted, rtol=1e-5)
    np.testing.assert_allclose(expected["y"][:, 0], predicted, rtol=1e-6)


def test_sklearn_function_brings_examples(made, tmp_path, monkeypatch):
    """`module:function` gives an estimator and inputs, which become samples of one row."""
    (tmp_path / "my_models.py").write_text(
        "import numpy as np\n"
        "from sklearn.linear_model import LinearRegression\n"
        "def line():\n"
        "    x = np.arange(12.0).reshape(6, 2)\n"
        "    return LinearRegression().fit(x, x.sum(axis=1)), x\n"
    )
    monkeypatch.chdir(tmp_path)
    model = sklearn.load(Path("my_models:line"), Options(workdir=tmp_path))
    assert model.examples is not None
    samples = list(open_samples(str(model.examples), [TensorSpec("x", "float32", ("N", 2))]))
    assert [sample["x"].shape for sample in samples] == [(1, 2)] * 6
    session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    assert session.run(["y"], samples[3])[0] == pytest.approx(13.0, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("density.joblib", GateFailed, r"step 'density' \(KernelDensity\)"),
        ("text-refused.joblib", GateFailed, r"step 'tfidfvectorizer' \(TfidfVectorizer\)"),
        ("two-targets.joblib", GateFailed, "RandomForestClassifier predicts 2 targets"),
        ("hinge.json", GateFailed, "objective 'binary:hinge'"),
        ("forest.txt", GateFailed, "random forests"),
        ("unfitted.joblib", BadInput, "the StandardScaler in '.*unfitted.joblib' is not fitted"),
        ("dictionary.joblib", BadInput, "holds a dict, which is no estimator"),
    ],
)
def test_sklearn_model_without_a_converter_is_refused_by_name(imported, name, kind, says):
    """The estimator and its step, or the objective, are named: what the exporter would get wrong never passes."""
    with pytest.raises(kind, match=says) as caught:
        imported(name)
    assert caught.value.remedy


def test_sklearn_table_becomes_a_bundle_that_runs_text(made, tmp_path):
    """Text goes all the way: samples, passes, calibration, golden vectors, reference profile, the device's run."""
    feeds, _ = feeds_of(made, "table")
    np.savez(tmp_path / "rows.npz", **{name: column[:64, None] for name, column in feeds.items()})
    result = converters.convert(
        made / "table.joblib",
        [PROFILE],
        calibration=str(tmp_path / "rows.npz"),
        output=tmp_path,
        trust_pickle=True,
        folder=True,
    )
    (report,) = result.bundles
    assert isinstance(report, BundleReport), report
    measured = json.loads((report.path / "measurements.json").read_text())
    checks = {check["reference"]: check["outputs"] for check in measured["variants"][0]["checks"]}
    assert checks["source"]["label"]["agreement"] == checks["onnx"]["label"]["agreement"] == 1.0
    profile = json.loads((report.path / "reference.json").read_text())
    assert set(profile["inputs"]["city"]["categories"]) == {"Atlantis", "Oslo", "Paris", "Rome", "São Paulo"}
    assert profile["inputs"]["city"]["n"] == 64
    assert profile["inputs"]["age"]["nonfinite"] > 0
    with load(report.path) as model:
        row = {"age": [[np.nan]], "city": [["Rome"]], "job of today": [["cook"]], "children": [[2]]}
        types = {"age": np.float32, "city": np.str_, "job of today": np.str_, "children": np.int64}
        outputs = model.run({name: np.array(value, types[name]) for name, value in row.items()})
    assert outputs["label"].tolist() in (["yes"], ["no"])
    assert outputs["probabilities"].shape == (1, 2)


def test_sklearn_nodes_are_refused_by_name_where_no_accelerator_takes_them(made, tmp_path):
    """An NPU takes no trees and no text: the nodes are listed, and nothing is written."""
    feeds, _ = feeds_of(made, "table")
    np.savez(tmp_path / "rows.npz", **{name: column[:8, None] for name, column in feeds.items()})
    result = converters.convert(
        made / "table.joblib",
        ["snapdragon-8-gen-3"],
        calibration=str(tmp_path / "rows.npz"),
        output=tmp_path,
        trust_pickle=True,
    )
    (failure,) = result.bundles
    assert not isinstance(failure, BundleReport)
    if failure.exit_code == 3:
        pytest.skip(failure.message)
    refused = {node["op_type"] for node in failure.refused}
    assert {"TreeEnsembleClassifier", "OneHotEncoder", "Imputer"} <= refused
    assert not list(tmp_path.glob("*.edgert"))


def test_sklearn_texts_are_samples_line_by_line(made, tmp_path):
    """A text file calibrates a model that takes text, and what onnxruntime cuts otherwise fails the conversion."""
    good = converters.convert(
        made / "text.joblib", [PROFILE], calibration=str(made / "texts.txt"), output=tmp_path, trust_pickle=True
    )
    assert isinstance(good.bundles[0], BundleReport)
    other = made / "text-other.joblib"
    with pytest.raises(GateFailed, match=r"'probabilities' has .* dB"):
        converters.convert(other, [PROFILE], calibration=str(made / "digits.txt"), output=tmp_path, trust_pickle=True)


class Bomb:
    """Unpickling an instance writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        """Return the call that unpickling makes."""
        return Path.write_text, (self.path, "it ran")


def test_sklearn_pickle_that_is_not_trusted_never_runs(tmp_path):
    """Without --trust-pickle the code in a pickle is not run, and the error says that it would be."""
    (tmp_path / "model.joblib").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(UsageError, match="runs whatever code") as caught:
        sklearn.load(tmp_path / "model.joblib", Options(workdir=tmp_path))
    assert "--trust-pickle" in caught.value.remedy
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("level", [0, 9])
def test_sklearn_pickle_that_unpacks_to_too_much_is_refused(tmp_path, level):
    """A zlib bomb is told before anything of it is read as a pickle, in little memory."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    data = b"".join(packer.compress(block) for _ in range(120)) + packer.flush()
    if level == 9:  # a packed file in which little is packed is as much a model as any
        (tmp_path / "model.joblib").write_bytes(data)
        with pytest.raises(BadInput, match="would unpack to"):
            sklearn.load(tmp_path / "model.joblib", Options(workdir=tmp_path, trust_pickle=True))
        return
    (tmp_path / "model.joblib").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match="this compressed file is damaged"):
        sklearn.load(tmp_path / "model.joblib", Options(workdir=tmp_path, trust_pickle=True))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.joblib", b"", "is empty"),
        ("model.pkl", b"\x80\x04 this is no pickle", "cannot be unpickled"),
        ("model.json", b'{"weights": [1, 2]}', "no XGBoost or LightGBM model"),
        ("model.json", b'{"learner": {"attributes": {}, "feature', "cannot be read"),
        ("model.ubj", b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{", "cannot be read"),
        ("model.txt", b"three little pigs", "no XGBoost or LightGBM model"),
        ("model.txt", b"tree\nversion=v4\nnum_class=1\n", "is cut off"),
        ("model.txt", b"tree\nversion=v4\nnum_class=x\nend of parameters\n", "cannot be read"),
    ],
)
def test_sklearn_file_that_is_damaged_or_of_another_kind_is_bad_input(
    source_environment, tmp_path, name, content, says
):
    """The path and the reason are told, whatever the framework makes of the file."""
    source_environment("sklearn")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=says) as caught:
        sklearn.load(tmp_path / name, Options(workdir=tmp_path, trust_pickle=True))
    assert str(tmp_path / name) in caught.value.message
    assert caught.value.remedy


def test_sklearn_model_cut_in_two_is_bad_input(made, tmp_path):
    """Half a pickle, half a JSON and half a text are refused, packed or not."""
    for name in ("digits.joblib", "forest.joblib", "xgboost-two.json", "xgboost-three.ubj", "lightgbm-three.txt"):
        data = (made / name).read_bytes()
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(BadInput, match=name):
            sklearn.load(folder / name, Options(workdir=folder, trust_pickle=True))


def test_sklearn_matches_by_content(made, tmp_path):
    """Names do not make an XGBoost or LightGBM model; a zip archive called .pkl is PyTorch's."""
    for name in ("xgboost-two.json", "xgboost-three.ubj", "lightgbm-three.txt", "digits.joblib"):
        assert sklearn.matches(made / name)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "notes.txt").write_text("trees are green")
    (tmp_path / "torch.pkl").write_bytes(b"PK\x03\x04")
    for path in (*tmp_path.iterdir(), tmp_path):
        assert not sklearn.matches(path)
