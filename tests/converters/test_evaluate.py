"""What judges a variant: right answers, a function of the user, agreement; and every way in which that is refused."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from converters.request import BundleReport
from converters.samples import SCORED_WARNING
from converters.sources.imported import Imported
from edgert.bundle import open_bundle
from edgert.errors import BadInput, UsageError
from edgert.image_spec import ImageSpec
from edgert.task import Task, TextSpec
from tests.converters.evaluated import (
    SCORED,
    Files,
    classifier_files,
    converted,
    opened,
    refusal,
    rolled,
    save_identity,
)
from tests.runtime.task_files import (
    embedder,
    mean_color,
    opinion,
    save_net,
    save_word_tokenizer,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return the classifier with its labelled files."""
    return classifier_files(tmp_path_factory.mktemp("classifier"))


def asked(files: Files, **more: object) -> dict[str, object]:
    return {"calibration": str(files.folder), "labels": files.labels, **more}


def test_labels_split_what_calibrates_from_what_scores(files: Files, tmp_path: Path) -> None:
    """The listed files are not calibrated with; one wrong label of twenty makes top-1 0.95."""
    with opened(files.model, tmp_path, **asked(files)) as job:
        shared = job.shared
        assert (shared.evaluation.metric, shared.evaluation.samples, shared.samples.count) == ("top1", SCORED, SCORED)
        even = [np.load(files.folder / f"{number:02}.npz")["x"] for number in range(0, 2 * SCORED, 2)]
        for seen, expected in zip(shared.samples, even, strict=True):
            assert np.array_equal(seen["x"], expected)
        assert shared.reference_score == 0.95
        assert job.request.metric == "top1"


def test_labels_on_all_files_warn_that_they_were_calibrated_with(files: Files, tmp_path: Path) -> None:
    """Where nothing would be left the files do both, and the bundle says so for good."""
    labels = tmp_path / "all.csv"
    lines = [f"{number:02}.npz,{number % 4}\n" for number in range(2 * SCORED)]
    labels.write_text("".join(lines), encoding="utf-8")
    conversion = converted(files, tmp_path / "out", labels=labels, precision="fp32")
    (bundle,) = conversion.bundles
    assert isinstance(bundle, BundleReport), bundle
    assert SCORED_WARNING in open_bundle(bundle.path).manifest.warnings
    single = files.folder / "01.npz"
    with opened(files.model, tmp_path / "file", calibration=str(single), labels=files.labels) as job:
        assert job.shared.samples.warning == SCORED_WARNING


def test_gate_is_one_minus_the_drop_from_the_original(files: Files, tmp_path: Path) -> None:
    """A model that is wrong in each fourth run has 0.95 - 5/20 at most; the original itself has a gate of 1."""
    with opened(files.model, tmp_path, **asked(files)) as job:
        own = job.evaluate(job.shared.original.run)
        worse = job.evaluate(rolled(job, 1, every=4))
        assert (own, job.gate({}, own)) == (0.95, 1.0)
        assert worse == pytest.approx(0.70)
        assert job.gate({}, worse) == 0.75
        assert job.gate({}, 0.94) == 0.99
        assert job.holds(job.gate({}, 0.94))


def test_gate_of_fewer_samples_is_against_the_original_on_the_same(files: Files, tmp_path: Path) -> None:
    """Of the first two files one has a wrong label: both score 0.5 there, which is no fall."""
    with opened(files.model, tmp_path, **asked(files)) as job:
        score = job.evaluate(job.shared.original.run, limit=2)
        assert score == 0.5
        assert job.gate({}, score, limit=2) == 1.0
        assert job.gate({}, score) == 0.55
        assert job.gate({}, job.evaluate(job.shared.original.run, limit=99), limit=99) == 1.0


def test_model_that_gives_nan_is_right_nowhere(files: Files, tmp_path: Path) -> None:
    """NaN is no class, though an argmax would call it the first one."""
    with opened(files.model, tmp_path, **asked(files)) as job:
        assert job.evaluate(lambda feeds: {"y": np.full((1, 4), np.nan, np.float32)}) == 0.0


