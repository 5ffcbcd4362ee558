"""A part is a bundle in the bundle: opened when asked for, as the outer one was, vouched for by it, closed with it."""

import threading
from pathlib import Path

import numpy as np
import pytest

from edgert import cli
from edgert.errors import MissingDevice, UsageError, VerificationFailed
from edgert.runtime.model import Model, load
from edgert.signature import generate_key, sign_bundle
from edgert.task import Task
from tests.bundle_files import read_manifest
from tests.runtime.task_files import (
    SPEECH,
    VOCABULARY,
    encoder,
    mean_color,
    save_wav,
    write_speech_bundle,
    write_task_bundle,
)

FEEDS = {
    "ids": np.array([[2]]),
    "hint": np.zeros((1, VOCABULARY), np.float32),
    "past": np.zeros((1, 0, 1), np.float32),
}


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Return a bundle of speech to text with the part `decoder`."""
    return write_speech_bundle(tmp_path)


def test_part_runs_like_any_model(speech: Path) -> None:
    """It has its own inputs and its own explanation, and is opened once."""
    with load(speech, threads=1) as model:
        part = model.part("decoder")
        assert part.run(FEEDS)["logits"].shape == (1, 1, VOCABULARY)
        assert [spec.name for spec in part.inputs] == ["ids", "hint", "past"]
        assert part.explain()["golden"]["checked"] == 1
        assert part.explain()["threads"] == 1
        assert model.part("decoder") is part


def test_part_asked_for_by_several_threads_is_opened_once(speech: Path) -> None:
    """All threads get the same model."""
    with load(speech) as model:
        found: list[Model] = []
        threads = [threading.Thread(target=lambda: found.append(model.part("decoder"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(part) for part in found}) == 1
        assert len(found) == 8


def test_part_closes_with_its_model(speech: Path) -> None:
    """Neither runs afterwards, and no part is opened any more."""
    model = load(speech)
    part = model.part("decoder")
    model.close()
    with pytest.raises(UsageError, match="closed"):
        part.run(FEEDS)
    with pytest.raises(UsageError, match="closed"):
        model.part("decoder")


def test_part_that_is_not_there_is_a_usage_error(speech: Path) -> None:
    """The parts that there are are named."""
    with load(speech) as model, pytest.raises(UsageError, match="no part 'encoder'") as caught:
        model.part("encoder")
    assert "decoder" in caught.value.remedy


def test_part_of_a_folder_bundle_runs(speech: Path, tmp_path: Path) -> None:
    """The folder form holds the part as the same file."""
    staging = tmp_path / "speech.edgert-staging"
    assert (staging / "decoder.edgert").is_file()
    folder = write_task_bundle(
        tmp_path / "folder",
        encoder(),
        files={"decoder.edgert": speech.with_name("decoder.edgert").read_bytes()},
        parts={"decoder": "decoder.edgert"},
    )
    assert read_manifest(folder)["parts"] == {"decoder": "decoder.edgert"}
    with load(folder) as model:
        assert model.part("decoder").run(FEEDS)["logits"].shape == (1, 1, VOCABULARY)


def test_part_is_as_strict_as_its_model(speech: Path) -> None:
    """A part that is only for the CPU does not run in place of one on the NPU where fallbacks are refused."""
    with load(speech, device="npu") as model:
        assert model.part("decoder").explain()["fallback"]["from"] == "npu"
    with pytest.raises(MissingDevice):
        load(speech, device="npu", strict=True)


def test_part_needs_no_signature_of_its_own(speech: Path, tmp_path: Path) -> None:
    """The signature of the outer bundle covers the digest of the inner one."""
    generate_key(tmp_path / "key", tmp_path / "key.pub")
    sign_bundle(speech, tmp_path / "key")
    with load(speech, trusted_keys=[tmp_path / "key.pub"]) as model:
        assert model.part("decoder").run(FEEDS)


def test_part_with_one_byte_changed_is_refused_with_the_whole(speech: Path, tmp_path: Path) -> None:
    """What the outer manifest says of the inner file is checked before anything is opened."""
    folder = write_task_bundle(
        tmp_path / "folder",
        encoder(),
        files={"decoder.edgert": speech.with_name("decoder.edgert").read_bytes()},
        parts={"decoder": "decoder.edgert"},
    )
    data = bytearray((folder / "decoder.edgert").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "decoder.edgert").write_bytes(data)
    with pytest.raises(VerificationFailed, match=r"decoder\.edgert"):
        load(folder)


def test_part_that_is_no_bundle_is_refused_when_asked_for(tmp_path: Path) -> None:
    """The outer bundle vouches for bytes, not for what they mean."""
    bundle = write_task_bundle(
        tmp_path / "b.edgert",
        encoder(),
        files={"decoder.edgert": b"PK\x03\x04 and no more"},
        parts={"decoder": "decoder.edgert"},
    )
    with load(bundle) as model, pytest.raises(VerificationFailed):
        model.part("decoder")


def test_part_that_is_another_model_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A decoder that does not take what the task feeds is refused before it runs."""
    part = write_task_bundle(tmp_path / "decoder.edgert", mean_color(), Task("feature-extraction", "scores"))
    bundle = write_task_bundle(
        tmp_path / "b.edgert",
        encoder(),
        SPEECH,
        {"decoder.edgert": part.read_bytes()},
        parts={"decoder": "decoder.edgert"},
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", str(bundle), str(save_wav(tmp_path / "x.wav", np.zeros(100), 16000))])
    assert ended.value.code == 1
    assert "decoder's input 'hint'" in capsys.readouterr().err


def test_inspect_shows_task_and_parts(capsys: pytest.CaptureFixture[str], speech: Path) -> None:
    """Each step has a line."""
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(speech)])
    lines = capsys.readouterr().out.splitlines()
    assert "task speech-to-text: output hint" in lines
    assert "text by tokenizer.json" in lines
    assert "sound into features: 16000 Hz, 80 log-mel bands, 1 s" in lines
    assert "tokens from the part decoder, at most 6" in lines
    assert "part decoder: decoder.edgert" in lines
