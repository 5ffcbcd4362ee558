"""Which source reads a model, and what is said where none does."""

from pathlib import Path

import pytest

from converters.sources.imported import Options
from converters.sources.select import SOURCES, detect, open_source
from edgert.errors import BadInput, UsageError


def test_detect_onnx_under_any_name_is_told_from_its_content(tiny_model: Path, tmp_path: Path) -> None:
    """The suffix does not matter."""
    other = tmp_path / "model.bin"
    other.write_bytes(tiny_model.read_bytes())
    assert detect(other) == "onnx"
    assert open_source(other, None, Options(tmp_path)).path == other


@pytest.mark.parametrize("name", ["words.txt", "picture.png", "thing.json", "weights.pt", "model.pb", "model.h5"])
def test_detect_file_of_nothing_known_lists_what_is_known(tmp_path: Path, name: str) -> None:
    """A file that no source knows is refused whatever it is called, with every kind that could be given."""
    path = tmp_path / name
    path.write_bytes(b"neither a model nor anything like it\n" * 3)
    with pytest.raises(BadInput) as caught:
        detect(path)
    assert all(kind in caught.value.remedy for kind in SOURCES)


@pytest.mark.parametrize("name", ["sentence-transformers/all-MiniLM-L6-v2", "https://example.org/model.onnx"])
def test_open_source_hub_name_or_address_is_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    """Nothing reaches the network: a hub name needs a folder."""
    with pytest.raises(BadInput, match="nothing here reaches the network") as caught:
        open_source(Path(name), None, Options(tmp_path))
    assert "folder" in caught.value.remedy


def test_open_source_function_without_kind_asks_for_it(tmp_path: Path) -> None:
    """`module:function` may make any kind of model."""
    with pytest.raises(BadInput) as caught:
        open_source(Path("package.module:build"), None, Options(tmp_path))
    assert "--source pytorch" in caught.value.remedy


def test_open_source_empty_folder_and_absent_path_say_so(tmp_path: Path) -> None:
    """An empty folder and a path that is not there are told apart."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="the folder is empty"):
        open_source(tmp_path / "empty", None, Options(tmp_path))
    with pytest.raises(BadInput, match="no such file or folder"):
        open_source(tmp_path / "absent.onnx", None, Options(tmp_path))


def test_open_source_unknown_kind_suggests_the_nearest(tiny_model: Path, tmp_path: Path) -> None:
    """A typing error in --source gets the nearest word."""
    with pytest.raises(UsageError) as caught:
        open_source(tiny_model, "tensorflaw", Options(tmp_path))
    assert "tensorflow" in caught.value.remedy


@pytest.mark.parametrize("option", ["factory", "submodule", "task"])
def test_open_source_option_of_another_kind_is_refused(tiny_model: Path, tmp_path: Path, option: str) -> None:
    """An option that would do nothing is not ignored."""
    with pytest.raises(UsageError, match=f"--{option} is for models of the kind"):
        open_source(tiny_model, None, Options(tmp_path, **{option: "something"}))