def test_top5_counts_the_first_five(tmp_path: Path) -> None:
    """The class that is fifth is right for top5, wrong for top1; the sixth is wrong for both."""
    np.savez(tmp_path / "x.npz", x=np.float32([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]))
    np.savez(tmp_path / "z.npz", x=np.float32([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]))
    model = save_identity((1, 6), tmp_path / "six.onnx")
    for label, score in ((1, 1.0), (0, 0.5)):
        labels = tmp_path / "labels.json"
        labels.write_text(json.dumps({"x.npz": label, "z.npz": 5}), encoding="utf-8")
        given = {"calibration": str(tmp_path), "labels": labels}
        with opened(model, tmp_path / f"top5-{label}", metric="top5", **given) as job:
            assert job.shared.reference_score == score
        with opened(model, tmp_path / f"top1-{label}", metric="top1", **given) as job:
            assert job.shared.reference_score == 0.5


def _named(folder: Path, names: list[str]) -> Imported:
    """Return a classifier of the colour of pictures, with names of its classes."""
    (folder / "labels.json").write_text(json.dumps(names), encoding="utf-8")
    return Imported(
        "onnx",
        save_net(mean_color(), folder / "color.onnx"),
        "0" * 64,
        images={"x": ImageSpec()},
        task=Task("image-classification", "scores", labels="labels.json"),
        files={"labels.json": folder / "labels.json"},
    )


def _pictures(folder: Path, labels: Mapping[str, str]) -> Path:
    from PIL import Image

    for color in ("red", "green", "blue", "white"):
        Image.new("RGB", (8, 8), color).save(folder / f"{color}.png")
    path = folder / "truth.csv"
    path.write_text("".join(f"{file},{label}\n" for file, label in labels.items()), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("names", "labels", "score"),
    [
        (["red", "green", "blue"], {"red.png": "red", "green.png": "green", "blue.png": "green"}, 2 / 3),
        (["red", "green", "blue"], {"red.png": "0", "green.png": "1", "blue.png": "1"}, 2 / 3),
        (["1", "0", "2"], {"red.png": "1", "green.png": "0"}, 1.0),
        (["1", "0", "2"], {"red.png": "0", "green.png": "0"}, 0.5),
    ],
)
def test_labels_are_names_of_classes_else_their_indexes(
    tmp_path: Path, names: list[str], labels: dict[str, str], score: float
) -> None:
    """Pictures go through the model's own rules; where classes are called by numbers, a number is a name."""
    truth = _pictures(tmp_path, labels)
    with opened(_named(tmp_path, names), tmp_path / "out", calibration=str(tmp_path), labels=truth) as job:
        assert job.shared.reference_score == pytest.approx(score)
        assert job.shared.samples.count == 4 - len(labels)


@pytest.mark.parametrize(
    ("label", "said", "remedy"),
    [
        ("greeen", "no class 'greeen'", "did you mean 'green'"),
        ("3", "label 3 is no class of 0 to 2", "count from 0"),
        ("", "no class ''", "its classes are red, green, blue"),
    ],
)
def test_label_that_is_no_class_is_told(tmp_path: Path, label: str, said: str, remedy: str) -> None:
    """Before any work: the label, and the class that may be meant."""
    truth = _pictures(tmp_path, {"red.png": "red", "green.png": label})
    imported = _named(tmp_path, ["red", "green", "blue"])
    error = refusal(imported, tmp_path / "out", calibration=str(tmp_path), labels=truth)
    assert re.search(said, error.message)
    assert remedy in error.remedy


def test_names_without_class_names_ask_for_classes(files: Files, tmp_path: Path) -> None:
    """A plain ONNX model knows no names: --classes gives them."""
    labels = tmp_path / "labels.csv"
    labels.write_text("00.npz,cat\n", encoding="utf-8")
    error = refusal(files.model, tmp_path / "out", calibration=str(files.folder), labels=labels)
    assert "has no class names" in error.message
    assert "--classes" in error.remedy


def test_labels_that_a_model_tells_itself_are_compared_as_texts(tmp_path: Path) -> None:
    """A classifier of scikit-learn has the label as an output: + and - are its classes, and no index."""
    for number, word in enumerate(("good", "bad", "good")):
        (tmp_path / f"{number}.txt").write_text(word, encoding="utf-8")
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"0.txt": "+", "1.txt": "+"}), encoding="utf-8")
    task = Task("classification", "probabilities")
    imported = Imported("onnx", save_net(opinion(), tmp_path / "opinion.onnx"), "0" * 64, task=task)
    with opened(imported, tmp_path / "out", calibration=str(tmp_path), labels=labels) as job:
        assert job.shared.reference_score == 0.5


