"""The manifest: what is written is read back, and what cannot be used is named by its key."""

import dataclasses
import json
from pathlib import Path

import pytest

from edgert.errors import BadInput
from edgert.image_spec import ImageSpec
from edgert.json_fields import flat_name, name_defect
from edgert.manifest import FileEntry, Manifest, TensorSpec, manifest_bytes, parse_manifest
from edgert.task import AudioSpec, GenerateSpec, Task, TextSpec
from tests.bundle_files import BUNDLE_FILES, small_manifest

SAMPLES = Path(__file__).parent / "samples"


def complete(**changes: object) -> Manifest:
    """Return a manifest with its file list."""
    files = tuple(FileEntry(name, 10, "ab" * 32) for name in BUNDLE_FILES)
    return small_manifest(**{"files": files, **changes})


def document(**changes: object) -> dict[str, object]:
    """Return a manifest as plain JSON, with `changes` at the top level."""
    return {**json.loads(manifest_bytes(complete())), **changes}


def parse(value: object) -> Manifest:
    return parse_manifest(json.dumps(value).encode())


def test_manifest_written_and_parsed_is_equal() -> None:
    """Every field survives, free dimensions and image rules among them."""
    image = ImageSpec(color="bgr", mean=(127.5,), std=(127.5,), resize="pad")
    manifest = complete(inputs=(TensorSpec("x", "float32", (1, 3, 48, "width"), image),))
    assert parse_manifest(manifest_bytes(manifest)) == manifest


def test_manifest_bytes_do_not_depend_on_the_order_of_keys() -> None:
    """Two manifests that are equal have the same bytes, and so the same digest."""
    one = complete(recipe={"a": 1, "b": {"c": 2, "d": 3}})
    other = complete(recipe={"b": {"d": 3, "c": 2}, "a": 1})
    assert manifest_bytes(one) == manifest_bytes(other)


def test_manifest_unknown_keys_are_kept_at_every_level() -> None:
    """What a newer edgert adds is still there when this one writes the manifest again."""
    newer = document(later={"x": [1]})
    for key in ("inputs", "outputs", "files", "variants", "placements"):
        entries = newer[key]
        assert isinstance(entries, list)
        entries[0]["later"] = key
    golden = newer["golden"]
    assert isinstance(golden, dict)
    golden["later"] = True
    parsed = parse(newer)
    assert parsed.unknown == {"later": {"x": [1]}}
    assert json.loads(manifest_bytes(parsed)) == newer


def test_manifest_unknown_schema_version_says_which_is_understood() -> None:
    """The error names both versions and says to upgrade."""
    with pytest.raises(BadInput, match="schema_version 2; this edgert understands 1") as caught:
        parse(document(schema_version=2))
    assert "upgrade" in caught.value.remedy


@pytest.mark.parametrize("key", sorted(set(json.loads(manifest_bytes(complete()))) - {"unknown"}))
def test_manifest_missing_key_is_named(key: str) -> None:
    """Of the keys at the top level only `task` and `parts` are optional."""
    incomplete = document()
    del incomplete[key]
    with pytest.raises(BadInput, match=f"'{key}' is missing"):
        parse(incomplete)


@pytest.mark.parametrize("key", sorted(json.loads(manifest_bytes(complete()))))
def test_manifest_wrong_type_is_named(key: str) -> None:
    """A boolean is right nowhere, and never counts as a number."""
    with pytest.raises(BadInput, match=rf"'{key}'.* is a boolean"):
        parse(document(**{key: True}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chosen": "int8"}, "variant 'int8'"),
        ({"reference": "other.json"}, "file 'other.json'"),
        ({"variants": []}, "'variants' is empty"),
        ({"variants": document()["variants"] * 2}, "'fp32' twice"),  # type: ignore[operator]
        ({"files": document()["files"] * 2}, "twice"),  # type: ignore[operator]
        ({"golden": {"file": "golden.npz", "count": 0, "min_cosine": {}}}, "1 to 10000"),
        ({"golden": {"file": "golden.npz", "count": 1, "min_cosine": {"fp32": 2}}}, "out of range"),
        ({"golden": {"file": "golden.npz", "count": 1, "min_cosine": {"x": 1}}}, "variant 'x'"),
        ({"inputs": [{"name": "x", "dtype": "float32", "shape": [-1]}]}, "0 to"),
        ({"inputs": [{"name": "x", "dtype": "float32", "shape": [1.5]}]}, "whole number"),
        ({"inputs": [{"name": "x", "dtype": "float32", "shape": [1], "image": {"mean": "x"}}]}, "mean"),
        ({"version": "1 0"}, "version"),
        ({"license": ""}, "'license' has 0 characters"),
        ({"name": "a\u202eb"}, "invisible"),
        ({"profile": "X86"}, "a-z 0-9"),
    ],
)
def test_manifest_contradiction_is_refused_with_its_key(changes: dict[str, object], message: str) -> None:
    """Each defect is found and named."""
    with pytest.raises(BadInput, match=message):
        parse(document(**changes))


