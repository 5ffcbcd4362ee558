"""What many tests share: real models, a tiny bundle, the folder `shared`, and a cache of their own."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.sources.environments import environments_dir, find
from edgert.errors import EdgertError, MissingExtra
from examples.models import fetch, models_dir

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, what is marked `shared` without that folder and `all_sources` outside its target."""
    if item.get_closest_marker("shared") and not SHARED.is_dir():
        pytest.skip("the folder 'shared' is not beside this repository")
    if item.get_closest_marker("all_sources") and not os.environ.get("EDGERT_ALL_SOURCES"):
        pytest.skip("runs in `make test-all`")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests, except for models and source environments, which are worth keeping."""
    before = {name: os.environ.get(name) for name in ("EDGERT_MODELS", "EDGERT_SOURCES", "EDGERT_CACHE")}
    os.environ["EDGERT_MODELS"] = str(models_dir())
    os.environ["EDGERT_SOURCES"] = str(environments_dir())
    os.environ["EDGERT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def model_path() -> Callable[[str], Path]:
    """Return a function from a model's id (`examples/models.py`) to its file; it skips when there is none."""

    def get(model_id: str) -> Path:
        try:
            return fetch(model_id)
        except EdgertError as error:
            pytest.skip(f"model {model_id}: {error.message}")

    return get


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Return the folder `shared` beside this repository; skips where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("the folder 'shared' is not beside this repository")
    return SHARED


@pytest.fixture(scope="session")
def source_environment() -> Callable[..., Path]:
    """Return a function: names of source environments, the first that is there counts -> its Python.

    It skips, with the line that installs the first, where there is none.
    """

    def python_of(*names: str) -> Path:
        try:
            return find(names)
        except MissingExtra as exc:
            pytest.skip(f"{exc.message}: {exc.remedy}")

    return python_of


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ONNX file: float32 x[1,8] -> Gemm -> Relu -> y[1,4], opset 17, weights from seed 0."""
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=(8, 4)).astype(np.float32), "weight")
    bias = numpy_helper.from_array(random.normal(size=4).astype(np.float32), "bias")
    nodes = [
        helper.make_node("Gemm", ["x", "weight", "bias"], ["hidden"], name="gemm"),
        helper.make_node("Relu", ["hidden"], ["y"], name="relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [weight, bias],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def tiny_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 16 `.npz` files, each with one input `x` of the tiny model, from seed 1."""
    folder = tmp_path_factory.mktemp("samples")
    random = np.random.default_rng(1)
    for index in range(16):
        np.savez(folder / f"{index:02}.npz", x=random.normal(size=(1, 8)).astype(np.float32))
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: Path, tiny_samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a `.edgert` file: the tiny model converted for the profile of this very machine."""
    import converters
    from converters.request import BundleReport
    from edgert.host import host_facts
    from edgert.profile import detect_profile

    result = converters.convert(
        tiny_model,
        profiles=[detect_profile(host_facts())],
        calibration=str(tiny_samples),
        output=tmp_path_factory.mktemp("bundle"),
    )
    (bundle,) = result.bundles
    assert isinstance(bundle, BundleReport), bundle
    return bundle.path


@pytest.fixture
def browser_page() -> Iterator[object]:
    """Return a page of the system's headless Chromium, offline; skips where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: .ci/system-packages installs it")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=flags)
        context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
        yield context.new_page()
        browser.close()
