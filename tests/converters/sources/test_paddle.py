"""The Paddle source: which files it takes, and, in `make test-all`, real programs of both kinds."""

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from converters.sources import paddle, select
from converters.sources.imported import Imported, Options
from converters.sources.paddle_params import check_params
from converters.verify.parity import ParityMeter
from edgert.errors import BadInput, GateFailed, UsageError
from tests import real_samples

PIR_HEAD = b'{"base_code": {"magic": "pir", "trainable": true, "version": 4}, "program": {}}'


def tensor_header(elements: int) -> bytes:
    """Return how `.pdiparams` begins a float32 tensor of one dimension."""
    varint = bytearray()
    while elements > 0x7F:
        varint.append(elements & 0x7F | 0x80)
        elements >>= 7
    desc = bytes((0x08, 5, 0x10, *varint, elements))
    return struct.pack("<IQIi", 0, 0, 0, len(desc)) + desc


ONE_TENSOR = tensor_header(1) + struct.pack("<f", 1.0)

MAKER = Path(__file__).parents[2] / "contracts" / "make_paddle.py"


def pair(folder: Path, program: str = "inference.json", head: bytes = PIR_HEAD) -> Path:
    """Write files that look like a model, as far as they are looked at before Paddle is asked."""
    folder.mkdir(exist_ok=True)
    (folder / program).write_bytes(head)
    (folder / program).with_suffix(".pdiparams").write_bytes(ONE_TENSOR)
    return folder


@pytest.mark.parametrize(
    ("program", "head"), [("inference.json", PIR_HEAD), ("model.pdmodel", b"\x0a\x01"), ("a.json", b"\n " + PIR_HEAD)]
)
def test_paddle_folder_and_both_files_are_the_same_model(tmp_path, program, head):
    """The folder, the program and its parameters all lead to the program."""
    folder = pair(tmp_path / "model", program, head)
    for path in (folder, folder / program, (folder / program).with_suffix(".pdiparams")):
        assert paddle.matches(path)
        assert select.detect(path) == "paddle"
        assert paddle.find_program(path) == folder / program


def test_paddle_real_models_are_recognised(model_path):
    """The folders of PP-OCR are Paddle's and nobody else's; the same nets as ONNX are not."""
    assert {select.detect(model_path(f"ppocr-{part}-paddle")) for part in ("det", "rec", "cls")} == {"paddle"}
    assert not paddle.matches(model_path("ppocr-cls"))


@pytest.mark.parametrize(
    "text", ["{}", '{"learner": {"objective": "reg:squarederror"}}', "[]", "", '{"model_type": "bert"}']
)
def test_paddle_leaves_other_json_alone(tmp_path, text):
    """A JSON file that does not name PIR's magic belongs to others: XGBoost, or a config."""
    (tmp_path / "model.json").write_text(text)
    assert not paddle.matches(tmp_path / "model.json")
    assert not paddle.matches(tmp_path)


def refused(path: Path, why: str, workdir: Path) -> BadInput:
    with pytest.raises(BadInput, match=why) as caught:
        select.open_source(path, "paddle", Options(workdir=workdir))
    assert str(path) in caught.value.message
    assert caught.value.remedy
    return caught.value


def test_paddle_without_parameters_names_the_file_that_is_missing(tmp_path):
    """A program alone is half a model."""
    folder = pair(tmp_path / "model")
    (folder / "inference.pdiparams").unlink()
    refused(folder, "inference.pdiparams: no such file", tmp_path)
    with pytest.raises(BadInput, match=r"inference\.pdiparams: no such file"):
        paddle.find_program(folder / "inference.json")


def test_paddle_parameters_without_program_name_the_file_that_is_missing(tmp_path):
    """Parameters alone are half a model too."""
    folder = pair(tmp_path / "model")
    (folder / "inference.json").unlink()
    refused(folder, "inference.json or inference.pdmodel, is not beside", tmp_path)


