"""Inputs over HTTP: each is answered with its own outputs; what is hostile, slow, too large or too much is refused."""

import http.client
import io
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from edgert.agent.http_input import HttpInput
from edgert.agent.http_listener import SPARE_CONNECTIONS
from edgert.agent.input_config import HttpConfig
from edgert.agent.inputs import Reader
from edgert.errors import BadInput
from tests.agent.running import (
    SOUND,
    color_preparer,
    lines,
    process,
    running,
    sound_preparer,
    wait_for,
    write_config,
)
from tests.link.brokers import free_port
from tests.runtime.task_files import loudness, mean_color

Answer = tuple[int, dict[str, str], bytes]


def ask(
    port: int, body: bytes = b"", path: str = "/infer", method: str = "POST", headers: dict[str, str] | None = None
) -> Answer:
    """Send one request and return the status, the headers and the body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def raw(port: int, data: bytes) -> bytes:
    """Send bytes as they are and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(data)
        found = b""
        while block := connection.recv(1 << 16):
            found += block
        return found


def picture(red: int, size: tuple[int, int] = (4, 4)) -> bytes:
    """Return a PNG file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def error_of(answer: Answer) -> str:
    """Return what an answer says is wrong; it has a remedy beside it."""
    told = json.loads(answer[2])
    assert set(told) == {"error", "remedy"}
    assert told["remedy"]
    return str(told["error"])


@pytest.fixture
def opened() -> Iterator[Callable[..., HttpInput]]:
    """Return a function that opens a server which nobody serves: the test takes the requests itself."""
    sources = []

    def make(**changes: object) -> HttpInput:
        limits = {"queue": 2, "max_body_bytes": 100_000, "timeout_s": 30.0, "token_file": None, **changes}
        config = HttpConfig("127.0.0.1", 0, **limits)  # type: ignore[arg-type]
        sources.append(HttpInput(config, Reader(mean_color().inputs, color_preparer())))
        return sources[-1]

    yield make
    for source in sources:
        source.close()


def port_of(source: HttpInput) -> int:
    return source._listener.port


@pytest.fixture
def served(tmp_path: Path) -> Iterator[int]:
    """Return the port of an agent that tells the mean colour of pictures."""
    port = free_port()
    text = f'kind = "http"\nlisten = "127.0.0.1:{port}"\nqueue = 32\nmax_body_bytes = 100_000\ntimeout_s = 2'
    with running(write_config(tmp_path, text)):
        wait_for(lambda: is_up(port))
        yield port


def is_up(port: int) -> bool:
    try:
        return ask(port, path="/healthz", method="GET")[0] == 200
    except OSError:
        return False


def test_picture_is_answered_with_a_summary_or_with_the_arrays(served):
    """JSON unless arrays are asked for; what the body is comes from its first bytes, whatever is said of it."""
    status, headers, body = ask(served, picture(255), headers={"Content-Type": "text/plain"})
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)["outputs"]["scores"] == {
        "shape": [1, 3], "dtype": "float32", "min": 0.0, "max": 1.0, "mean": pytest.approx(1 / 3), "top1": 0
    }  # fmt: skip
    for accept in ("application/x-npz", "text/html, application/octet-stream;q=0.9"):
        status, headers, body = ask(served, picture(255), headers={"Accept": accept})
        assert (status, headers["Content-Type"]) == (200, "application/x-npz")
        assert np.load(io.BytesIO(body))["scores"].tolist() == [[1, 0, 0]]


def test_arrays_are_inputs_too(served):
    """A .npy for the only input, a .npz by name."""
    green = np.zeros((1, 3, 4, 4), np.float32)
    green[0, 1] = 1
    for body in (npy(green), npz(x=green)):
        status, _, answer = ask(served, body)
        assert (status, json.loads(answer)["outputs"]["scores"]["top1"]) == (200, 1)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_sound_is_answered(tmp_path, suffix):
    """The beginning of a sound, as much as the model takes."""
    soundfile.write(tmp_path / f"s.{suffix}", np.full(800, 0.25), 8000)
    port = free_port()
    text = f'kind = "http"\nlisten = "127.0.0.1:{port}"'
    with running(write_config(tmp_path, text, loudness(), SOUND)):
        wait_for(lambda: is_up(port))
        status, _, body = ask(port, (tmp_path / f"s.{suffix}").read_bytes())
    assert status == 200
    assert json.loads(body)["outputs"]["scores"]["mean"] == pytest.approx(0.25, abs=0.05)


def test_requests_at_once_have_each_its_own_answer(served, tmp_path):
    """Thirty clients with a picture each: no answer goes to another one, and all are counted as calls."""

    def red_of(value: int) -> float:
        body = ask(served, picture(value), headers={"Accept": "application/x-npz"})[2]
        return float(np.load(io.BytesIO(body))["scores"][0, 0])

    values = [number * 8 for number in range(30)]
    with ThreadPoolExecutor(len(values)) as pool:
        found = list(pool.map(red_of, values))
    assert found == pytest.approx([value / 255 for value in values], abs=1e-6)
    wait_for(lambda: len(lines(tmp_path)) == len(values))


def test_body_that_cannot_be_an_input_is_400_and_says_why_without_a_path(served):
    """Garbage in a known form, the wrong shape, the wrong name: the client's to change, and the server goes on."""
    wrong = [
        (picture(1)[:40], "the body"),
        (b"\x93NUMPY garbage", "the body"),
        (b"PK\x03\x04 garbage", "the body"),
        (npy(np.zeros((1, 5), np.float32)), "shape"),
        (npz(y=np.zeros((1, 3, 4, 4), np.float32)), "no input 'y'"),
        (npy(np.array([{}], object)), "the body"),
        (b"RIFF\x10\0\0\0WAVEgarbage", "the body"),
    ]
    for body, reason in wrong:
        answer = ask(served, body)
        assert (answer[0], reason in error_of(answer)) == (400, True), error_of(answer)
        assert "edgert-http" not in answer[2].decode()
    assert ask(served, picture(1))[0] == 200


