"""What the benchmark of conversions found: rows, which of them are accurate, tables and means."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgert.commands.printing import table
from tests.bench_peers.engines import OWN, PLAIN

ONE_POINT, HALF_PERCENT = 0.01, 0.005
HEAD = ("engine", "ms", "x plain", "least ms", "score", "accurate", "prepare s", "peak MB", "MB", "settings")


@dataclass(frozen=True)
class Row:
    """One engine on one model; `error` is why there is nothing.

    `turns_ms` is the median time of a call in each turn, `least_ms` the shortest: on a busy machine it tells what the
    median would be on a quiet one.
    """

    engine: str
    runtime: str
    settings: str = ""
    score: float | None = None
    turns_ms: Sequence[float] = ()
    least_ms: Sequence[float] = ()
    prepare_s: float = 0.0
    peak_mb: float = 0.0
    file_bytes: int = 0
    error: str = ""

    @property
    def milliseconds(self) -> float:
        """The median over turns."""
        return float(np.median(self.turns_ms))


@dataclass(frozen=True)
class Result:
    """All engines on one model; `skipped` is why there are none."""

    model: str
    metric: str = ""
    rows: Sequence[Row] = ()
    load: str = ""
    skipped: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)

    def row(self, engine: str) -> Row | None:
        """Return the row of an engine that was scored and timed."""
        return next((row for row in self.rows if row.engine == engine and row.turns_ms), None)

    def accurate(self, row: Row) -> bool:
        """Whether the engine's score is within one point, or 0.5 %, of the float model's; a better one is."""
        plain = self.row(PLAIN)
        if plain is None or plain.score is None or row.score is None:
            return False
        return row.score >= plain.score - max(ONE_POINT, HALF_PERCENT * plain.score) - 1e-9

    def best_peer(self, runtime: str | None) -> Row | None:
        """Return the fastest accurate engine that is not this project's, on one runtime or (None) on any."""
        peers = [row for row in self.rows if row.engine != OWN and row.turns_ms and self.accurate(row)]
        among = [row for row in peers if runtime in (None, row.runtime)]
        return min(among, key=lambda row: row.milliseconds, default=None)


def ratio(slow: Row, fast: Row) -> float:
    """Return how many times faster `fast` is: the median over turns of the quotient in the same round."""
    return float(np.median(np.asarray(slow.turns_ms) / np.asarray(fast.turns_ms)))


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean, not-a-number of none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def show(result: Result) -> str:
    """Return the table of one model."""
    if result.skipped:
        return f"\n{result.model}: skipped, {result.skipped}"
    lines = [_cells(result, row) for row in result.rows]
    title = f"\n{result.model}: {result.metric}; load {result.load}"
    return f"{title}\n{table(HEAD, lines)}"


def _cells(result: Result, row: Row) -> tuple[str, ...]:
    plain = result.row(PLAIN)
    if row.error:
        return (row.engine, "-", "-", "-", "-", "no", "-", "-", "-", row.error[:160])
    score = "-" if row.score is None else f"{row.score:.4f}"
    speed = f"{ratio(plain, row):.2f}" if plain and row.turns_ms else "-"
    return (
        row.engine,
        f"{row.milliseconds:.3f}" if row.turns_ms else "-",
        speed,
        f"{min(row.least_ms):.3f}" if row.least_ms else "-",
        score,
        "yes" if result.accurate(row) else "no",
        f"{row.prepare_s:.1f}",
        f"{row.peak_mb:.0f}",
        f"{row.file_bytes / 1e6:.1f}",
        row.settings,
    )


def summary(results: Sequence[Result]) -> str:
    """Return the means that the project promises, each with the models that it is taken over."""
    lines = []
    measured = [result for result in results if result.row(OWN) and result.row(PLAIN)]
    if not measured:
        return "no model was measured with edgert and onnxruntime both: no means"
    lines.append(_mean_line("edgert against plain onnxruntime", _against(measured, "plain"), 2.0))
    lines.append(_mean_line("against the best accurate peer on onnxruntime", _against(measured, "onnxruntime"), 0.9))
    lines.append(_mean_line("against the best accurate peer of all", _against(measured, "all"), 0.9))
    born = _against_engine(measured, "LiteRT")
    lines += [_mean_line("against LiteRT, where the model was born there", born, 1.0)] if born else []
    lost = [result.model for result in measured if not result.accurate(result.row(OWN))]
    lines.append(f"edgert's variants that are not accurate: {', '.join(lost) or 'none'}")
    return "\n".join(lines)


def _against(results: Sequence[Result], whom: str) -> dict[str, float]:
    """Return model -> how many times faster edgert is; the peer is told by `whom`: plain, onnxruntime or all."""
    found = {}
    for result in results:
        own = result.row(OWN)
        peer = result.row(PLAIN) if whom == "plain" else result.best_peer(None if whom == "all" else whom)
        if own is not None and peer is not None:
            found[f"{result.model} ({peer.engine})"] = ratio(peer, own)
    return found


def _against_engine(results: Sequence[Result], engine: str) -> dict[str, float]:
    pairs = [(result, result.row(engine), result.row(OWN)) for result in results]
    return {f"{result.model} ({engine})": ratio(peer, own) for result, peer, own in pairs if peer and own}


def _mean_line(what: str, speeds: Mapping[str, float], wanted: float) -> str:
    mean = geometric_mean(list(speeds.values()))
    each = ", ".join(f"{name} {value:.2f}" for name, value in speeds.items())
    return f"{what}: geometric mean {mean:.2f}x (wanted {wanted:.1f}x), least {min(speeds.values()):.2f}x: {each}"
