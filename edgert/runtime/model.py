"""An open bundle that answers `run`: the first placement that opens and reproduces the golden vectors.

What may run where is decided in `placement`; reading input files is left to `inputs`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from edgert.bundle import Bundle, open_bundle
from edgert.errors import EdgertError, MissingDevice, UsageError, VerificationFailed
from edgert.host import host_facts
from edgert.manifest import Manifest, Placement, TensorSpec
from edgert.runtime.golden import GoldenResult, check_golden
from edgert.runtime.placement import Candidate, Ranking, check_device, rank, where
from edgert.runtime.providers import Absent, ProviderDevice, find_device
from edgert.runtime.session import NotAModel, Session

Array = np.ndarray[Any, Any]

log = logging.getLogger("edgert")

DRAIN_CHECK_S = 0.002


@dataclass(frozen=True)
class Considered:
    """What became of one placement; `reason` is empty for the one that runs."""

    placement: Placement
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Choice:
    """The placement that runs, how it came to run, and its golden check (None when not asked for)."""

    session: Session
    candidate: Candidate
    golden: GoldenResult | None
    considered: tuple[Considered, ...]
    fallback: Mapping[str, str] | None


@dataclass(frozen=True)
class _Wish:
    """What the caller of `load` asked for."""

    device: str
    threads: int
    spin: bool
    strict: bool
    check_golden: bool


class Model:
    """A bundle that runs; made by `load`. `run` may be called from several threads at once."""

    def __init__(self, bundle: Bundle, choice: Choice, wish: _Wish) -> None:
        self.bundle = bundle
        self.inputs: tuple[TensorSpec, ...] = bundle.manifest.inputs
        self.outputs: tuple[TensorSpec, ...] = bundle.manifest.outputs
        self._session = choice.session
        self._explanation = _explanation(bundle, choice, wish.device)
        self._wish = wish
        self._parts: dict[str, Model] = {}
        self._opening = threading.Lock()
        self._running: deque[None] = deque()  # one entry per run under way; appending and popping need no lock
        self._closed = False

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once: input name to array in, output name to array out.

        Raises BadInput, RunFailed, EnvironmentFailed as `Session.run` does, and UsageError after `close`.
        """
        self._running.append(None)
        try:
            if self._closed:
                raise UsageError("the model is closed", "load it again")
            return self._session.run(feeds)
        finally:
            self._running.pop()

    def part(self, name: str) -> "Model":
        """Return the model of a part, such as the decoder of speech to text, open as this one is until this one closes.

        It is opened when it is first asked for, with the device, threads and strictness of this model; a signature
        of this bundle is one of its parts. Raises what `load` raises, and UsageError for a part that is not there.
        """
        parts = self.bundle.manifest.parts
        if name not in parts:
            raise UsageError(f"the bundle has no part '{name}'", f"it has: {', '.join(parts) or 'none'}")
        with self._opening:
            if self._closed:
                raise UsageError("the model is closed", "load it again")
            if name not in self._parts:
                self._parts[name] = _load(open_bundle(self.bundle.file(parts[name])), self._wish)
            return self._parts[name]

    def explain(self) -> dict[str, Any]:
        """Return what runs where and why, as a plain dictionary for JSON.

        `fallback` is None, or {"from", "to", "reason"} when the placement that comes first for the device
        that was asked for could not be used; `nodes` counts as `Session` says.
        """
        return {
            **self._explanation,
            "nodes": dict(self._explanation["nodes"]),
            "considered": [dict(entry) for entry in self._explanation["considered"]],
        }

    def close(self) -> None:
        """Wait for the runs that are under way, then release the model and its parts. Closing twice is harmless."""
        with self._opening:
            self._closed = True
        while self._running:
            time.sleep(DRAIN_CHECK_S)
        self._session.close()
        for part in self._parts.values():
            part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    path: Path | str,
    device: str = "auto",
    threads: int = 0,
    strict: bool = False,
    *,
    trusted_keys: Sequence[Path | str] | None = None,
    check_golden: bool = True,
    spin: bool = True,
) -> Model:
    """Open a bundle on the best processor that is really there.

    `device` is "auto", "cpu", "gpu" or "npu"; only the last two, asked for by name, may be an emulator.
    `threads=0` means the usable cores. `strict=True` raises MissingDevice where otherwise another placement
    would be used (a fallback, which is logged on the logger "edgert" and told by `explain`). `trusted_keys`
    are public keys, one of which must have signed the bundle. `check_golden=False` skips the golden vectors.
    `spin=False` saves the CPU time that waiting threads burn after each run; see `Session.open`.

    Raises what `open_bundle` raises, UsageError, MissingDevice, VerificationFailed (no placement
    is the model of the manifest and reproduces the golden vectors).
    """
    check_device(device)
    bundle = open_bundle(path, trusted_keys=trusted_keys)
    return _load(bundle, _Wish(device, threads, spin, strict, check_golden))