def test_manifest_without_a_cpu_placement_is_refused() -> None:
    """A bundle always holds a way to run on the CPU."""
    manifest = complete()
    npu_only = dataclasses.replace(manifest, placements=manifest.placements[:1])
    with pytest.raises(BadInput, match="none for the CPU"):
        parse_manifest(manifest_bytes(npu_only))


def test_manifest_of_version_1_is_still_read() -> None:
    """The sample was written by the first version; it stays readable, to the byte."""
    data = (SAMPLES / "manifest-1.json").read_bytes()
    assert manifest_bytes(parse_manifest(data)) == data


@pytest.mark.parametrize("text", ["PP-OCRv4_rec.onnx", "", "...", "con", "日本", "a" * 300, "Ünïcode name!"])
def test_flat_name_of_any_text_is_flat(text: str) -> None:
    """Whatever a model is called, a bundle can be named after it."""
    assert name_defect(flat_name(text)) is None


TASK = Task(
    "speech-to-text",
    "y",
    text=TextSpec("tokenizer.json", 448, ids=""),
    audio=AudioSpec("x", "log-mel", 16000, 30.0, n_fft=400, hop=160, mels=80),
    generate=GenerateSpec("decoder", "ids", "logits", (1,), (2,), 448, cross={"y": "y"}, cache={"past": "present"}),
)


def with_task(task: Task = TASK, **changes: object) -> dict[str, object]:
    """Return a manifest of a model with a task and a part as plain JSON."""
    names = (*BUNDLE_FILES, "tokenizer.json", "labels.json", "decoder.edgert")
    files = tuple(FileEntry(name, 10, "ab" * 32) for name in names)
    manifest = complete(files=files, task=task, parts={"decoder": "decoder.edgert"})
    return {**json.loads(manifest_bytes(manifest)), **changes}


def test_manifest_with_task_and_parts_is_read_back() -> None:
    """What the model is for and its further graphs survive."""
    manifest = parse(with_task())
    assert manifest.task == TASK
    assert manifest.parts == {"decoder": "decoder.edgert"}
    assert json.loads(manifest_bytes(manifest)) == with_task()


def test_manifest_without_task_and_parts_has_no_such_keys() -> None:
    """A manifest that an older edgert wrote keeps its bytes, and so its digest."""
    assert not {"task", "parts"} & set(document())
    sample = (SAMPLES / "manifest-1.json").read_bytes()
    assert manifest_bytes(parse_manifest(sample)) == sample


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (with_task(dataclasses.replace(TASK, output="z")), "'task' 'output' names 'z'; known: y"),
        (with_task(dataclasses.replace(TASK, labels="names.json")), "'names.json', which 'files' does not list"),
        (with_task(dataclasses.replace(TASK, text=TextSpec("t.json", 9, "x"))), "'t.json', which 'files'"),
        (with_task(dataclasses.replace(TASK, text=TextSpec("tokenizer.json", 9, "i"))), "'text' names 'i'; known: x"),
        (
            with_task(dataclasses.replace(TASK, audio=AudioSpec("wave", "waveform", 16000))),
            "'audio' names 'wave'; known: x",
        ),
        (with_task(parts={}), "'decoder' names 'decoder'; known: none"),
        (with_task(parts={"decoder": "other.edgert"}), "'other.edgert', which 'files' does not list"),
        (with_task(parts={"decoder": "fp32.onnx"}), "'fp32.onnx', which is not a .edgert file"),
        (with_task(parts={"../decoder": "decoder.edgert"}), "'../decoder'"),
        (with_task(parts=["decoder.edgert"]), "'parts' is a list"),
        ({**with_task(), "task": {"kind": "classification", "output": "y", "labels": "../l"}}, "'../l'"),
        ({**with_task(), "task": "classification"}, "'task' is a string"),
    ],
)
def test_manifest_with_a_task_that_names_what_is_not_there_is_refused(changed: dict[str, object], named: str) -> None:
    """Files, tensors and parts that a task needs are all in the bundle."""
    with pytest.raises(BadInput, match="manifest") as caught:
        parse(changed)
    assert named in caught.value.message
