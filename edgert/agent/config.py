"""The one TOML file of a device: who it is, which bundle it runs on what, and where it reports to."""

from dataclasses import dataclass
from pathlib import Path

from edgert.agent.input_config import InputConfig, parse_input
from edgert.disk import read_failed
from edgert.errors import BadInput
from edgert.strict_toml import Table, loads
from edgert.topics import Address

DEVICES = ("auto", "cpu", "gpu", "npu")
OUTBOXES = ("disk", "ram")


@dataclass(frozen=True)
class LinkConfig:
    """Where reports go. The password stands in a file of its own, so that this one holds no secret."""

    url: str
    username: str
    password_file: Path | None
    ca_file: Path | None
    cert_file: Path | None
    key_file: Path | None
    version: int
    outbox: Path | None
    max_bytes: int
    max_age_s: float


@dataclass(frozen=True)
class AgentConfig:
    """All of it; `link` is None for a device that only runs. `window_s` seconds make one report."""

    address: Address | None
    bundle: Path
    device: str
    threads: int
    input: InputConfig
    output: Path | None
    window_s: float
    sample_s: float
    link: LinkConfig | None


def read_agent_config(path: Path) -> AgentConfig:
    """Read and check the file; relative paths are relative to it. BadInput names the key of what is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise BadInput(f"{path}: no such file", "examples/store_and_forward/agent.toml is one to begin with") from exc
    except UnicodeDecodeError as exc:
        raise BadInput(f"{path} is not UTF-8: {exc}", "write it as UTF-8") from exc
    except OSError as exc:
        raise read_failed(exc, path) from exc
    return parse_agent_config(text, str(path), path.parent)


def parse_agent_config(text: str, where: str, folder: Path) -> AgentConfig:
    """Parse the TOML; `where` names it in errors, `folder` is what relative paths are relative to."""
    top = loads(text, where)
    top.allow(("device", "bundle", "input", "output", "report", "link"), required=("bundle", "input"))
    bundle, report = top.table("bundle"), top.table("report") if top.has("report") else Table({}, where, "report")
    bundle.allow(("path", "device", "threads"), required=("path",))
    report.allow(("window_s", "sample_s"))
    link = _link(top.table("link"), folder) if top.has("link") else None
    if link is not None and not top.has("device"):
        raise top.error("device", "is missing", "a device that reports has a tenant and an id: [device]")
    window_s = report.real("window_s", 1, 86_400) if report.has("window_s") else 300.0
    sample_s = report.real("sample_s", 0.1, 3_600) if report.has("sample_s") else min(5.0, window_s)
    if not sample_s <= window_s <= 4_096 * sample_s:
        raise report.error("sample_s", f"is {sample_s:g}, and window_s {window_s:g}", "a window has 1 to 4096 samples")
    return AgentConfig(
        address=_address(top.table("device")) if top.has("device") else None,
        bundle=folder / bundle.text("path"),
        device=bundle.word("device", DEVICES) if bundle.has("device") else "auto",
        threads=bundle.integer("threads", 0, 1024) if bundle.has("threads") else 0,
        input=parse_input(top.table("input"), folder),
        output=_output(top, folder),
        window_s=window_s,
        sample_s=sample_s,
        link=link,
    )


def _address(table: Table) -> Address:
    table.allow(("tenant", "id"), required=("tenant", "id"))
    return Address(table.text("tenant"), table.text("id"))


def _output(top: Table, folder: Path) -> Path | None:
    if not top.has("output"):
        return None
    table = top.table("output")
    table.allow(("jsonl",), required=("jsonl",))
    return folder / table.text("jsonl")


def _link(table: Table, folder: Path) -> LinkConfig:
    names = ("url", "username", "password_file", "ca_file", "cert_file", "key_file", "version", "outbox")
    table.allow((*names, "path", "max_bytes", "max_age_s"), required=("url",))
    kind = table.word("outbox", OUTBOXES) if table.has("outbox") else "disk"
    if kind == "disk" and not table.has("path"):
        raise table.error("path", "is missing", 'name the file of the outbox, or write outbox = "ram"')

    def file(key: str) -> Path | None:
        return folder / table.text(key) if table.has(key) else None

    return LinkConfig(
        url=table.text("url"),
        username=table.text("username") if table.has("username") else "",
        password_file=file("password_file"),
        ca_file=file("ca_file"),
        cert_file=file("cert_file"),
        key_file=file("key_file"),
        version=table.integer("version", 4, 5) if table.has("version") else 5,
        outbox=file("path") if kind == "disk" else None,
        max_bytes=table.integer("max_bytes", 10_000, 1 << 40) if table.has("max_bytes") else 20_000_000,
        max_age_s=table.real("max_age_s", 60, 10 * 365 * 86_400) if table.has("max_age_s") else 7 * 86_400,
    )