def _load(bundle: Bundle, wish: _Wish) -> Model:
    found = _find_devices(bundle.manifest, wish.device)
    devices = [item for item in found if isinstance(item, ProviderDevice)]
    ranking = rank(bundle.manifest, devices, [item for item in found if isinstance(item, Absent)], wish.device)
    choice = _choose(bundle, ranking, wish)
    if choice.fallback:
        log.warning(
            "%s: %s on %s is used instead of %s on %s: %s",
            bundle.manifest.name,
            choice.candidate.placement.variant,
            choice.fallback["to"],
            ranking.wanted.variant if ranking.wanted else "no variant",
            choice.fallback["from"],
            choice.fallback["reason"],
        )
    return Model(bundle, choice, wish)


def _find_devices(manifest: Manifest, device: str) -> list[ProviderDevice | Absent]:
    """Look only for what the bundle can use, so that a CPU bundle loads no plug-in."""
    wanted = [item for item in manifest.placements if device != "cpu" or item.processor == "cpu"]
    emulated = {item.provider: item.processor == device for item in wanted}
    return [find_device(provider, allow_emulated=allowed) for provider, allowed in emulated.items()]


def _choose(bundle: Bundle, ranking: Ranking, wish: _Wish) -> Choice:
    """Open the candidates in order until one reproduces the golden vectors."""
    considered = [Considered(skipped.placement, skipped.reason, skipped.remedy) for skipped in ranking.skipped]
    failure: EdgertError | None = None
    for candidate in ranking.candidates:
        if wish.strict and candidate.placement is not ranking.wanted:
            break
        try:
            session, golden = _open(bundle, candidate, wish)
        except EdgertError as exc:
            considered.append(Considered(candidate.placement, exc.message, exc.remedy))
            failure = exc
            continue
        fallback = _fallback(ranking.wanted, candidate.placement, wish.device, considered)
        considered.append(Considered(candidate.placement))
        return Choice(session, candidate, golden, tuple(considered), fallback)
    if failure is not None and not wish.strict:
        raise failure
    raise _missing(bundle, wish.device, considered) from failure


def _open(bundle: Bundle, candidate: Candidate, wish: _Wish) -> tuple[Session, GoldenResult | None]:
    """Open one candidate and check it; VerificationFailed when it does not reproduce the golden vectors."""
    placement = candidate.placement
    path = bundle.file(bundle.manifest.variant(placement.variant).file)
    try:
        session = Session.open(path, candidate.device, options=candidate.options, threads=wish.threads, spin=wish.spin)
    except NotAModel as exc:
        raise VerificationFailed(exc.message, "take a fresh copy of the bundle, or convert the model again") from exc
    try:
        return session, _checked(session, bundle, candidate, wish)
    except BaseException:
        session.close()
        raise