def test_original_that_gets_nothing_right_is_an_error(files: Files, tmp_path: Path) -> None:
    """No variant could be worse than it, so that such labels would let anything through."""
    labels = tmp_path / "labels.json"
    wrong = {name: (index + 2) % 4 for name, index in files.truth.items() if name != "01.npz"}
    labels.write_text(json.dumps(wrong), encoding="utf-8")
    error = refusal(files.model, tmp_path / "out", calibration=str(files.folder), labels=labels)
    assert "gets nothing right" in error.message


def test_labelled_file_of_many_samples_is_refused(files: Files, tmp_path: Path) -> None:
    """One label cannot be that of two samples."""
    np.savez(tmp_path / "two.npz", x=np.zeros((2, 1, 8), np.float32))
    labels = tmp_path / "labels.json"
    labels.write_text('{"two.npz": 1}', encoding="utf-8")
    error = refusal(files.model, tmp_path / "out", calibration=str(files.folder), labels=labels)
    assert "more than one sample" in error.message


@pytest.mark.parametrize("metric", ["", "cosine", "sqnr", "top1_agreement"])
def test_parity_metrics_without_labels_need_no_further_runs(files: Files, tmp_path: Path, metric: str) -> None:
    """What the comparison of outputs tells already is not measured again; and it is said to be agreement."""
    with opened(files.model, tmp_path, calibration=str(files.folder), metric=metric) as job:
        assert job.evaluate(job.shared.original.run) is None
        said = job.shared.evaluation_json()
        assert (said["metric"], said["kind"], said["samples"]) == (metric or "cosine", "agreement", 2 * SCORED)
        assert "not accuracy" in str(said["note"])


@pytest.mark.parametrize("metric", ["cosine", "sqnr", "top1_agreement", "spearman"])
def test_agreement_with_labels_is_measured_on_the_listed_files(files: Files, tmp_path: Path, metric: str) -> None:
    """The list still says which files score; the original agrees with itself, a model with other classes does not."""
    with opened(files.model, tmp_path, **asked(files, metric=metric)) as job:
        assert (job.shared.evaluation.kind, job.shared.evaluation.samples) == ("agreement", SCORED)
        assert job.evaluate(job.shared.original.run) == 1.0
        assert job.evaluate(rolled(job, 2)) < 0.9
        assert job.gate({}, job.evaluate(rolled(job, 2, every=SCORED))) < 1.0


def test_spearman_of_embeddings_ranks_the_similarities_of_all_pairs(tmp_path: Path) -> None:
    """Scaling and turning embeddings changes no similarity; other embeddings do."""
    text = TextSpec("tokenizer.json", 16, "input_ids", "attention_mask")
    imported = Imported(
        "onnx",
        save_net(embedder(), tmp_path / "embedder.onnx"),
        "0" * 64,
        task=Task("sentence-embedding", "embedding", text=text),
        files={"tokenizer.json": save_word_tokenizer(tmp_path / "tokenizer.json")},
    )
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0]
    with opened(imported, tmp_path / "out", metric="spearman", samples=12) as job:
        run = job.shared.original.run
        assert job.evaluate(lambda feeds: {"embedding": 3 * run(feeds)["embedding"] @ turn}) == pytest.approx(
            1, abs=1e-3
        )
        assert job.evaluate(lambda feeds: {"embedding": run(feeds)["embedding"] ** 2}) < 0.9


def test_spearman_of_single_numbers_ranks_them_over_the_samples(tmp_path: Path) -> None:
    """One number a sample has no rank of its own: a model that turns the order round has -1."""
    for number in range(5):
        np.savez(tmp_path / f"{number}.npz", x=np.float32([[number * 0.3]]))
    with opened(
        save_identity((1, 1), tmp_path / "one.onnx"), tmp_path / "o", calibration=str(tmp_path), metric="spearman"
    ) as job:
        assert job.evaluate(lambda feeds: {"y": feeds["x"] ** 3}) == pytest.approx(1.0)
        assert job.evaluate(lambda feeds: {"y": -feeds["x"]}) == pytest.approx(-1.0)


def test_map_is_against_the_boxes_of_the_original(tmp_path: Path) -> None:
    """A text detector's map: the same boxes have 1, one box less of three a third less, and it is called agreement."""
    ink = np.zeros((1, 1, 40, 60), np.float32)
    ink[..., 4:10, 5:50] = ink[..., 15:21, 5:50] = ink[..., 28:34, 5:50] = 1.0
    np.savez(tmp_path / "page.npz", x=ink)
    path = save_identity((1, 1, 40, 60), tmp_path / "detector.onnx")
    with opened(path, tmp_path / "out", calibration=str(tmp_path), metric="map") as job:
        erased = ink * (np.arange(40) < 25)[:, None]
        assert job.evaluate(job.shared.original.run) == 1.0
        assert job.evaluate(lambda feeds: {"y": erased}) == pytest.approx(2 / 3)
        assert job.evaluate(lambda feeds: {"y": np.full_like(ink, np.nan)}) == 0.0
        assert job.shared.evaluation_json()["kind"] == "agreement"


