"""What a model is for, as JSON: written short, read back equal, and refused where a key or word makes no sense."""

import pytest

from edgert import strict_json
from edgert.errors import BadInput
from edgert.task import AudioSpec, GenerateSpec, Task, TextSpec

SPEECH = Task(
    "speech-to-text",
    "hidden",
    text=TextSpec("tokenizer.json", 448, ids=""),
    audio=AudioSpec("features", "log-mel", 16000, 30.0, n_fft=400, hop=160, mels=80),
    generate=GenerateSpec(
        "decoder",
        "ids",
        "logits",
        prompt=(50257, 50362),
        end=(50256,),
        max_tokens=448,
        cross={"k0": "k0", "v0": "v0"},
        cache={"past": "present"},
        suppress=(1, 2),
        suppress_first=(220,),
    ),
)
EMBED = Task(
    "sentence-embedding", "embedding", text=TextSpec("tokenizer.json", 256, "input_ids", "attention_mask", "types")
)
SOUND = Task(
    "audio-classification", "logits", "labels.json", "sigmoid", audio=AudioSpec("x", "waveform", 8000, normalise=True)
)


@pytest.mark.parametrize("task", [SPEECH, EMBED, SOUND, Task("feature-extraction", "y")], ids=lambda task: task.kind)
def test_task_through_json_is_the_same(task: Task) -> None:
    """What a manifest holds is read back as it was."""
    assert Task.from_json(strict_json.loads(strict_json.dumps(task.to_json()), "test")) == task


def test_task_to_json_leaves_defaults_out() -> None:
    """A short task is a short document, so that equal tasks are equal bytes."""
    assert Task("feature-extraction", "y").to_json() == {"kind": "feature-extraction", "output": "y"}
    assert SOUND.to_json()["audio"] == {
        "input": "x",
        "features": "waveform",
        "sample_rate": 8000,
        "normalise": True,
    }


def test_task_with_empty_names_counts_them_as_absent() -> None:
    """An exporter may write "" for an input that there is not."""
    text = {"tokenizer": "t.json", "max_tokens": 9, "ids": "i", "mask": "", "types": ""}
    assert Task.from_json({"kind": "sentence-embedding", "output": "y", "labels": "", "text": text}).text == TextSpec(
        "t.json", 9, "i"
    )


def changed(task: Task, section: str, **changes: object) -> dict[str, object]:
    """Return the JSON of a task with changes in one section, "" for the top level; None takes a key away."""
    document = task.to_json()
    target = document[section] if section else document
    assert isinstance(target, dict)
    target.update(changes)
    for key, value in changes.items():
        if value is None:
            del target[key]
    return document


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([], "a list, an object is expected"),
        ({}, "'kind' is missing"),
        (changed(EMBED, "", kind="sentence-embeding"), "did you mean 'sentence-embedding'"),
        (changed(EMBED, "", scores="soft"), "'soft'"),
        (changed(EMBED, "", output=3), "'output' is a number"),
        (changed(EMBED, "", labels="../labels.json"), "'../labels.json'"),
        (changed(EMBED, "", lables="labels.json"), "'lables' is not known"),
        (changed(EMBED, "", text=[]), "'text' is a list"),
        (changed(EMBED, "text", tokenizer="/etc/passwd"), "'/etc/passwd'"),
        (changed(EMBED, "text", max_tokens=0), "'max_tokens' is 0"),
        (changed(EMBED, "text", max_tokens=True), "a boolean, a whole number"),
        (changed(EMBED, "text", lower=True), "'lower' is not known"),
        (changed(SOUND, "audio", features="mfcc"), "'mfcc'"),
        (changed(SOUND, "audio", sample_rate=10**9), "'sample_rate'"),
        (changed(SOUND, "audio", seconds=-1), "'seconds' is out of range"),
        (changed(SOUND, "audio", normalise=1), "true or false"),
        (changed(SOUND, "audio", features="log-mel"), "needs n_fft"),
        (changed(SPEECH, "generate", end=[]), "'end' is empty"),
        (changed(SPEECH, "generate", prompt=[-1]), "'prompt'[0] is -1"),
        (changed(SPEECH, "generate", max_tokens=2), "'prompt' has 2 tokens, max_tokens is 2"),
        (changed(SPEECH, "generate", cross=["a"]), "'cross' is a list"),
        (changed(SPEECH, "generate", beams=5), "'beams' is not known"),
        (changed(SPEECH, "", generate=None), "needs audio, text and generate"),
        (changed(SPEECH, "", kind="feature-extraction"), "'generate' is there"),
    ],
)
def test_task_from_a_defective_document_is_bad_input(document: object, named: str) -> None:
    """The key is named with the document it is in, and a step that is not known is never left out."""
    with pytest.raises(BadInput) as caught:
        Task.from_json(document, "manifest.json 'task'")
    assert caught.value.message.startswith("manifest.json 'task'")
    assert named in caught.value.message