@pytest.mark.parametrize("body", [b"", b"x", b"<svg/>", b"RIFF\x10\0\0\0AVI ", b"%!PS-Adobe-3.0 EPSF-3.0"])
def test_body_of_no_known_form_is_415(served, body):
    """It is not handed to any decoder."""
    answer = ask(served, body, headers={"Content-Type": "image/png"})
    assert (answer[0], error_of(answer)) == (415, "the body is no picture, sound, .npy or .npz that is known")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, on damaged TIFF files
def test_bodies_with_damage_are_answered_each(served):
    """Bytes changed and cut at random in every known form: an answer for each, and the agent runs on."""
    random, whole = np.random.default_rng(0), [npy(np.zeros((1, 3, 4, 4), np.float32)), npz(x=np.zeros((1, 3, 4, 4)))]
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).save(file, form)
        whole.append(file.getvalue())
    found = set()
    for turn in range(300):
        body = bytearray(whole[turn % len(whole)])
        for place in random.integers(2, len(body), 4):
            body[place] = random.integers(256)
        found.add(ask(served, bytes(body[: len(body) if turn % 2 else random.integers(4, len(body))]))[0])
    assert found <= {200, 400, 415}
    assert ask(served, picture(1))[0] == 200


def test_outputs_of_any_name_can_be_asked_for_as_arrays(opened):
    """Also those that are named like an argument of numpy.savez."""
    source = opened()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, port_of(source), picture(1), headers={"Accept": "application/x-npz"})
        item = source.take(10)
        assert item is not None
        assert item.answer is not None
        item.answer({"file": np.ones(2), "said:0": np.array(["a"], object)})
        arrays = np.load(io.BytesIO(asked.result()[2]))
    assert {name: arrays[name].tolist() for name in arrays} == {"file": [1, 1], "said:0": ["a"]}


def test_body_that_unpacks_to_too_much_is_400(served):
    """Pictures of 64 million pixels and arrays of 100 MB, in a hundred kilobytes or less."""
    file = io.BytesIO()
    Image.new("1", (8192, 8192)).save(file, "PNG")
    bombs = [(file.getvalue(), "8192 x 8192 pixels"), (npz(x=np.zeros(25_000_000, np.float32)), "unpacks to 100000")]
    for body, reason in bombs:
        assert len(body) <= 100_000
        answer = ask(served, body)
        assert (answer[0], reason in error_of(answer)) == (400, True), error_of(answer)


