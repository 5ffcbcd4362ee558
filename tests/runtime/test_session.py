"""A session runs the whole model on the provider that was asked for, or says why not."""

import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgert.errors import BadInput, UsageError
from edgert.runtime.providers import find_device
from edgert.runtime.session import NodeAssignment, NotAModel, RunFailed, Session, UnsupportedNodes
from tests.runtime.small_models import (
    CPU,
    image,
    present,
    save_add,
    save_conv_net,
    save_gather,
    save_identity_net,
    save_qdq_net,
    save_slow,
)

ONES = np.ones((3, 2), np.float32)


def test_session_on_the_cpu_equals_plain_onnxruntime(tmp_path: Path) -> None:
    """The outputs are those of a plain InferenceSession, bit for bit."""
    path = save_conv_net(tmp_path / "net.onnx")
    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with Session.open(path, CPU, threads=1) as session:
        assert np.array_equal(session.run({"x": image()})["y"], plain.run(["y"], {"x": image()})[0])


def test_session_describes_inputs_outputs_and_nodes(tmp_path: Path) -> None:
    """Free dimensions keep their name, and each node is listed with its provider."""
    with Session.open(save_add(tmp_path / "add.onnx"), CPU, threads=1) as session:
        assert [(spec.name, spec.dtype, spec.shape) for spec in session.inputs] == [
            ("left", "float32", ("n", 2)),
            ("right", "float32", ("n", 2)),
        ]
        assert [spec.name for spec in session.outputs] == ["sum"]
        assert session.nodes == {"CPUExecutionProvider": 1}
        assert session.assignments == (NodeAssignment("CPUExecutionProvider", "add", "Add", ""),)
        assert session.threads == 1


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({"left": ONES}, "input 'right' is missing"),
        ({"left": ONES, "rigth": ONES}, "no input 'rigth'; did you mean 'right'?"),
        ({"left": ONES, "right": ONES, "zzz": ONES}, "no input 'zzz'"),
        ({"left": ONES, "right": ONES.astype(np.float64)}, "'right' has dtype float64, float32 is expected"),
        ({"left": ONES, "right": ONES[0]}, "'right' has shape [2], [n, 2] is expected"),
        ({"left": ONES, "right": ONES[:, :1]}, "'right' has shape [3, 1], [n, 2] is expected"),
        ({"left": ONES, "right": None}, "'right' is NoneType, an array of float32 is expected"),
        ({"left": ONES, "right": "text"}, "'right' has shape [], [n, 2] is expected"),
        (None, "the inputs are NoneType"),
        ([ONES, ONES], "the inputs are list"),
    ],
)
def test_session_with_wrong_feeds_says_expected_and_seen(tmp_path: Path, feeds: object, words: str) -> None:
    """Feeds that do not fit are BadInput: the message holds what was seen, the remedy what the model takes."""
    with Session.open(save_add(tmp_path / "add.onnx"), CPU, threads=1) as session:
        with pytest.raises(BadInput) as caught:
            session.run(feeds)  # type: ignore[arg-type]
        assert words in caught.value.message
        assert "'left' float32 [n, 2]" in caught.value.remedy
        assert caught.value.__cause__ is not None
        assert session.run({"left": ONES, "right": ONES})["sum"][0, 0] == 2.0


def test_session_with_fitting_feeds_that_fail_keeps_the_cause(tmp_path: Path) -> None:
    """A run that fails inside ONNX Runtime is RunFailed with ONNX Runtime's own error as its cause."""
    with Session.open(save_gather(tmp_path / "gather.onnx"), CPU, threads=1) as session:
        with pytest.raises(RunFailed, match="indices element out of data bounds") as caught:
            session.run({"index": np.array([99])})
        assert type(caught.value.__cause__).__module__.startswith("onnxruntime")


def test_session_after_close_refuses_to_run(tmp_path: Path) -> None:
    """Running a closed session is a UsageError, and closing it twice is harmless."""
    session = Session.open(save_add(tmp_path / "add.onnx"), CPU, threads=1)
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run({"left": ONES, "right": ONES})


