"""Device profiles: the packaged ones are whole, and a slip in a file is named."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgert.errors import BadInput, UsageError
from edgert.host import HostFacts
from edgert.profile import detect_profile, is_of_class, list_profiles, load_profile, parse_profile, profiles_folder
from edgert.runtime.providers import Absent, ProviderDevice, find_device
from edgert.runtime.session import Session

NAMES = (
    "android-arm64-generic",
    "intel-core-ultra-s2-igpu",
    "raspberry-pi-5",
    "snapdragon-8-gen-3",
    "x86-avx2",
    "x86-avx512-vnni",
)


def _text(name: str = "snapdragon-8-gen-3") -> str:
    return (profiles_folder() / f"{name}.toml").read_text(encoding="utf-8")


def _changed(before: str, after: str, name: str = "snapdragon-8-gen-3") -> str:
    """Return the text of a packaged profile with one change; the change must really happen."""
    text = _text(name)
    assert before in text
    return text.replace(before, after, 1)


def test_list_profiles_names_all_that_are_packaged() -> None:
    """Each profile of the list loads, under the name of its file."""
    assert set(NAMES) <= set(list_profiles())
    for name in list_profiles():
        assert load_profile(name).id == name


@pytest.mark.parametrize("name", NAMES)
def test_profile_quantizes_only_ops_that_onnx_has(name: str) -> None:
    """An op type in a profile is one of ONNX's, so a typo cannot switch quantization off unseen."""
    quantization = load_profile(name).quantization
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert set(quantization.per_channel) <= known
    assert quantization.quantize_ops == ("*",) or set(quantization.quantize_ops) <= known


@pytest.mark.parametrize("name", NAMES)
def test_profile_figures_stand_in_the_device_facts(name: str, shared_folder: Path) -> None:
    """No number is in a profile that the collected facts do not hold."""
    facts = json.loads((shared_folder / "data" / "device_facts.json").read_text(encoding="utf-8"))
    device = next(device for device in facts["devices"] if device["id"] == name)
    stated = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", json.dumps(device))}
    for figure in load_profile(name).figures.values():
        assert figure.value in stated
        assert figure.source


def test_profile_variant_class_follows_the_integers_of_the_device() -> None:
    """The word int8 means what the instruction set wants; 16-bit activations have one class."""
    classes = {name: load_profile(name).variant_class("int8") for name in NAMES}
    assert classes["x86-avx512-vnni"] == classes["snapdragon-8-gen-3"] == "qdq-u8s8"
    assert classes["x86-avx2"] == "qdq-u8u8"
    assert classes["raspberry-pi-5"] == "qdq-s8s8"
    profile = load_profile("snapdragon-8-gen-3")
    assert profile.variant_class("w8a16") == "qdq-a16w8"
    assert (profile.variant_class("fp16"), profile.variant_class("fp32")) == ("fp16", "fp32")


def test_provider_options_depend_on_precision_and_emulator() -> None:
    """fp16 adds its option on device and emulator alike; the emulator is not given the device's backend."""
    provider = load_profile("snapdragon-8-gen-3").providers[0]
    assert provider.options_for("int8")["backend_type"] == "htp"
    assert "enable_htp_fp16_precision" not in provider.options_for("int8")
    emulated = provider.options_for("fp16", emulated=True)
    assert emulated["enable_htp_fp16_precision"] == "1"
    assert emulated["soc_model"] == "57"
    assert "backend_type" not in emulated


def test_provider_without_emulator_options_uses_its_options() -> None:
    """A profile that says nothing about emulation means the same options there."""
    text = _text()
    start, end = text.index("[providers.emulator_options]"), text.index("# The default differs")
    provider = parse_profile(text[:start] + text[end:], "p.toml").providers[0]
    assert provider.emulator_options == provider.options