@pytest.mark.parametrize("part", ["det", "rec", "cls"])
def test_paddle_parameters_of_real_models_are_whole(model_path, part):
    """Each tensor ends where the next begins, and the last one with the file."""
    check_params(model_path(f"ppocr-{part}-paddle") / "inference.pdiparams")


@pytest.mark.parametrize("kept", [0, 1, 30, 0.5, 0.99, -1])
def test_paddle_parameters_cut_off_anywhere_are_refused(tmp_path, model_path, kept):
    """Paddle itself loads a file whose last tensor is cut off; here even one missing byte is found."""
    folder = tmp_path / "model"
    shutil.copytree(model_path("ppocr-cls-paddle"), folder)
    params = folder / "inference.pdiparams"
    data = params.read_bytes()
    params.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    refused(folder, "these Paddle parameters are damaged: (it is empty|tensor|at byte)", tmp_path)


@pytest.mark.parametrize("place", [0, 4, 12, 16, 20, 22])
def test_paddle_parameters_with_a_wrong_byte_in_the_first_header_are_refused(tmp_path, model_path, place):
    """A header that is not one is told by its place, and no number in it is believed to be a length that fits."""
    data = bytearray((model_path("ppocr-cls-paddle") / "inference.pdiparams").read_bytes())
    data[place] ^= 0xFF
    (tmp_path / "a.pdiparams").write_bytes(data)
    with pytest.raises(BadInput, match=r"a\.pdiparams: these Paddle parameters are damaged"):
        check_params(tmp_path / "a.pdiparams")


def test_paddle_folder_with_two_programs_asks_which(tmp_path):
    """Nothing is guessed: the message names both."""
    folder = pair(pair(tmp_path / "model"), "other.json")
    assert "give the path of one" in refused(folder, "2 Paddle programs: inference.json, other.json", tmp_path).remedy


def test_paddle_program_of_another_kind_is_refused(tmp_path, model_path):
    """An ONNX file under Paddle's suffix is not asked of Paddle."""
    folder = pair(tmp_path / "model", "model.pdmodel", model_path("ppocr-cls").read_bytes()[:100])
    refused(folder / "model.pdmodel", "not a Paddle program", tmp_path)


@pytest.mark.parametrize(("option", "value"), [("dynamic", {"x": ("batch",)}), ("factory", "module:function")])
def test_paddle_refuses_options_that_it_could_only_ignore(tmp_path, option, value):
    """The program says itself what is free and what its layers are."""
    with pytest.raises(UsageError, match=f"--{option} says nothing to a Paddle program"):
        paddle.load(pair(tmp_path / "model"), Options(workdir=tmp_path, **{option: value}))


def test_paddle_3_gb_of_parameters_are_refused_before_they_are_read(tmp_path):
    """paddle2onnx cannot write more than 2 GB: that is said at once, and not after minutes in Paddle."""
    folder = pair(tmp_path / "model")
    elements = (3 << 30) // 4
    header = tensor_header(elements)
    with (folder / "inference.pdiparams").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 4 * elements)
    with pytest.raises(GateFailed, match=r"inference\.pdiparams: 3072 MB of parameters") as caught:
        paddle.load(folder, Options(workdir=tmp_path))
    assert caught.value.remedy


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> Callable[[Path], Imported]:
    def open_path(path: Path) -> Imported:
        return select.open_source(path, None, Options(workdir=tmp_path_factory.mktemp("work")))

    return open_path


