"""The import law and the shape of the source tree, as `docs/architecture.md` states them."""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIRST_PARTY = ("edgert", "converters", "examples", "tests")
PUBLIC = ("edgert/__init__.py", "converters/__init__.py")

ONE_SYSTEM_MODULES = frozenset(
    "fcntl resource pwd grp termios tty pty posix syslog crypt spwd msvcrt winreg winsound".split()
)
ONE_SYSTEM_CALLS = {
    "os": frozenset(
        "sched_getaffinity sched_setaffinity fork forkpty getuid geteuid getgid getegid setuid chown fchown "
        "lchown fchmod killpg setsid setpgid getpgid getpgrp statvfs fstatvfs mkfifo mknod nice uname wait3 "
        "wait4 chroot posix_fallocate posix_fadvise sendfile sysconf getloadavg startfile O_DIRECTORY "
        "O_NOFOLLOW".split()
    ),
    "signal": frozenset(
        "SIGKILL SIGALRM SIGHUP SIGUSR1 SIGUSR2 SIGCHLD SIGPIPE alarm setitimer pause pthread_kill".split()
    ),
    "time": frozenset({"tzset", "clock_gettime"}),
    "ctypes": frozenset({"windll", "WinDLL", "oledll"}),
    "socket": frozenset({"AF_UNIX"}),
}
EXPORTERS = "converters/sources/exporters/"
EXIT_FILES = ("edgert/cli.py", f"{EXPORTERS}protocol.py")  # an exporter is a program of its own
EXITS = frozenset({"sys.exit", "os._exit", "exit", "quit"})
EMPTY_WORDS = frozenset(
    {"manager", "helper", "helpers", "utils", "util", "common", "base", "misc", "factory", "handler"}
)


@dataclass(frozen=True)
class Layer:
    """One row of the table: path prefixes and what files under them may import."""

    name: str
    paths: tuple[str, ...]
    first_party: tuple[str, ...]
    anywhere: tuple[str, ...]
    in_functions: tuple[str, ...]


@dataclass(frozen=True)
class Import:
    """One imported dotted name; `lazy` says that it does not run with the file."""

    line: int
    module: str
    lazy: bool


