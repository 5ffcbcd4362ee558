"""The program of docs/sinks.md, which uses a sink without the agent, runs as printed."""

import re
import shutil
import urllib.request
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families as parse

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "sinks.md"


def test_program_of_the_documentation_serves_what_the_model_did(tiny_bundle, tmp_path, monkeypatch):
    """Five runs of a real bundle: five calls, and input bins of its own reference profile."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    shutil.copy(tiny_bundle, tmp_path / "model.edgert")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code.replace("9464", "0"), names)
    try:
        for seed in range(5):
            names["run"]({"x": np.random.default_rng(seed).normal(size=(1, 8)).astype(np.float32)})
        names["report"]()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{names['sink'].port}/metrics", timeout=10) as answer:
            families = {family.name: family for family in parse(answer.read().decode())}
    finally:
        names["sink"].close()
        names["model"].close()
    counts = {
        sample.value for sample in families["edgert_inference_duration_seconds"].samples if sample.name[-5:] == "count"
    }
    assert counts == {5}
    bins = families["edgert_input_bins"].samples
    assert {sample.labels["tensor"] for sample in bins} == {"x"}
    values = sum(sample.value for sample in bins)  # of the calls that were looked at
    assert values in range(8, 41, 8)