def test_map_of_pages_without_a_box_is_refused(tmp_path: Path) -> None:
    """Where the original finds nothing there is nothing to agree with."""
    np.savez(tmp_path / "page.npz", x=np.zeros((1, 1, 8, 8), np.float32))
    path = save_identity((1, 1, 8, 8), tmp_path / "detector.onnx")
    asked_for = {"calibration": str(tmp_path), "metric": "map"}
    with opened(path, tmp_path / "out", **asked_for) as job, pytest.raises(BadInput, match="finds no box in 1 samples"):
        job.evaluate(job.shared.original.run)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("top5", "4 classes, so the first five are all"),
        ("cer", "needs a model that reads text"),
        ("wer", "needs a model that reads text"),
        ("map", "needs one map of probabilities.*'y' \\[1, 4\\]"),
    ],
)
def test_metric_that_does_not_fit_the_outputs_is_refused(files: Files, tmp_path: Path, metric: str, said: str) -> None:
    """Before any work on the graph, with what the outputs are."""
    error = refusal(files.model, tmp_path, **asked(files, metric=metric))
    assert re.search(said, error.message)


@pytest.mark.parametrize(
    ("metric", "said"), [("top1", "none of its outputs is a row of classes"), ("top1_agreement", "two or more classes")]
)
def test_classes_of_a_model_without_them_are_refused(tmp_path: Path, metric: str, said: str) -> None:
    """One number is no class."""
    for number in range(2):
        np.savez(tmp_path / f"{number}.npz", x=np.float32([[number]]))
    (tmp_path / "labels.json").write_text('{"0.npz": 0}', encoding="utf-8")
    given = {"calibration": str(tmp_path), "metric": metric}
    given |= {"labels": tmp_path / "labels.json"} if metric == "top1" else {}
    error = refusal(save_identity((1, 1), tmp_path / "one.onnx"), tmp_path / "out", **given)
    assert re.search(said, error.message)


def test_requests_that_contradict_themselves_are_refused(files: Files, tmp_path: Path) -> None:
    """Two judges, or answers that are not there: each is an error that says what to leave away or to add."""
    contradictions = [
        ({"labels": files.labels, "evaluate": "a:b"}, "--labels and --evaluate", "give one"),
        ({"metric": "cosine", "evaluate": "a:b"}, "--metric cosine and --evaluate", "leave --metric away"),
        ({"metric": "top1"}, "needs the right answers", "--metric top1_agreement"),
        ({"metric": "wer"}, "needs the right answers", "--labels FILE"),
        ({"metric": "spaerman"}, "unknown metric 'spaerman'", "'spearman'"),
    ]
    for given, said, remedy in contradictions:
        with pytest.raises(UsageError, match=said) as caught:
            converted(files, tmp_path / "out", **given)
        assert remedy in caught.value.remedy
        assert not (tmp_path / "out").exists()


def test_convert_with_labels_says_what_was_judged(files: Files, tmp_path: Path) -> None:
    """The metric, over how many files, their list's digest and the original's own score are in JSON and bundle."""
    conversion = converted(files, tmp_path / "out", labels=files.labels)
    (bundle,) = conversion.bundles
    assert isinstance(bundle, BundleReport), bundle
    said = conversion.to_json()["evaluation"]
    assert (said["metric"], said["kind"], said["samples"], said["original"]) == ("top1", "labels", SCORED, 0.95)
    assert said["note"] == "accuracy on labelled files"
    opened_bundle = open_bundle(bundle.path)
    recipe = opened_bundle.manifest.recipe
    assert recipe["metric"] == "top1"
    assert recipe["evaluation"] == {"kind": "labels", "samples": SCORED, "digest": said["digest"]}
    measured = opened_bundle.measurements()
    assert measured["evaluation"] == said
    assert all(
        one.gate is None or one.gate * SCORED == pytest.approx(round(one.gate * SCORED)) for one in bundle.candidates
    )
    assert "Judged by top1 over 20 samples" in conversion.report.read_text(encoding="utf-8")
