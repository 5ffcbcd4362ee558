"""Statistics on disk."""

import os

import numpy as np
import pytest

from converters.quantize import statistics_cache
from converters.quantize.calibrate import Statistics, observe
from converters.quantize.choose_range import METHODS
from converters.quantize.statistics_cache import load_statistics, statistics_key, store_statistics
from tests.converters.quantize.nets import conv_net, images, net

KEY = statistics_key("graph", "samples")


@pytest.fixture(name="made")
def _made(tmp_path_factory) -> Statistics:
    return observe(conv_net(), images(3), workdir=tmp_path_factory.mktemp("work"))


def test_statistics_that_were_stored_are_the_same_when_loaded(made, tmp_path):
    """Ranges, histograms, channels and what is chosen from them come back to the bit."""
    assert store_statistics(tmp_path / "new", KEY, made) == ""
    loaded = load_statistics(tmp_path / "new", KEY)
    assert loaded is not None
    assert (loaded.ranges, loaded.samples) == (made.ranges, made.samples)
    assert loaded.channels.keys() == made.channels.keys()
    for name, channels in made.channels.items():
        for what in ("minimum", "maximum", "mean"):
            assert np.array_equal(getattr(loaded.channels[name], what), getattr(channels, what))
        assert loaded.channels[name].axis == channels.axis
    for method in METHODS:
        assert loaded.choose(method) == made.choose(method)
    assert loaded.saturated("a", made.choose("percentile")["a"]) == made.saturated("a", made.choose("percentile")["a"])


def test_statistics_without_histograms_or_channels_are_stored(tmp_path):
    """A graph whose tensors are constant, and one without convolutions, have statistics too."""
    made = observe(
        net("y = Neg (x)", "float[2] x", "float[2] y", {}), [{"x": np.ones(2, np.float32)}], workdir=tmp_path
    )
    store_statistics(tmp_path, KEY, made)
    loaded = load_statistics(tmp_path, KEY)
    assert loaded is not None
    assert (loaded.ranges, loaded.histograms, loaded.channels) == (made.ranges, {}, {})


def test_statistics_key_differs_with_the_graph_and_with_the_samples():
    """What was calibrated on other samples, or is another graph, is not found."""
    assert len({statistics_key("a", "b"), statistics_key("a", "c"), statistics_key("b", "b")}) == 3


@pytest.mark.parametrize("damage", ["byte", "cut", "empty", "other key", "text"])
def test_load_statistics_damaged_file_is_deleted(damage, made, tmp_path):
    """A file that is not what was written under this key is gone, and nothing of it is used."""
    store_statistics(tmp_path, KEY, made)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "byte":
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        del data[len(data) - 40 :]
    elif damage == "empty":
        data.clear()
    elif damage == "text":
        data[:] = b"statistics"
    key = statistics_key("graph", "other") if damage == "other key" else KEY
    path = path.with_name(path.name.replace(KEY, key))
    path.write_bytes(data)
    assert load_statistics(tmp_path, key) is None
    assert not path.exists()


def test_load_statistics_of_an_empty_folder_are_none(tmp_path):
    """Nothing kept is no error, be the folder there or not."""
    assert load_statistics(tmp_path / "absent", KEY) is None


def test_store_statistics_where_nothing_can_be_written_says_so(made, tmp_path):
    """A cache that cannot be written is told to the caller, who goes on."""
    (tmp_path / "file").write_text("in the way")
    assert "are not kept" in store_statistics(tmp_path / "file" / "statistics", KEY, made)


def test_store_statistics_removes_those_used_longest_ago(made, tmp_path, monkeypatch):
    """The folder stays below its limit; what was read last stays longest."""
    keys = [statistics_key("graph", str(number)) for number in range(4)]
    store_statistics(tmp_path, keys[0], made)
    size = next(tmp_path.iterdir()).stat().st_size
    monkeypatch.setattr(statistics_cache, "MOST_BYTES", int(2.5 * size))
    store_statistics(tmp_path, keys[1], made)
    for age, key in ((200, keys[0]), (100, keys[1])):
        os.utime(tmp_path / f"{key}.stats", (age, age))
    assert load_statistics(tmp_path, keys[0]) is not None
    store_statistics(tmp_path, keys[2], made)
    assert {path.stem for path in tmp_path.iterdir()} == {keys[0], keys[2]}
    monkeypatch.setattr(statistics_cache, "MOST_BYTES", size // 2)
    assert "are not kept" in store_statistics(tmp_path, keys[3], made)