@pytest.fixture(scope="module")
def programs(source_environment, tmp_path_factory) -> Path:
    """Return a folder with the small nets, saved by Paddle 3 as `.json`."""
    folder = tmp_path_factory.mktemp("programs")
    command = [str(source_environment("paddle")), str(MAKER), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (folder / "unknown.json").is_file(), done.stderr
    return folder


def rerun(imported: Imported, feeds: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """Return what Paddle answers."""
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    np.savez(folder / "in" / "0000.npz", **feeds)
    assert imported.rerun is not None
    imported.rerun(folder / "in", folder / "out", "")
    with np.load(folder / "out" / "0000.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def ask(model: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what ONNX Runtime answers."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def decibels(reference: dict[str, np.ndarray], answer: dict[str, np.ndarray]) -> float:
    meter = ParityMeter()
    meter.add(reference, answer)
    return min(np.inf if one.sqnr_db is None else one.sqnr_db for one in meter.result().values())


@pytest.mark.all_sources
@pytest.mark.parametrize("part", ["det", "rec", "cls"])
def test_paddle_ppocr_agrees_with_paddle_and_with_the_published_onnx(
    source_environment, model_path, opened, tmp_path, part
):
    """The graph is the net that Paddle runs, and the one that others made ONNX of, above 60 dB."""
    source_environment("paddle2")
    imported = opened(model_path(f"ppocr-{part}-paddle"))
    assert imported.tools["paddle2onnx"].startswith("1.")
    feeds = next(getattr(real_samples, f"ppocr_{part}")())
    answer = ask(imported.path, feeds)
    paddles = rerun(imported, feeds, tmp_path)
    assert paddles.keys() == answer.keys()
    assert decibels(paddles, answer) > 60
    (published,) = ask(model_path(f"ppocr-{part}"), feeds).values()
    assert decibels({"y": published}, {"y": next(iter(answer.values()))}) > 60


@pytest.mark.all_sources
def test_paddle_pir_program_agrees_with_paddle(programs, opened, tmp_path):
    """A `.json` program of Paddle 3, whose interpolation has a float64 scale, comes out as Paddle runs it."""
    imported = opened(programs / "net.json")
    assert imported.tools["paddle2onnx"].startswith("2.")
    assert imported.framework.startswith("paddle 3")
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)}
    assert decibels(rerun(imported, feeds, tmp_path), ask(imported.path, feeds)) > 100
    assert sorted(file.name for file in imported.path.parent.iterdir()) == ["answer.json", "model.onnx"]


@pytest.mark.all_sources
def test_paddle_digest_is_that_of_both_files(programs, opened, tmp_path):
    """Other parameters are another model, though the program is the same."""
    before = opened(programs / "net.json")
    for file in programs.glob("net.*"):
        shutil.copy(file, tmp_path)
    data = bytearray((tmp_path / "net.pdiparams").read_bytes())
    data[-1] ^= 1
    (tmp_path / "net.pdiparams").write_bytes(data)
    assert opened(tmp_path).sha256 != before.sha256


@pytest.mark.all_sources
def test_paddle_operator_without_a_form_in_onnx_is_named_with_its_layer(programs, opened):
    """The converter ends its process without a word; the error has the operator, and the layer before it."""
    with pytest.raises(GateFailed, match=r"unknown\.json: .* does not know op 'lgamma' after layer '/Linear") as caught:
        opened(programs / "unknown.json")
    assert caught.value.remedy


@pytest.mark.all_sources
@pytest.mark.parametrize(("file", "kept"), [("net.json", 0.5), ("net.pdiparams", 0.99)])
def test_paddle_damaged_file_is_bad_input(programs, opened, tmp_path, file, kept):
    """A cut program is told by Paddle, cut parameters before it is asked; the message names the file."""
    for copied in programs.glob("net.*"):
        shutil.copy(copied, tmp_path)
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(BadInput) as caught:
        opened(tmp_path / "net.json")
    assert str(tmp_path / file) in caught.value.message
    assert "copy" in caught.value.remedy


@pytest.mark.all_sources
def test_paddle_parameters_of_another_program_are_bad_input(programs, opened, tmp_path):
    """Two whole files that do not belong together."""
    shutil.copy(programs / "net.json", tmp_path / "net.json")
    shutil.copy(programs / "unknown.pdiparams", tmp_path / "net.pdiparams")
    with pytest.raises(BadInput, match=r"net\.json: Paddle cannot load this program with its \.pdiparams") as caught:
        opened(tmp_path)
    assert "belong together" in caught.value.remedy