def test_sound_that_unpacks_to_too_much_is_400(tmp_path):
    """Silence packs well: a sound has no more samples than a body may have bytes."""
    soundfile.write(tmp_path / "s.flac", np.zeros(1_000_000), 8000)
    body = (tmp_path / "s.flac").read_bytes()
    assert len(body) < 50_000
    source = HttpInput(HttpConfig("127.0.0.1", 0, 2, 50_000, 30, None), Reader(loudness().inputs, sound_preparer()))
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, port_of(source), body)
            item = source.take(10)
            assert item is not None
            assert item.answer is not None
            with pytest.raises(BadInput, match="too long") as caught:
                item.read()
            item.answer(caught.value)
            assert asked.result()[0] == 400
    finally:
        source.close()


def test_request_for_something_else_is_refused(served):
    """Other paths, other methods: JSON that says what is there."""
    wrong = [("GET", "/", 404), ("POST", "/", 404), ("GET", "/infer", 405), ("POST", "/healthz", 405)]
    for method, path, status in [*wrong, ("HEAD", "/infer", 405)]:
        answer = ask(served, path=path, method=method)
        assert answer[0] == status
        assert method == "HEAD" or error_of(answer)
    assert ask(served, path="/infer", method="DELETE")[0] == 501


def test_body_that_is_too_large_is_413_and_not_read(opened):
    """The length alone is enough; no "100 Continue" asks for the rest; a client that sends it is answered, too."""
    port = port_of(opened())
    head = b"POST /infer HTTP/1.1\r\nHost: x\r\nContent-Length: 11000000\r\n"
    answer = raw(port, head + b"Expect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"at most 100000 are read" in answer
    assert ask(port, bytes(150_000))[0] == 413


def test_client_that_waits_for_100_continue_gets_it(opened):
    """Where the body is wanted, it is asked for."""
    source, body = opened(), picture(7)
    head = f"POST /infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port_of(source)), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(body)
        item = source.take(10)
        assert item is not None
        assert item.read()["x"][0, 0, 0, 0] * 255 == pytest.approx(7)


@pytest.mark.parametrize(
    ("lines_of_head", "status"),
    [
        (["Transfer-Encoding: chunked"], 411),
        ([], 411),
        (["Content-Length: 5", "Content-Length: 6"], 400),
        (["Content-Length: -5"], 400),
        (["Content-Length: 0x5"], 400),
        (["Content-Length: " + "9" * 5000], 400),
        (["Content-Length: 5", "Transfer-Encoding: chunked"], 411),
        (["X: " + "x" * 70_000], 431),
        (["X: y"] * 200, 431),
    ],
)
def test_head_that_is_wrong_is_refused(opened, lines_of_head, status):
    """Lengths that two parsers could read in two ways, and heads without end."""
    head = "\r\n".join(["POST /infer HTTP/1.1", "Host: x", *lines_of_head, "", ""])
    assert raw(port_of(opened()), head.encode()).startswith(f"HTTP/1.1 {status} ".encode())


def test_body_that_ends_early_or_comes_too_slowly_is_refused(opened):
    """A client that sends less than it said is told so; one that sends nothing more does not keep its place."""
    port = port_of(opened(timeout_s=0.5))
    head = b"POST /infer HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nabc"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
    assert raw(port, head).startswith(b"HTTP/1.1 408 ")


def test_head_that_comes_too_slowly_is_cut_off(opened):
    """A byte now and then does not move the deadline: it is of the whole request."""
    port, stop = port_of(opened(timeout_s=0.5)), threading.Event()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:

        def drip() -> None:
            try:
                while not stop.wait(0.05):
                    connection.sendall(b"x")
            except OSError:
                stop.set()

        dripping = threading.Thread(target=drip)
        dripping.start()
        wait_for(stop.is_set)
        dripping.join()


def test_clients_that_hang_do_not_lock_the_others_out(served):
    """More half-open connections than there are places: a good request behind them is answered when they time out."""
    hanging = [socket.create_connection(("127.0.0.1", served)) for _ in range(32 + SPARE_CONNECTIONS + 5)]
    try:
        for connection in hanging:
            connection.sendall(b"POST /infer HTTP/1.1\r\n")
        assert ask(served, picture(1))[0] == 200
    finally:
        for connection in hanging:
            connection.close()


def test_queue_that_is_full_is_503_and_counted(opened):
    """Two wait, the third is told to come back; those that waited are answered, oldest first."""
    source = opened()
    port = port_of(source)
    with ThreadPoolExecutor(2) as pool:
        asked = []
        for count in (1, 2):
            asked.append(pool.submit(ask, port, picture(count)))
            wait_for(lambda count=count: source.queued == count)
        status, headers, body = ask(port, picture(3))
        assert (status, headers["Retry-After"], source.dropped) == (503, "1", 1)
        assert "too many" in json.loads(body)["error"]
        for count in (1, 2):
            item = source.take(10)
            assert item is not None
            assert item.answer is not None
            assert item.waited_s is not None
            assert item.read()["x"][0, 0, 0, 0] * 255 == pytest.approx(count)
            item.answer({"y": np.full((1, 1), count)})
        assert [json.loads(one.result()[2])["outputs"]["y"]["max"] for one in asked] == [1, 2]
    assert (source.queued, source.dropped) == (0, 1)


def test_server_that_ends_answers_who_waits(opened):
    """Nobody is left without an answer: 503, and the port is free again; the bodies are gone."""
    source = opened()
    port, folder = port_of(source), Path(source._folder.name)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, port, picture(1)) for _ in range(2)]
        wait_for(lambda: source.queued == 2)
        assert len(list(folder.iterdir())) == 2
        source.close()
        assert [one.result()[0] for one in asked] == [503, 503]
    assert not folder.exists()
    assert not is_up(port)


