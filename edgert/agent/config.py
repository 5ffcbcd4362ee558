"""The one TOML file of a device: who it is, which bundle it runs on what, and where it reports to."""

import re
from dataclasses import dataclass
from pathlib import Path

from edgert.agent.budget import Budget
from edgert.agent.input_config import InputConfig, parse_input
from edgert.agent.sink_config import BROKER_KEYS, SinkConfig, parse_broker, parse_sink
from edgert.disk import read_failed
from edgert.errors import BadInput
from edgert.link.settings import Broker, Limits
from edgert.strict_toml import Table, loads
from edgert.topics import Address

DEVICES = ("auto", "cpu", "gpu", "npu")
OUTBOXES = ("disk", "ram", "spill")
LOG_LEVELS = ("debug", "info", "warning", "error")
KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LinkConfig:
    """Where reports go, what waits meanwhile, and whose orders are followed."""

    broker: Broker
    outbox: Path | None
    limits: Limits
    sign_key_file: Path | None
    order_keys: tuple[bytes, ...]


@dataclass(frozen=True)
class AgentConfig:
    """All of it; `link` is None for a device that only runs. `window_s` seconds make one report."""

    address: Address | None
    bundle: Path
    library: Path | None
    device: str
    threads: int
    input: InputConfig
    output: Path | None
    window_s: float
    sample_s: float
    link: LinkConfig | None
    sinks: tuple[SinkConfig, ...]
    budget: Budget


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
    known = ("device", "bundle", "input", "output", "report", "link", "sink", "budget")
    top.allow(known, required=("bundle", "input"))
    bundle, report = top.table("bundle"), top.table("report") if top.has("report") else Table({}, where, "report")
    bundle.allow(("path", "library", "device", "threads"), required=("path",))
    report.allow(("window_s", "sample_s"))
    link = _link(top.table("link"), folder) if top.has("link") else None
    sinks = tuple(parse_sink(one, folder) for one in top.tables("sink")) if top.has("sink") else ()
    if (link is not None or sinks) and not top.has("device"):
        raise top.error("device", "is missing", "a device that reports has a tenant and an id: [device]")
    window_s = report.real("window_s", 1, 86_400) if report.has("window_s") else 300.0
    sample_s = report.real("sample_s", 0.1, 3_600) if report.has("sample_s") else min(5.0, window_s)
    if not sample_s <= window_s <= 4_096 * sample_s:
        raise report.error("sample_s", f"is {sample_s:g}, and window_s {window_s:g}", "a window has 1 to 4096 samples")
    return AgentConfig(
        address=_address(top.table("device")) if top.has("device") else None,
        bundle=folder / bundle.text("path"),
        library=folder / bundle.text("library") if bundle.has("library") else None,
        device=bundle.word("device", DEVICES) if bundle.has("device") else "auto",
        threads=bundle.integer("threads", 0, 1024) if bundle.has("threads") else 0,
        input=parse_input(top.table("input"), folder),
        output=_output(top, folder),
        window_s=window_s,
        sample_s=sample_s,
        link=link,
        sinks=sinks,
        budget=_budget(top.table("budget")),
    )


def parse_rates(values: dict[str, object], where: str) -> tuple[float | None, str, Budget | None]:
    """Return window_s, log level and budget of a desired state, as far as it names them; BadInput as for the file."""
    table = Table(values, where, "")
    window_s = table.real("window_s", 1, 86_400) if table.has("window_s") else None
    level = table.word("log_level", LOG_LEVELS) if table.has("log_level") else ""
    return window_s, level, _budget(table.table("budget")) if table.has("budget") else None


def _budget(table: Table) -> Budget:
    table.allow(("bytes_per_day", "flash_mb_per_day", "cpu_share"))

    def most(key: str, low: float, high: float) -> float | None:
        return table.real(key, low, high) if table.has(key) else None

    return Budget(most("bytes_per_day", 10_000, 1e12), most("flash_mb_per_day", 0.1, 1e6), most("cpu_share", 1e-4, 1))


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
    limits = ("max_bytes", "ram_bytes", "max_age_s", "min_free", "spill_s")
    table.allow((*BROKER_KEYS, "outbox", "path", *limits, "sign_key_file", "order_keys"), required=("url",))
    kind = table.word("outbox", OUTBOXES) if table.has("outbox") else "disk"
    if kind != "ram" and not table.has("path"):
        raise table.error("path", "is missing", 'name the file of the outbox, or write outbox = "ram"')
    if kind != "spill" and table.has("spill_s"):
        raise table.error(
            "spill_s", f'is for outbox = "spill", and outbox is "{kind}"', "write the one or leave the other"
        )

    def file(key: str) -> Path | None:
        return folder / table.text(key) if table.has(key) else None

    return LinkConfig(
        broker=parse_broker(table, folder),
        outbox=file("path") if kind != "ram" else None,
        limits=_limits(table, kind),
        sign_key_file=file("sign_key_file"),
        order_keys=tuple(map(bytes.fromhex, table.texts_matching("order_keys", KEY, "a public key in hexadecimal"))),
    )


def _limits(table: Table, kind: str) -> Limits:
    spill_s = table.real("spill_s", 0, 86_400) if table.has("spill_s") else 600.0
    return Limits(
        max_bytes=table.integer("max_bytes", 10_000, 1 << 40) if table.has("max_bytes") else 20_000_000,
        ram_bytes=table.integer("ram_bytes", 10_000, 1 << 32) if table.has("ram_bytes") else 2_000_000,
        max_age_s=table.real("max_age_s", 60, 10 * 365 * 86_400) if table.has("max_age_s") else 7 * 86_400,
        min_free=table.real("min_free", 0, 0.9) if table.has("min_free") else 0.05,
        spill_s=spill_s if kind == "spill" else None,
    )