def read_layers(markdown: str) -> tuple[Layer, ...]:
    """Return the rows of the table under 'Who may import whom'."""
    section = markdown.split("## Who may import whom", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip().strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return tuple(_layer([cell.strip() for cell in row]) for row in rows[2:])


def _layer(cells: list[str]) -> Layer:
    name, paths, first_party, anywhere, in_functions = cells
    codes = [tuple(re.findall(r"`([^`]+)`", cell)) for cell in (paths, anywhere, in_functions)]
    allowed = tuple(word.strip() for word in first_party.split(","))
    return Layer(name, codes[0], allowed, codes[1], codes[2])


LAYERS = read_layers((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


def layer_of(path: str) -> Layer | None:
    """Return the layer with the most specific path; a folder of `edgert` without a row has none."""
    matching = [(len(prefix), layer) for layer in LAYERS for prefix in layer.paths if _covers(prefix, path)]
    return max(matching, key=lambda match: match[0])[1] if matching else None


def _covers(prefix: str, path: str) -> bool:
    if prefix == "edgert/":
        return path.startswith(prefix) and path.count("/") == 1
    return path.startswith(prefix) if prefix.endswith("/") else path == prefix


def imports(tree: ast.AST, lazy: bool = False) -> Iterator[Import]:
    """Yield every import; `from a import b` counts as `a.b`, so that a submodule is seen."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from (Import(node.lineno, f"{start}.{alias.name}", lazy) for alias in node.names)
        else:
            yield from imports(node, lazy or _runs_later(node))


def _runs_later(node: ast.AST) -> bool:
    """Say whether what is inside does not run on import: a function, or imports for the type checker."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def file_of(module: str) -> str:
    """Return the source file of a first-party dotted name, be it a module or something inside one."""
    parts = module.split(".")
    for count in range(len(parts), 0, -1):
        stem = "/".join(parts[:count])
        for candidate in (f"{stem}.py", f"{stem}/__init__.py"):
            if (ROOT / candidate).is_file():
                return candidate
    return f"{parts[0]}/__init__.py"


def violations(path: str, source: str) -> list[str]:
    """Return what is wrong with one source file, as 'path:line: what'."""
    tree = ast.parse(source)
    found = [*_import_violations(path, tree), *_call_violations(path, tree), *_name_violations(path, tree)]
    if path.endswith("/__init__.py") and path not in PUBLIC and source.strip():
        found.append((1, "an inner __init__.py must be empty"))
    return [f"{path}:{line}: {what}" for line, what in found]


def _import_violations(path: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    layer = layer_of(path)
    if layer is None:
        yield 1, "this folder has no row in the table of docs/architecture.md"
        return
    for item in imports(tree):
        reason = _refusal(path, layer, item)
        if reason:
            yield item.line, reason


def _refusal(path: str, layer: Layer, item: Import) -> str | None:
    """Return why the file may not have this import, or None when it may."""
    top = item.module.split(".")[0]
    if not top:
        return "relative import"
    if top in ONE_SYSTEM_MODULES and path != "edgert/host.py":
        return f"'{top}' exists only on some systems; it belongs in edgert/host.py"
    if top in sys.stdlib_module_names:
        return None
    if top in FIRST_PARTY:
        return _first_party_refusal(layer, item)
    if path.startswith(EXPORTERS) and (ROOT / EXPORTERS / f"{top}.py").is_file():
        return None
    if top in layer.anywhere or (item.lazy and top in layer.in_functions):
        return None
    place = "outside a function" if top in layer.in_functions else "at all"
    return f"layer '{layer.name}' may not import '{top}' {place}"


def _first_party_refusal(layer: Layer, item: Import) -> str | None:
    target = layer_of(file_of(item.module))
    if target is not None and target.name in layer.first_party:
        return None
    return f"layer '{layer.name}' may not import '{item.module}'"


def _call_violations(path: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    caught = {
        id(name)
        for handler in ast.walk(tree)
        if isinstance(handler, ast.ExceptHandler) and handler.type is not None
        for name in ast.walk(handler.type)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute | ast.Name) or id(node) in caught:
            continue
        dotted = ast.unparse(node)
        start, _, name = dotted.rpartition(".")
        if name in ONE_SYSTEM_CALLS.get(start, ()) and path != "edgert/host.py":
            yield node.lineno, f"'{dotted}' exists only on some systems; it belongs in edgert/host.py"
        if (dotted in EXITS or dotted == "SystemExit") and path not in EXIT_FILES:
            yield node.lineno, f"'{dotted}' belongs in edgert/cli.py"


def _name_violations(path: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    for part in Path(path).with_suffix("").parts:
        if EMPTY_WORDS & set(part.lower().split("_")):
            yield 1, f"the name '{part}' says nothing"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            words = {word.lower() for word in re.findall(r"[A-Z][a-z0-9]*", node.name)}
            if EMPTY_WORDS & words:
                yield node.lineno, f"the name '{node.name}' says nothing"


def source_files() -> list[str]:
    """Return the Python files of both packages, relative to the repository."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for package in ("edgert", "converters")
        for path in (ROOT / package).rglob("*.py")
    )


def test_source_tree_as_it_is_obeys_the_law() -> None:
    """No file of either package breaks the table or the rules beside it."""
    files = source_files()
    assert len(files) > 10
    found = [line for path in files for line in violations(path, (ROOT / path).read_text(encoding="utf-8"))]
    assert found == []


def test_table_every_row_names_existing_files_and_known_layers() -> None:
    """The table promises nothing: each path is there, and each word of the third column is a layer."""
    names = {layer.name for layer in LAYERS}
    assert len(names) == len(LAYERS) >= 7
    missing = [path for layer in LAYERS for path in layer.paths if not (ROOT / path).exists()]
    assert missing == []
    assert {word for layer in LAYERS for word in layer.first_party} <= names


def test_device_profiles_hold_data_only() -> None:
    """`device_profiles` has TOML files and no code."""
    names = [path.name for path in (ROOT / "device_profiles").iterdir() if path.name != "__pycache__"]
    assert names
    assert [name for name in names if not name.endswith(".toml")] == []


@pytest.mark.parametrize(
    ("path", "source", "says"),
    [
        ("edgert/manifest.py", "import numpy", "may not import 'numpy' at all"),
        ("edgert/manifest.py", "def f():\n    import onnxruntime", "may not import 'onnxruntime' at all"),
        (
            "edgert/manifest.py",
            "from edgert.runtime import session",
            "may not import 'edgert.runtime.session'",
        ),
        (
            "edgert/manifest.py",
            "if TYPE_CHECKING:\n    from edgert.runtime.model import Model",
            "may not import",
        ),
        ("edgert/signature.py", "import securesystemslib.dsse", "outside a function"),
        ("edgert/manifest.py", "if TYPE_CHECKING:\n    import numpy", "may not import 'numpy' at all"),
        ("edgert/signature.py", "if READY:\n    import securesystemslib", "outside a function"),
        ("edgert/runtime/session.py", "import onnx", "may not import 'onnx' at all"),
        ("edgert/runtime/session.py", "from edgert import cli", "may not import 'edgert.cli'"),
        ("edgert/runtime/session.py", "import converters", "may not import 'converters'"),
        ("edgert/runtime/images.py", "from PIL import Image", "outside a function"),
        (
            "edgert/commands/convert.py",
            "def f():\n    from converters import convert",
            "may not import 'converters",
        ),
        ("edgert/commands/convert.py", "import onnxruntime", "may not import 'onnxruntime' at all"),
        ("edgert/cli.py", "import converters.pipeline", "may not import 'converters.pipeline'"),
        ("converters/pipeline.py", "from edgert.cli import main", "may not import 'edgert.cli.main'"),
        ("converters/pipeline.py", "import tests.conftest", "may not import 'tests.conftest'"),
        ("converters/pipeline.py", "from . import passes", "relative import"),
        ("converters/pipeline.py", "import sys\nsys.exit(1)", "belongs in edgert/cli.py"),
        ("converters/pipeline.py", "raise SystemExit(1)", "belongs in edgert/cli.py"),
        ("edgert/bundle.py", "import fcntl", "belongs in edgert/host.py"),
        ("edgert/bundle.py", "import os\nos.geteuid()", "belongs in edgert/host.py"),
        ("edgert/bundle.py", "class BundleManager: pass", "says nothing"),
        ("converters/graph_utils.py", "", "says nothing"),
        ("edgert/runtime/__init__.py", "X = 1", "must be empty"),
        ("edgert/gadgets/thing.py", "", "no row in the table"),
        ("converters/pipeline.py", "def f():\n    import torch", "may not import 'torch' at all"),
        ("converters/sources/pytorch.py", "import protocol", "may not import 'protocol' at all"),
        (
            "converters/sources/exporters/export_torch.py",
            "from edgert.errors import BadInput",
            "may not import 'edgert",
        ),
    ],
)
def test_checker_given_a_bad_file_says_what_is_wrong(path: str, source: str, says: str) -> None:
    """Each rule of the law can fail."""
    assert any(says in line for line in violations(path, source)), violations(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("edgert/manifest.py", "import json\nfrom edgert.errors import BadInput"),
        ("edgert/signature.py", "def f():\n    from securesystemslib import dsse"),
        ("edgert/signature.py", "if TYPE_CHECKING:\n    from securesystemslib import dsse"),
        ("edgert/host.py", "import fcntl, os\nos.sched_getaffinity(0)"),
        ("edgert/cli.py", "import sys, click\nfrom edgert.commands import run\nsys.exit(0)"),
        ("edgert/commands/convert.py", "import importlib\nimportlib.import_module('converters')"),
        ("converters/pipeline.py", "import onnx_ir\nfrom edgert.runtime.session import Session"),
        ("converters/sources/exporters/export_torch.py", "from protocol import serve\ndef f():\n    import torch"),
    ],
)
def test_checker_given_a_good_file_says_nothing(path: str, source: str) -> None:
    """What the table allows is not refused."""
    assert violations(path, source) == []