@pytest.mark.parametrize(
    ("before", "after", "key", "remedy"),
    [
        ('kind = "phone"', 'kind = "phone"\nshape = "static"', "'shape'", "'shapes'"),
        ('kind = "phone"', 'kind = "fone"', "'kind' holds 'fone'", "'phone'"),
        ('processor = "npu"', 'processor = "npus"', "'processor'", "'npu'"),
        ('["int8", "w8a16", "fp16"]', '["int8", "w8a61", "fp16"]', "'providers[0].precisions'", "'w8a16'"),
        ('"QNNExecutionProvider"', '"QnnExecutionProvider"', "'providers[0].name'", "'QNNExecutionProvider'"),
        ('"dotprod"', '"dotprd"', "'isa'", "'dotprod'"),
        ('"android"', '"andriod"', "'os'", "'android'"),
        ("opset = 20", 'opset = "21"', "'opset' is '21' (str)", "an integer"),
        ("opset = 20", "opset = true", "'opset' is True (bool)", "an integer"),
        ("opset = 20", "opset = 7", "'opset' is 7", "range"),
        ("schema_version = 1", "schema_version = 2", "'schema_version' is 2", "range"),
        ('kind = "phone"\n', "", "'kind' is missing", "add kind"),
        ('weight = "int8"\n', "", "'quantization.weight' is missing", "add weight"),
        ("reduce_range = false", "reduce_range = 0", "'quantization.reduce_range' is 0 (int)", "true or false"),
        ('weight = "int8"', 'weight = "int4"', "'quantization.weight'", "'int8'"),
        ('["Conv", "ConvTranspose"]', '["Conv", "conv2d"]', "'conv2d'", "op types"),
        ('quantize_ops = ["*"]', 'quantize_ops = ["*", "Conv"]', "'*'", "op types"),
        ('htp_arch = "75"', "htp_arch = 75", "'providers[0].options.htp_arch' is 75 (int)", "a string"),
        ("precision_options.fp16", "precision_options.fp61", "precision_options.fp61'", "'fp16'"),
        ("[figures.vtcm_mb]", "[figures.vtcm_gb]", "'figures.vtcm_gb'", "'vtcm_mb'"),
        ("value = 8\n", 'value = "8"\n', "'figures.vtcm_mb.value'", "a number"),
        ("value = 8\n", "value = -8\n", "'figures.vtcm_mb.value' is -8", "number"),
        ("value = 8\n", "value = inf\n", "'figures.vtcm_mb.value' is inf", "number"),
        ("value = 8\n", f"value = {10**400}\n", "'figures.vtcm_mb.value' is 1000", "number"),
        ('os = ["android"]', 'os = "android"', "'os' is 'android' (str)", "a list"),
        ('os = ["android"]', "os = [3]", "'os' holds", "list of strings"),
        ('id = "snapdragon-8-gen-3"', 'id = "Snapdragon 8"', "'id' is 'Snapdragon 8'", "form"),
        ('precisions = ["fp32"]', 'precisions = ["int8"]', "'providers' does not end", "add it"),
        ('processor = "npu"', 'processor = "gpu"', "'processor' is 'gpu'", "the same"),
        ('activation = "uint8"\nweight = "int8"', 'activation = "int8"\nweight = "uint8"', "signed", "activation"),
        ("[quantization]", "[quantization", "p.toml is not valid TOML", "line"),
    ],
)
def test_profile_with_a_slip_names_file_key_and_remedy(before: str, after: str, key: str, remedy: str) -> None:
    """Each kind of slip in a profile is one error with the file, the key and what to write."""
    text = _changed(before, after)
    with pytest.raises(BadInput) as caught:
        parse_profile(text, "p.toml")
    assert "p.toml" in caught.value.message
    assert key in caught.value.message
    assert remedy in caught.value.remedy


def test_profile_figure_without_source_is_refused() -> None:
    """A number that nobody can check does not get in."""
    text = re.sub(r"value = 8\nsource = .*\n", "value = 8\n", _text(), count=1)
    with pytest.raises(BadInput, match=r"'figures.vtcm_mb.source' is missing"):
        parse_profile(text, "p.toml")
    with pytest.raises(BadInput, match=r"'figures.vtcm_mb.source' is an empty string"):
        parse_profile(re.sub(r"(value = 8\nsource = ).*\n", r'\1" "\n', _text(), count=1), "p.toml")


def test_profile_with_one_provider_twice_is_refused() -> None:
    """Two rows for one provider contradict each other."""
    row = '[[providers]]\nname = "CPUExecutionProvider"\nprocessor = "cpu"\nprecisions = ["fp32"]\n'
    with pytest.raises(BadInput, match="names one provider twice"):
        parse_profile(_text().replace("[quantization]", f"{row}\n[quantization]"), "p.toml")


def test_profile_with_reduced_unsigned_weights_is_refused() -> None:
    """reduce_range is about int8 weights only."""
    with pytest.raises(BadInput, match="reduce_range"):
        parse_profile(_changed("reduce_range = false", "reduce_range = true", "x86-avx2"), "p.toml")


def test_load_profile_with_unknown_name_suggests_the_nearest() -> None:
    """A typo in a profile's name is answered with the right name."""
    with pytest.raises(UsageError) as caught:
        load_profile("snapdragon-8-gen3")
    assert "did you mean 'snapdragon-8-gen-3'?" in caught.value.remedy
    assert caught.value.exit_code == 2