def test_session_closed_during_a_run_lets_it_end(tmp_path: Path) -> None:
    """`close` in another thread takes the model away only after the run that is under way."""
    session = Session.open(save_slow(tmp_path / "slow.onnx"), CPU, threads=1)
    x = np.eye(256, dtype=np.float32)
    results: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: results.append(session.run({"x": x})["y"]))
    thread.start()
    time.sleep(0.005)
    session.close()
    thread.join()
    assert results[0].shape == (256, 256)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "does ?n.t exist"), (b"hello" * 99, "Protobuf"), (b"", "cannot be loaded")]
)
def test_session_of_no_model_is_bad_input(tmp_path: Path, content: bytes | None, words: str) -> None:
    """A file that is absent, empty or not ONNX is BadInput that names it."""
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=words) as caught:
        Session.open(path, CPU)
    assert "broken.onnx" in caught.value.message


def test_session_with_negative_threads_is_a_usage_error(tmp_path: Path) -> None:
    """A negative number of threads is refused, not repaired."""
    with pytest.raises(UsageError, match="-1"):
        Session.open(save_add(tmp_path / "add.onnx"), CPU, threads=-1)


def test_session_writes_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Errors come as exceptions; stdout and stderr stay empty, also below Python."""
    with Session.open(save_gather(tmp_path / "gather.onnx"), CPU, threads=1) as session, pytest.raises(RunFailed):
        session.run({"index": np.array([99])})
    assert capfd.readouterr() == ("", "")


def test_session_on_the_htp_emulator_takes_the_whole_qdq_net(tmp_path: Path) -> None:
    """A QDQ net runs with no node on the CPU, the outermost QuantizeLinear included, near its float original."""
    device = present(find_device("QNNExecutionProvider"), pytest.skip)
    with Session.open(save_identity_net(tmp_path / "float.onnx"), CPU, threads=1) as session:
        expected = session.run({"x": image()})["y"]
    with Session.open(save_qdq_net(tmp_path / "qdq.onnx"), device, threads=1) as session:
        assert set(session.nodes) == {"QNNExecutionProvider"}
        assert sum(node.op_type == "Conv" for node in session.assignments) == 3
        assert np.abs(session.run({"x": image()})["y"] - expected).max() < 0.15


def test_session_on_the_htp_emulator_names_refused_nodes(tmp_path: Path) -> None:
    """A node that the HTP does not know is named in the message and listed first among the refused ones."""
    device = present(find_device("QNNExecutionProvider"), pytest.skip)
    path = save_qdq_net(tmp_path / "erf.onnx", refused="Erf")
    with pytest.raises(UnsupportedNodes, match=r"'refuse_me' \(Erf\)") as caught:
        Session.open(path, device, threads=1)
    assert caught.value.refused[0].name == "refuse_me"
    assert caught.value.nodes["QNNExecutionProvider"] > 0
    with Session.open(path, device, threads=1, allow_cpu_nodes=True) as session:
        assert session.nodes["CPUExecutionProvider"] == len(caught.value.refused)


def test_session_on_the_software_gpu_equals_the_cpu(tmp_path: Path) -> None:
    """A float net runs whole on WebGPU and gives the CPU's numbers to single precision."""
    device = present(find_device("WebGpuExecutionProvider"), pytest.skip)
    path = save_conv_net(tmp_path / "net.onnx")
    with Session.open(path, CPU, threads=1) as session:
        expected = session.run({"x": image()})["y"]
    with Session.open(path, device, threads=1) as session:
        assert set(session.nodes) == {"WebGpuExecutionProvider"}
        np.testing.assert_allclose(session.run({"x": image()})["y"], expected, atol=1e-4)


def test_session_of_a_path_that_is_not_utf8_is_bad_input(tmp_path: Path) -> None:
    """ONNX Runtime takes no such path; the message says so and can be printed."""
    with pytest.raises(BadInput, match="is not valid UTF-8") as caught:
        Session.open(tmp_path / "net\udcff.onnx", CPU)
    assert not isinstance(caught.value, NotAModel)
    caught.value.message.encode("ascii")