def test_bodies_are_not_kept(opened):
    """Once it is answered, nothing of a request is left, be it run, refused, or cut off."""
    source = opened(timeout_s=0.5)
    port, folder = port_of(source), Path(source._folder.name)
    assert ask(port, b"x")[0] == 415
    raw(port, b"POST /infer HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nabc")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, port, picture(1))
        item = source.take(10)
        assert item is not None
        assert item.answer is not None
        assert len(list(folder.iterdir())) == 1
        item.answer(BadInput("no", "yes"))
        assert asked.result()[0] == 400
    assert list(folder.iterdir()) == []


def test_token_is_needed_where_one_is_configured(tmp_path, opened):
    """Without it, with another one, in another scheme: 401, and the body is not read; /healthz is free."""
    secret = "a-long-random-secret"
    (tmp_path / "token").write_text(secret + "\n")
    source = opened(token_file=tmp_path / "token")
    port = port_of(source)
    for header in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {secret}"}, {"Authorization": "é"}):
        status, headers, _ = ask(port, picture(1), headers=header)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert source.queued == 0
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, port, picture(1), headers={"Authorization": f"Bearer {secret}"})
        item = source.take(10)
        assert item is not None
        assert item.answer is not None
        item.answer({})
        assert asked.result()[0] == 200
    assert ask(port, path="/healthz", method="GET")[0] == 200


def test_server_that_cannot_be_says_what_to_do(tmp_path, opened):
    """A port that is taken, a token that is missing or short."""
    (tmp_path / "short").write_text("secret")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config = HttpConfig("127.0.0.1", other.getsockname()[1], 2, 1000, 1, None)
        with pytest.raises(BadInput, match="cannot listen on"):
            HttpInput(config, Reader(mean_color().inputs, color_preparer()))
    with pytest.raises(BadInput, match="no such file"):
        opened(token_file=tmp_path / "none")
    with pytest.raises(BadInput, match="fewer than 16 bytes"):
        opened(token_file=tmp_path / "short")


def test_agent_with_http_ends_on_sigterm(tmp_path):
    """Between two requests, with a client that hangs: exit 0, every call counted."""
    port = free_port()
    with process(write_config(tmp_path, f'kind = "http"\nlisten = "127.0.0.1:{port}"')) as agent:
        wait_for(lambda: is_up(port) or agent.poll() is not None)
        assert ask(port, picture(1))[0] == 200
        with socket.create_connection(("127.0.0.1", port)) as hanging:
            hanging.sendall(b"POST /infer HTTP/1.1\r\n")
            agent.send_signal(signal.SIGTERM)
            output, errors = agent.communicate(timeout=30)
    assert agent.returncode == 0, errors
    assert json.loads(output)["calls"] == 1
