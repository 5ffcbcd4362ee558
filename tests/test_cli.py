"""The command line: exit codes, JSON documents as `docs/cli-json.md` says, help without heavy imports."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgert import cli


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process; returns exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def sample(tiny_samples: Path) -> Path:
    return tiny_samples / "00.npz"


def test_help_lists_every_command_and_imports_no_heavy_package():
    """`edgert --help` shows the table of commands without onnxruntime, numpy or onnx."""
    script = (
        "import sys; from edgert import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('onnxruntime', 'numpy', 'onnx', 'onnx_ir', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    for name in cli.COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_help_of_every_command_has_an_example(capsys, name):
    """Each command shows how it is used."""
    code, out, _ = call(capsys, name, "--help")
    assert code == 0
    assert f"edgert {name}" in out.split("Example:")[1]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["conver"], "did you mean 'convert'"),
        (["run", "x.edgert", "--input", "x.npy", "--divice", "cpu"], "--device"),
        (["profiles", "show", "raspbery-pi-5"], "raspberry-pi-5"),
    ],
)
def test_misspelt_words_exit_2_and_name_the_nearest(capsys, arguments, hint):
    """A typo in a command, a flag or a profile costs one look at the message."""
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert hint in err
    assert out == ""


def test_profiles_list_json_has_every_profile(capsys):
    """The six profiles are there, each with its providers in order."""
    rows = {row["id"]: row for row in document(capsys, "profiles", "list")["profiles"]}
    assert {"snapdragon-8-gen-3", "intel-core-ultra-s2-igpu", "raspberry-pi-5"} <= set(rows)
    assert {"x86-avx512-vnni", "x86-avx2", "android-arm64-generic"} <= set(rows)
    assert rows["snapdragon-8-gen-3"]["providers"] == ["QNNExecutionProvider", "CPUExecutionProvider"]


def test_profiles_show_json_gives_each_figure_its_source(capsys):
    """No number without a source."""
    for row in document(capsys, "profiles", "list")["profiles"]:
        figures = document(capsys, "profiles", "show", row["id"])["profile"]["figures"]
        assert all(figure["source"] for figure in figures.values())


def test_run_json_has_the_promised_keys(capsys, tiny_bundle, sample, tmp_path):
    """`run --json` prints variant, provider, nodes, latency, fallback and each output with its file."""
    out = tmp_path / "out.npz"
    found = document(capsys, "run", tiny_bundle, "--input", sample, "--output", out)
    assert found["provider"] == "CPUExecutionProvider"
    assert found["fallback"] is None
    assert sum(found["nodes"].values()) > 0
    assert found["latency_ms"] > 0
    assert found["outputs"]["y"]["shape"] == [1, 4]
    assert found["outputs"]["y"]["dtype"] == "float32"
    with np.load(found["outputs"]["y"]["file"]) as arrays:
        assert arrays["y"].shape == (1, 4)


def test_run_writes_json_outputs(capsys, tiny_bundle, sample, tmp_path):
    """An output file that ends in .json holds the values as nested lists."""
    call(capsys, "run", tiny_bundle, "--input", sample, "--output", tmp_path / "out.json")
    assert np.asarray(json.loads((tmp_path / "out.json").read_text())["y"]).shape == (1, 4)


def test_run_text_names_variant_provider_and_place(capsys, tiny_bundle, sample):
    """Without --json a person sees what ran where."""
    code, out, _ = call(capsys, "run", tiny_bundle, "--input", sample)
    assert code == 0
    assert "CPUExecutionProvider (host)" in out


def test_run_strict_on_a_device_the_bundle_is_not_for_exits_3(capsys, tiny_bundle, sample):
    """--strict never falls back."""
    code, _, err = call(capsys, "run", tiny_bundle, "--input", sample, "--device", "npu", "--strict")
    assert code == 3
    assert "remedy:" in err


def test_run_wrong_shape_exits_2_and_says_what_is_expected(capsys, tiny_bundle, tmp_path):
    """A wrong array is named with the shape seen and the shape wanted."""
    np.save(tmp_path / "x.npy", np.zeros((1, 9), np.float32))
    code, _, err = call(capsys, "run", tiny_bundle, "--input", tmp_path / "x.npy")
    assert code == 2
    assert "[1, 9]" in err
    assert "[1, 8]" in err


def test_bench_json_has_raw_onnxruntime_beside_it(capsys, tiny_bundle, tiny_model):
    """The document has percentiles and throughput for the bundle, its file in plain onnxruntime, and the original."""
    found = document(capsys, "bench", tiny_bundle, "--rounds", 3, "--warmup", 1, "--against", tiny_model)
    assert found["rounds"] == 3
    assert len(found["timed"]) == 3
    for row in found["timed"].values():
        assert row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["per_second"] > 0


def test_bench_without_rounds_exits_2(capsys, tiny_bundle):
    """Zero rounds time nothing."""
    assert call(capsys, "bench", tiny_bundle, "--rounds", 0)[0] == 2


def test_inspect_json_has_manifest_and_measurements(capsys, tiny_bundle):
    """What is in the digest and what was measured are both there, apart."""
    found = document(capsys, "inspect", tiny_bundle)
    assert found["signed"] is False
    assert found["manifest"]["schema_version"] == 1
    assert found["measurements"]["variants"][0]["checks"][0]["reference"] == "onnx"


def test_doctor_json_lists_the_cpu_and_gives_every_missing_part_a_remedy(capsys):
    """The CPU is always there; what is missing comes with the command that installs it."""
    found = document(capsys, "doctor")
    assert "CPUExecutionProvider" in [device["provider"] for device in found["devices"]]
    assert all(entry["remedy"] for entry in found["missing"])


def test_keys_sign_and_verify_round_trip(capsys, tiny_bundle, tmp_path):
    """A signed bundle verifies with its key, and exits 1 with another."""
    bundle = tmp_path / "b.edgert"
    bundle.write_bytes(tiny_bundle.read_bytes())
    keys = [tmp_path / "one", tmp_path / "two"]
    ids = [document(capsys, "keygen", key)["keyid"] for key in keys]
    assert document(capsys, "sign", bundle, "--key", keys[0])["keyid"] == ids[0]
    assert document(capsys, "verify", bundle, "--key", f"{keys[0]}.pub")["signed_by"] == ids[0]
    code, _, err = call(capsys, "verify", bundle, "--key", f"{keys[1]}.pub")
    assert code == 1
    assert ids[1][:8] in err or "key" in err


def test_verify_damaged_bundle_exits_1_and_names_the_file(capsys, tiny_bundle, tmp_path):
    """A flipped bit in a file is reported with that file's name."""
    data = bytearray(tiny_bundle.read_bytes())
    with zipfile.ZipFile(tiny_bundle) as archive:
        start = archive.getinfo("reference.json").header_offset
    data[start + 100] ^= 1
    (tmp_path / "bad.edgert").write_bytes(data)
    code, _, err = call(capsys, "verify", tmp_path / "bad.edgert")
    assert code == 1
    assert "reference.json" in err