def test_load_profile_of_a_path_reads_that_file(tmp_path: Path) -> None:
    """A user's own profile is loaded from its path, under its own id."""
    path = tmp_path / "mine.toml"
    path.write_text(_changed('id = "raspberry-pi-5"', 'id = "my-board"', "raspberry-pi-5"), encoding="utf-8")
    assert load_profile(str(path)).id == "my-board"
    with pytest.raises(BadInput, match="cannot read the profile"):
        load_profile(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (HostFacts("linux", "x86_64", ("avx2", "avx512f", "avx512_vnni"), "AMD EPYC", 2), "x86-avx512-vnni"),
        (HostFacts("windows", "x86_64", ("avx2",), "Intel", 8), "x86-avx2"),
        (HostFacts("linux", "arm64", ("neon",), "Raspberry Pi 5 Model B Rev 1.0", 4), "raspberry-pi-5"),
        (HostFacts("linux", "arm64", (), "Raspberry Pi Compute Module 5 Rev 1.0", 4), "raspberry-pi-5"),
        (HostFacts("linux", "arm64", ("neon",), "Raspberry Pi 4 Model B", 4), "android-arm64-generic"),
        (HostFacts("android", "arm64", (), "", 8), "android-arm64-generic"),
    ],
)
def test_detect_profile_of_a_known_machine_names_its_profile(host: HostFacts, name: str) -> None:
    """The CPU and the system decide, and the answer is a packaged profile for that architecture."""
    assert detect_profile(host) == name
    assert load_profile(name).arch == host.arch


@pytest.mark.parametrize(
    "host",
    [
        HostFacts("linux", "x86_64", (), "Intel Pentium", 2),
        HostFacts("macos", "arm64", ("neon",), "Apple M2", 8),
        HostFacts("linux", "riscv64", (), "", 4),
    ],
)
def test_detect_profile_of_another_machine_says_what_was_seen(host: HostFacts) -> None:
    """A machine without a profile is told what it looked like."""
    with pytest.raises(UsageError) as caught:
        detect_profile(host)
    for fact in (host.system, host.arch, host.cpu_name):
        assert fact in caught.value.message


def _saturation_probe(weight: str, *, reduced: bool = False) -> bytes:
    """Return a QDQ MatMul whose weights are all at their limit, which saturates 16-bit sums of u8 x s8 products."""
    limit = 64 if reduced else 127
    dtype, zero = (np.uint8, 128) if weight == "uint8" else (np.int8, 0)
    integers = np.full((64, 8), zero + limit).astype(dtype)
    values = {
        "scale": np.float32(1 / 255),
        "zero": np.uint8(0),
        "w": integers,
        "w_scale": np.full(8, 1 / limit, np.float32),
        "w_zero": np.full(8, zero, dtype),
        "y_scale": np.float32(64 / 255),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "y_scale", "zero"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "y_scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model.SerializeToString()


RUN_ONES = """
import sys, numpy, onnxruntime
for path in sys.argv[1:]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    print(session.run(None, {"x": numpy.ones((1, 64), numpy.float32)})[0][0, 0])
"""


@pytest.mark.skipif(shutil.which("qemu-x86_64-static") is None, reason="needs qemu-x86_64-static")
@pytest.mark.parametrize(
    ("name", "host", "expected"),
    [
        ("x86-avx512-vnni", HostFacts("linux", "x86_64", ("avx2", "avx512f", "avx512_vnni", "amx_int8"), "", 2), True),
        ("x86-avx2", HostFacts("linux", "x86_64", ("avx2", "avx512f", "avx512_vnni"), "", 2), False),
        ("x86-avx2", HostFacts("linux", "x86_64", ("avx2", "fma"), "", 2), True),
        ("raspberry-pi-4", HostFacts("linux", "arm64", ("neon", "fp16", "dotprod"), "Raspberry Pi 5", 4), False),
        ("raspberry-pi-4", HostFacts("linux", "arm64", ("neon",), "Raspberry Pi 4", 4), True),
        ("x86-avx2", HostFacts("linux", "x86_64", (), "", 2), True),
    ],
)
def test_is_of_class_is_no_newer_class(name: str, host: HostFacts, expected: bool) -> None:
    """A processor with VNNI has other integer kernels than one without; where nothing fits, nothing is said."""
    assert is_of_class(load_profile(name), host) is expected


def test_is_of_class_profile_without_instruction_sets_is_any() -> None:
    """A profile of one's own need not name what its processor has."""
    own = replace(load_profile("x86-avx2"), isa=())
    assert is_of_class(own, HostFacts("linux", "x86_64", ("avx2", "avx512f", "avx512_vnni"), "", 2))


def test_x86_avx2_profile_weights_do_not_saturate_on_a_cpu_without_vnni(tmp_path: Path) -> None:
    """On an emulated Haswell the profile's u8 x u8 product is right, where full-range u8 x s8 is not."""
    quantization = load_profile("x86-avx2").quantization
    assert (quantization.activation, quantization.weight) == ("uint8", "uint8")
    models = {"chosen": _saturation_probe(quantization.weight), "full range s8": _saturation_probe("int8")}
    paths = [tmp_path / f"{index}.onnx" for index in range(len(models))]
    for path, model in zip(paths, models.values(), strict=True):
        path.write_bytes(model)
    command = ["qemu-x86_64-static", "-cpu", "Haswell", str(Path(sys.executable).resolve()), "-c", RUN_ONES]
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib"), "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [*command, *map(str, paths)], capture_output=True, text=True, timeout=120, check=True, env=environment
    )
    chosen, full_range = (float(line) for line in done.stdout.split())
    assert chosen == pytest.approx(64.0, rel=0.01)
    assert full_range < 48.0