def _checked(session: Session, bundle: Bundle, candidate: Candidate, wish: _Wish) -> GoldenResult | None:
    """Check an open candidate against the manifest and, where asked for, the golden vectors."""
    manifest, placement = bundle.manifest, candidate.placement
    defect = _defect("input", manifest.inputs, session.inputs) or _defect("output", manifest.outputs, session.outputs)
    if defect:
        raise VerificationFailed(f"{placement.variant} is not what the manifest says: {defect}", "convert it again")
    if not wish.check_golden:
        return None
    # An emulated accelerator takes seconds for what the real one does in milliseconds.
    golden = check_golden(session, bundle, placement.variant, limit=1 if candidate.device.emulated else None)
    if golden.passed:
        return golden
    raise VerificationFailed(
        f"{placement.variant} on {placement.provider} differs from the original model: {golden.failure}",
        "convert the model again on this kind of device, or use another processor",
    )


def _defect(kind: str, declared: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> str:
    """Return how the tensors of a model contradict those of the manifest, or "" when they do not."""
    model = {spec.name: spec for spec in found}
    stray = sorted({spec.name for spec in declared} ^ model.keys())
    if stray:
        holder = "model" if stray[0] in model else "manifest"
        return f"only the {holder} has an {kind} '{stray[0]}'"
    for spec in declared:
        other = model[spec.name]
        if spec.dtype != other.dtype:
            return f"{kind} '{spec.name}' is {other.dtype}, the manifest says {spec.dtype}"
        # ONNX Runtime gives an unknown rank as no dimensions.
        if spec.shape and other.shape and len(spec.shape) != len(other.shape):
            return f"{kind} '{spec.name}' has rank {len(other.shape)}, the manifest says {len(spec.shape)}"
    return ""


def _fallback(
    wanted: Placement | None, used: Placement, asked: str, considered: Sequence[Considered]
) -> dict[str, str] | None:
    """Return the fallback to report, or None when the wanted placement is the one used."""
    if used == wanted:
        return None
    if wanted is None:
        return {"from": asked, "to": used.provider, "reason": f"the bundle has no variant for the {asked}"}
    reason = next(item.reason for item in considered if item.placement == wanted)
    return {"from": wanted.provider, "to": used.provider, "reason": reason}


def _missing(bundle: Bundle, asked: str, considered: Sequence[Considered]) -> EdgertError:
    """Return the error for a bundle of which nothing runs as it was asked for."""
    holds = ", ".join(sorted({item.processor for item in bundle.manifest.placements}))
    tried = "; ".join(f"{item.placement.variant} on {item.placement.provider}: {item.reason}" for item in considered)
    device = "the device it prefers" if asked == "auto" else f"the {asked}"
    return MissingDevice(
        f"bundle '{bundle.manifest.name}' does not run on {device}: {tried or f'it is made for {holds}'}",
        next((item.remedy for item in considered if item.remedy), "") or f"use one of: {holds}",
    )


def _explanation(bundle: Bundle, choice: Choice, asked: str) -> dict[str, Any]:
    manifest, placement, device = bundle.manifest, choice.candidate.placement, choice.candidate.device
    golden = choice.golden
    return {
        "bundle": manifest.name,
        "version": manifest.version,
        "digest": bundle.digest,
        "profile": manifest.profile,
        "variant": placement.variant,
        "provider": placement.provider,
        "processor": placement.processor,
        "where": where(device, manifest.arch, manifest.isa, host_facts()),
        "detail": device.detail,
        "asked": asked,
        "threads": choice.session.threads,
        "nodes": choice.session.nodes,
        "golden": None if golden is None else {"checked": golden.checked, "cosine": dict(golden.cosine)},
        "fallback": None if choice.fallback is None else dict(choice.fallback),
        "considered": [
            {
                "variant": item.placement.variant,
                "provider": item.placement.provider,
                "processor": item.placement.processor,
                "used": not item.reason,
                "reason": item.reason,
            }
            for item in choice.considered
        ],
    }