def test_missing_bundle_exits_2(capsys, tmp_path):
    """A path that is not there is bad input with a remedy."""
    code, _, err = call(capsys, "inspect", tmp_path / "none.edgert")
    assert code == 2
    assert "remedy:" in err


def test_fallback_is_told_on_stderr_even_with_json(capsys, tiny_bundle, sample):
    """A bundle for the CPU asked for on the NPU runs on the CPU, and stderr says so beside a clean document."""
    code, out, err = call(capsys, "run", tiny_bundle, "--input", sample, "--device", "npu", "--json")
    assert code == 0
    assert json.loads(out)["fallback"]["from"] == "npu"
    assert "warning:" in err
    assert "npu" in err


def test_internal_error_is_one_line_that_asks_for_a_report(capsys, monkeypatch, tmp_path):
    """What no one foresaw ends with exit 1 and no stack, unless the stack is asked for."""
    (tmp_path / "surprise.py").write_text(
        "import click\n@click.command()\ndef doctor():\n    raise LookupError('surprise')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "doctor", ("surprise", ""))
    code, _, err = call(capsys, "doctor")
    assert code == 1
    assert "internal error: LookupError" in err
    assert "Traceback" not in err
    monkeypatch.setenv("EDGERT_TRACEBACK", "1")
    assert "Traceback" in call(capsys, "doctor")[2]


@pytest.mark.parametrize(
    "arguments",
    [["run", "b", "--input", "x", "--threads", "99999999999"], ["bench", "b", "--rounds", "0"], ["keygen", "."]],
)
def test_numbers_and_names_out_of_range_exit_2(capsys, arguments):
    """A slip of the finger is an error, not a hang and not a traceback."""
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert "Traceback" not in err