def test_profile_text_is_plain_toml_that_tomllib_reads() -> None:
    """The files are TOML for any reader, with the keys that the parser knows."""
    for name in NAMES:
        assert tomllib.loads(_text(name))["id"] == name


WIDE_OPSET = 21
"""The first in which Q and DQ take 16 bits; the converter raises a graph to it."""


def _small_net(kind: str) -> bytes:
    """Return Conv and Relu with static shapes: "float", or QDQ with activations of 8 or 16 bits."""
    weights = np.random.default_rng(0).normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32)
    shapes = [("x", [1, 3, 16, 16]), ("y", [1, 8, 16, 16])]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)] for name, dims in shapes)
    if kind == "float":
        values: dict[str, np.ndarray] = {"wd": weights}
        nodes = [
            helper.make_node("Conv", ["x", "wd"], ["c"], name="conv", pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["y"], name="relu"),
        ]
    else:
        dtype = np.uint8 if kind == "int8" else np.uint16
        scale = (np.abs(weights).reshape(8, -1).max(axis=1) / 127).astype(np.float32)
        values = {
            "w": np.round(weights / scale[:, None, None, None]).astype(np.int8),
            "w_scale": scale,
            "w_zero": np.zeros(8, np.int8),
            "scale": np.array(8 / np.iinfo(dtype).max, np.float32),
            "middle": np.array(np.iinfo(dtype).max // 2 + 1, dtype),
            "zero": np.array(0, dtype),
        }
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "middle"], ["xq"], name="q0"),
            helper.make_node("DequantizeLinear", ["xq", "scale", "middle"], ["xd"], name="d0"),
            helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], name="dw", axis=0),
            helper.make_node("Conv", ["xd", "wd"], ["c"], name="conv", pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("QuantizeLinear", ["r", "scale", "zero"], ["yq"], name="q1"),
            helper.make_node("DequantizeLinear", ["yq", "scale", "zero"], ["y"], name="d1"),
        ]
    initializers = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, initializers)
    opset = helper.make_opsetid("", WIDE_OPSET if kind == "w8a16" else load_profile("snapdragon-8-gen-3").opset)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


@pytest.mark.parametrize(("precision", "kind"), [("int8", "int8"), ("w8a16", "w8a16"), ("fp16", "float")])
def test_snapdragon_options_run_each_precision_whole_on_the_emulator(tmp_path: Path, precision: str, kind: str) -> None:
    """What the profile gives the emulator makes a session with no node on the CPU, right within the format's error."""
    npu, cpu = find_device("QNNExecutionProvider"), find_device("CPUExecutionProvider")
    if isinstance(npu, Absent):
        pytest.skip(npu.reason)
    assert isinstance(cpu, ProviderDevice)
    path, float_path = tmp_path / "net.onnx", tmp_path / "float.onnx"
    path.write_bytes(_small_net(kind))
    float_path.write_bytes(_small_net("float"))
    feeds = {"x": np.random.default_rng(1).uniform(-3, 3, (1, 3, 16, 16)).astype(np.float32)}
    options = load_profile("snapdragon-8-gen-3").providers[0].options_for(precision, emulated=npu.emulated)
    with Session.open(float_path, cpu) as reference, Session.open(path, npu, options=options) as session:
        assert set(session.nodes) == {"QNNExecutionProvider"}
        error = np.abs(session.run(feeds)["y"] - reference.run(feeds)["y"]).max()
    assert error < 0.15
