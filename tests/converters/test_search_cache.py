"""What a search remembers, and that an interrupted one goes on where it stopped."""

import os
from pathlib import Path

import pytest

from converters.pipeline import convert
from converters.request import BundleReport
from converters.search_cache import SearchCache, file_digest
from tests.converters.outlier_net import save_outlier_net

ARM = "raspberry-pi-5"
PARTS = {"what": "parity", "file": "abc", "threads": 0}


def test_search_cache_gives_back_what_was_put(tmp_path):
    """Equal parts give the document, other parts nothing, and a cache without a folder never anything."""
    cache = SearchCache(tmp_path / "search")
    assert cache.get(PARTS) is None
    cache.put(PARTS, {"y": {"cosine": 0.5}})
    assert cache.get(PARTS) == {"y": {"cosine": 0.5}}
    assert cache.get({**PARTS, "threads": 1}) is None
    nothing = SearchCache(None)
    nothing.put(PARTS, {"y": {}})
    assert nothing.get(PARTS) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"of": {"what": "other"}, "is": {}}', b'{"of": NaN}'])
def test_search_cache_damaged_file_is_measured_again(tmp_path, content):
    """A cut, foreign or meaningless file counts as none, and is replaced."""
    cache = SearchCache(tmp_path)
    cache.put(PARTS, {"y": 1})
    (file,) = tmp_path.glob("*.json")
    file.write_bytes(content)
    assert cache.get(PARTS) is None
    cache.put(PARTS, {"y": 2})
    assert cache.get(PARTS) == {"y": 2}


def test_search_cache_folder_that_cannot_be_written_is_no_error(tmp_path):
    """A file where the folder should be: nothing is remembered, nothing fails."""
    (tmp_path / "search").write_text("")
    cache = SearchCache(tmp_path / "search")
    cache.put(PARTS, {"y": 1})
    assert cache.get(PARTS) is None


def test_file_digest_covers_graph_and_weights(tmp_path):
    """Other weights beside the same graph are another variant."""
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"graph")
    (tmp_path / "weights.bin").write_bytes(b"one")
    before = file_digest(graph)
    (tmp_path / "weights.bin").write_bytes(b"two")
    assert file_digest(graph) != before


def test_interrupted_search_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Ctrl-C while mixing: the second call compares no candidate again that the first one had compared."""
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "cache"))
    model, samples = save_outlier_net(tmp_path)
    stages: list[str] = []

    def stop_at_first_mix(stage: str, done: int, total: int) -> None:
        stages.append(stage)
        if "comparing" in stage and "mixed" in stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(model, [ARM], calibration=str(samples), output=tmp_path / "out", progress=stop_at_first_mix)
    assert not (tmp_path / "out").exists()
    first = {stage for stage in stages if "comparing" in stage}
    assert any("qdq-s8s8-minmax" in stage for stage in first)
    stages.clear()
    conversion = convert(
        model,
        [ARM],
        calibration=str(samples),
        output=tmp_path / "out",
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert isinstance(conversion.bundles[0], BundleReport)
    again = {stage for stage in stages if "comparing" in stage} & first
    assert all("mixed" in stage for stage in again)
    assert not any("looking for the layers" in stage for stage in stages)


def test_second_call_gives_the_same_bundle_as_one_that_measured_all(tmp_path, monkeypatch):
    """What is remembered changes the time and nothing else: the digests are equal with and without it."""
    model, samples = save_outlier_net(tmp_path)
    digests = []
    for number, cache in enumerate(("one", "one", "two")):
        monkeypatch.setitem(os.environ, "EDGERT_CACHE", str(tmp_path / cache))
        output = Path(tmp_path / f"out{number}")
        report = convert(model, [ARM], calibration=str(samples), output=output).bundles[0]
        assert isinstance(report, BundleReport)
        digests.append(report.digest)
    assert len(set(digests)) == 1
