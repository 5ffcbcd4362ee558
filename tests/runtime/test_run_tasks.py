"""`edgert run` on texts, pictures and sounds says what the model says, in words and as JSON."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgert import cli
from edgert.task import AudioSpec, Task, TextSpec
from tests.runtime.task_files import (
    embedder,
    loudness,
    mean_color,
    opinion,
    save_wav,
    write_speech_bundle,
    write_task_bundle,
)

TEXT = TextSpec("tokenizer.json", 16, "input_ids", "attention_mask")
EMBED = Task("sentence-embedding", "embedding", text=TEXT)
COLORS = {"labels.json": b'["red", "green", "blue"]'}


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command line; return its exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", *(str(argument) for argument in arguments)])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    """Return the member `answer` of the JSON document."""
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)["answer"]


@pytest.fixture
def embed(tmp_path: Path) -> Path:
    """Return a bundle that embeds sentences."""
    return write_task_bundle(tmp_path / "embed.edgert", embedder(), EMBED)


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    """Return a bundle that names the colour of pictures, with `red.png` and `blue.png` beside it."""
    for name, pixel in (("red", (255, 20, 10)), ("blue", (0, 30, 200))):
        Image.new("RGB", (9, 7), pixel).save(tmp_path / f"{name}.png")
    task = Task("image-classification", "scores", labels="labels.json")
    return write_task_bundle(tmp_path / "colors.edgert", mean_color(), task, COLORS)


def test_run_two_texts_prints_one_cosine(capsys: pytest.CaptureFixture[str], embed: Path) -> None:
    """The last line is the cosine of the two, and the first still says what ran."""
    code, out, err = call(capsys, embed, "--text", "the dog sat", "--text", "the cat sat")
    assert code == 0, err
    assert out.startswith("fp32 on CPUExecutionProvider (")
    shown = out.splitlines()[-1].removeprefix("cosine similarity ")
    found = answer(capsys, embed, "--text", "the dog sat", "--text", "the cat sat")
    assert found["cosine"][0][1] == pytest.approx(float(shown), abs=1e-4)
    assert found["inputs"] == ["the dog sat", "the cat sat"]
    assert 0.3 < float(shown) < 0.99


def test_run_text_does_not_depend_on_the_texts_beside_it(capsys: pytest.CaptureFixture[str], embed: Path) -> None:
    """A short text padded to a long one has the same embedding as in a batch with another one."""
    short, other, long = "dog", "cat", "the " * 12
    alone = answer(capsys, embed, "--text", short, "--text", other)["cosine"][0][1]
    beside = answer(capsys, embed, "--text", short, "--text", other, "--text", long)["cosine"][0][1]
    assert alone == pytest.approx(beside, abs=1e-6)


def test_run_three_texts_prints_a_row_for_each_pair(capsys: pytest.CaptureFixture[str], embed: Path) -> None:
    """The pairs are named by their texts."""
    _, out, _ = call(capsys, embed, "--text", "dog", "--text", "cat", "--text", "mat")
    rows = [line.split()[1:] for line in out.splitlines()[-3:]]
    assert rows == [["dog", "cat"], ["dog", "mat"], ["cat", "mat"]]


def test_run_one_text_prints_the_outputs(capsys: pytest.CaptureFixture[str], embed: Path) -> None:
    """One embedding alone is not similar to anything."""
    _, out, _ = call(capsys, embed, "--text", "dog")
    assert "embedding  [1, 8]  float32" in out
    assert answer(capsys, embed, "--text", "dog") is None


def test_run_texts_on_a_fixed_batch_runs_one_by_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A model for one text of 6 tokens gives what the free one gives."""
    texts = ["--text", "the dog sat", "--text", "cat"]
    free = write_task_bundle(tmp_path / "free.edgert", embedder(), EMBED)
    fixed = write_task_bundle(tmp_path / "fixed.edgert", embedder(1, 6), EMBED)
    code, out, err = call(capsys, fixed, *texts, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["runs"] == 2
    assert document["outputs"]["embedding"]["shape"] == [2, 8]
    cosine = answer(capsys, free, *texts)["cosine"][0][1]
    assert document["answer"]["cosine"][0][1] == pytest.approx(cosine, abs=1e-6)


def test_run_picture_prints_class_names(capsys: pytest.CaptureFixture[str], colors: Path) -> None:
    """The likeliest name comes first, with its probability."""
    code, out, err = call(capsys, colors, colors.with_name("red.png"))
    assert code == 0, err
    assert [line.split() for line in out.splitlines()[-3:]] == [
        ["1.0000", "red"],
        ["0.0784", "green"],
        ["0.0392", "blue"],
    ]
    items = answer(capsys, colors, "--input", colors.with_name("red.png"))["items"]
    assert items[0]["label"] == "red"
    assert items[0]["classes"][0] == {"label": "red", "index": 0, "probability": 1.0}


def test_run_several_pictures_names_each(capsys: pytest.CaptureFixture[str], colors: Path, tmp_path: Path) -> None:
    """Each picture has its own lines, and the outputs are joined."""
    pictures = [colors.with_name("red.png"), colors.with_name("blue.png")]
    _, out, _ = call(capsys, colors, *pictures, "--output", tmp_path / "out.npz")
    lines = out.splitlines()
    assert "for 2 runs" in lines[1]
    assert [line.split()[-1] for line in lines[3:10:4]] == ["red", "blue"]
    assert lines[2].endswith("red.png:")
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["scores"].shape == (2, 3)


def test_run_array_on_a_task_has_an_answer(capsys: pytest.CaptureFixture[str], colors: Path, tmp_path: Path) -> None:
    """What the outputs mean does not depend on where the inputs come from."""
    np.save(tmp_path / "x.npy", np.full((1, 3, 4, 4), 0.5, np.float32))
    found = answer(capsys, colors, "--input", f"x={tmp_path / 'x.npy'}")
    assert found["inputs"] == []
    assert found["items"][0]["classes"][2]["probability"] == 0.5


def test_run_named_picture_is_for_that_input(capsys: pytest.CaptureFixture[str], colors: Path) -> None:
    """NAME=PICTURE works with a task as it does without."""
    found = answer(capsys, colors, "--input", f"x={colors.with_name('blue.png')}")
    assert found["items"][0]["label"] == "blue"


def test_run_sound_cuts_pads_and_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Sound at another rate fills the input; what does not fit is told on stderr."""
    task = Task("audio-classification", "scores", audio=AudioSpec("wave", "waveform", 8000))
    bundle = write_task_bundle(tmp_path / "loud.edgert", loudness(), task)
    short = save_wav(tmp_path / "short.wav", np.full(100, 0.5), 16000)  # 50 samples at 8 kHz, then zeros
    found = answer(capsys, bundle, short)["items"][0]
    scores = {entry["index"]: entry["probability"] for entry in found["classes"]}
    assert scores[0] == pytest.approx(0.5, abs=0.1)
    assert scores[1] == pytest.approx(0.25, abs=0.02)
    assert not caplog.records
    long = save_wav(tmp_path / "long.wav", np.full(8000, 0.5), 8000)
    code, _, err = call(capsys, bundle, long)
    assert code == 0
    assert "only its beginning is used" in err + caplog.text


def test_run_speech_prints_the_transcript(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Prompt, cache, hint and end work together: the decoder says its script."""
    bundle = write_speech_bundle(tmp_path)
    silence = save_wav(tmp_path / "silence.wav", np.zeros(8000), 16000)
    code, out, err = call(capsys, bundle, silence)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("fp32 on CPUExecutionProvider")
    assert lines[1].startswith("decoder: fp32 on CPUExecutionProvider")
    assert lines[-1] == "the dog cat"
    document = json.loads(call(capsys, bundle, silence, "--json")[1])
    assert document["answer"] == {
        "kind": "speech-to-text",
        "items": [{"transcript": "the dog cat"}],
        "inputs": [str(silence)],
    }
    assert document["parts"]["decoder"]["variant"] == "fp32"


def test_run_long_speech_joins_its_windows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A second of sound, one of silence and a rest too short to say anything are two runs and one transcript."""
    wave = np.concatenate([0.5 * np.sin(np.arange(16000)), np.zeros(16000), np.zeros(100)])
    bundle, clip = write_speech_bundle(tmp_path), save_wav(tmp_path / "clip.wav", wave, 16000)
    document = json.loads(call(capsys, bundle, clip, clip, "--json")[1])
    assert document["runs"] == 4
    assert [item["transcript"] for item in document["answer"]["items"]] == ["cat dog cat the dog cat"] * 2


def test_run_text_input_prints_label_and_probabilities(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A model that takes text itself gets it from --text and from NAME=TEXT alike."""
    task = Task("classification", "probabilities", labels="labels.json")
    bundle = write_task_bundle(tmp_path / "o.edgert", opinion(), task, {"labels.json": b'["no", "yes"]'})
    by_name = answer(capsys, bundle, "--input", "text=bad")["items"]
    assert (by_name[0]["label"], by_name[0]["classes"][0]["label"]) == ("-", "no")
    texts = answer(capsys, bundle, "--text", "good", "--text", "bad")["items"]
    assert [item["label"] for item in texts] == ["+", "-"]
    assert texts[1] == by_name[0]
    _, out, _ = call(capsys, bundle, "text=good")
    assert [line.split() for line in out.splitlines()[-3:]] == [["label", "+"], ["0.9000", "yes"], ["0.1000", "no"]]


def test_run_text_without_a_task_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It is no use to guess how text becomes numbers."""
    bundle = write_task_bundle(tmp_path / "plain.edgert", embedder())
    code, _, err = call(capsys, bundle, "--text", "a dog")
    assert code == 2
    assert "declares no task" in err
    assert "remedy:" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing is given"),
        (["--text", "a"], "cannot take text"),
        (["--text", "a", "red.png"], "given together"),
        (["red.png", "x=red.png"], "given twice"),
        (["none.png"], "none.png"),
        (["clip.wav"], "clip.wav"),
    ],
)
def test_run_on_what_a_task_does_not_take_ends_with_2(
    capsys: pytest.CaptureFixture[str], colors: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    """What is given is named, with what to do."""
    monkeypatch.chdir(colors.parent)
    code, _, err = call(capsys, colors, *arguments)
    assert (code, words in err, "remedy:" in err) == (2, True, True), err


def test_run_on_arrays_imports_neither_tokenizers_nor_pictures_nor_sound(tmp_path: Path) -> None:
    """A device without the extras runs a bundle, task or not; a framework is never near."""
    task = Task("audio-classification", "scores", audio=AudioSpec("wave", "waveform", 8000))
    bundle = write_task_bundle(tmp_path / "loud.edgert", loudness(), task)
    np.save(tmp_path / "x.npy", np.zeros((1, 100), np.float32))
    script = (
        "import sys; from edgert import cli\n"
        "try: cli.main(['run', sys.argv[1], sys.argv[2]])\n"
        "except SystemExit as ended: assert not ended.code\n"
        "names = 'tokenizers soundfile PIL torch transformers tensorflow sklearn onnx'\n"
        "print([name for name in names.split() if name in sys.modules])"
    )
    command = [sys.executable, "-c", script, str(bundle), str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_run_label_file_that_is_no_list_is_refused(capsys: pytest.CaptureFixture[str], colors: Path) -> None:
    """A bundle whose class names are broken is named as such."""
    task = Task("image-classification", "scores", labels="labels.json")
    bundle = write_task_bundle(colors.with_name("bad.edgert"), mean_color(), task, {"labels.json": b'{"0": "red"}'})
    code, _, err = call(capsys, bundle, colors.with_name("red.png"))
    assert (code, "labels.json" in err) == (1, True)


def test_run_label_that_steers_a_terminal_is_refused(capsys: pytest.CaptureFixture[str], colors: Path) -> None:
    """An escape sequence in a class name never reaches the screen."""
    task = Task("image-classification", "scores", labels="labels.json")
    evil = json.dumps(["\x1b[2Jred", "green", "blue"]).encode()
    bundle = write_task_bundle(colors.with_name("evil.edgert"), mean_color(), task, {"labels.json": evil})
    code, out, err = call(capsys, bundle, colors.with_name("red.png"))
    assert code == 1
    assert "\x1b[2J" not in out + err
