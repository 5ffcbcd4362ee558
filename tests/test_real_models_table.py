"""The table of real models: what is in the cache is what the table says, files and folders alike.

pip is run for real, with a folder instead of an index: no test here needs a network once the models are in the cache.
"""

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from edgert.errors import BadInput, EnvironmentFailed, UsageError
from examples.models import MODELS, RealModel, fetch, find, models_dir

PITCH = ("basic-pitch", "basic-pitch-saved-model", "basic-pitch-tflite")


@pytest.fixture
def wheel(model_path, tmp_path, monkeypatch) -> Path:
    """Return a wheel of basic-pitch with its models alone, the only thing pip finds; the cache is empty."""
    sources = {model_id: model_path(model_id) for model_id in PITCH}
    (tmp_path / "index").mkdir()
    path = tmp_path / "index" / "basic_pitch-0.4.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        about = "basic_pitch-0.4.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: basic-pitch\nVersion: 0.4.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
        for model_id, source in sources.items():
            for file in (
                (source,) if source.is_file() else sorted(entry for entry in source.rglob("*") if entry.is_file())
            ):
                inside = "" if source.is_file() else file.relative_to(source).as_posix()
                archive.write(file, find(model_id).member + inside)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    monkeypatch.setenv("EDGERT_MODELS", str(tmp_path / "models"))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_table_has_every_id_and_every_name_in_the_cache_once():
    """Two rows never fight for one place."""
    assert len({model.id for model in MODELS}) == len(MODELS)
    assert len({model.stored_name for model in MODELS}) == len(MODELS)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_table_row_is_whole(model):
    """Each row has a size, sixteen digits of a digest, and a licence that lets the project use the model."""
    assert model.bytes > 0
    assert len(model.sha256) == 16
    assert set(model.sha256) <= set("0123456789abcdef")
    assert model.license in ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause")


def test_fetch_one_download_serves_all_models_of_the_package(wheel, tmp_path):
    """A file keeps its suffix, a folder its files, and the second model comes out of the cache."""
    tflite = fetch("basic-pitch-tflite")
    assert tflite == tmp_path / "models" / "basic-pitch-tflite.tflite"
    assert tflite.read_bytes()[4:8] == b"TFL3"
    wheel.unlink()
    folder = fetch("basic-pitch-saved-model")
    assert sorted(files_of(folder)) == [
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    assert fetch("basic-pitch").suffix == ".onnx"
    assert {entry.name for entry in models_dir().iterdir()} == {find(model_id).stored_name for model_id in PITCH}


@pytest.mark.parametrize("fault", ["changed", "missing", "added", "gone"])
def test_fetch_damaged_folder_is_replaced(wheel, fault):
    """A folder with a changed, a missing or a strange file is not the model; it is fetched again."""
    folder = fetch("basic-pitch-saved-model")
    before = files_of(folder)
    index = folder / "variables" / "variables.index"
    if fault == "changed":
        index.write_bytes(index.read_bytes()[:-1] + b"!")
    elif fault == "missing":
        index.unlink()
    elif fault == "added":
        (folder / "assets").mkdir()
        (folder / "assets" / "vocabulary.txt").write_text("strange")
    else:
        shutil.rmtree(folder)
    assert files_of(fetch("basic-pitch-saved-model")) == before


def test_fetch_package_with_other_bytes_is_refused_and_nothing_is_kept(wheel):
    """What the publisher changed since is not what was tested."""
    changed = wheel.with_suffix(".new")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(changed, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info, data[:-1] + b"!" if info.filename.endswith("saved_model.pb") else data)
    changed.replace(wheel)
    with pytest.raises(BadInput, match=r"does not hold '.*/nmp/'") as caught:
        fetch("basic-pitch-saved-model")
    assert "do not use it" in caught.value.remedy
    assert not (models_dir() / "basic-pitch-saved-model").exists()


def test_fetch_package_that_cannot_be_had_says_what_pip_said(wheel):
    """The error has the package and a next action."""
    wheel.unlink()
    with pytest.raises(EnvironmentFailed, match=r"basic-pitch==0\.4\.0 with model 'basic-pitch' cannot be downloaded"):
        fetch("basic-pitch")


def test_fetch_unknown_id_names_the_nearest():
    """A typo is answered with the name that was meant."""
    with pytest.raises(UsageError) as caught:
        fetch("ppocr-det-padle")
    assert "ppocr-det-paddle" in caught.value.remedy


def test_real_model_digest_of_a_folder_is_that_of_sha256sum(model_path):
    """The digest in the table can be had without this code: sha256sum of the files in order, and of that text."""
    folder = model_path("basic-pitch-saved-model")
    lines = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files_of(folder).items()))
    row: RealModel = find("basic-pitch-saved-model")
    assert hashlib.sha256(lines.encode()).hexdigest().startswith(row.sha256)
    assert sum(map(len, files_of(folder).values())) == row.bytes
