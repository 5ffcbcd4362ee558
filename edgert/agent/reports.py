"""Where reports go: the outbox and its link, and who the device says it is."""

import hashlib
from collections.abc import Callable, Sequence

from edgert import __version__
from edgert.agent.config import AgentConfig
from edgert.agent.window import SCHEMA, stamp_now
from edgert.errors import MissingExtra
from edgert.host import host_facts
from edgert.record import Birth, Body, Event, Events, Slot, Stamp
from edgert.runtime.model import Model

LAST_WORDS_S = 3.0
"""How long an agent that was stopped waits for the server to take its last report; after that it stays stored."""

Items = Sequence[tuple[Stamp, Body]]


class Reports:
    """Hands stamps and bodies on; closing returns how many records still wait for the server."""

    def __init__(self, put: Callable[[Items], object], close: Callable[[], int]) -> None:
        self.put, self.close = put, close

    def tell(self, event: Event) -> None:
        """Report an event."""
        self.put([(stamp_now(), Events((event,)))])


def open_reports(config: AgentConfig, model: Model) -> Reports:
    """Open what the configuration names; MissingExtra where its packages are not installed."""
    if config.link is None:
        return Reports(lambda items: None, lambda: 0)
    return _link(config, model)


def _link(config: AgentConfig, model: Model) -> Reports:
    """Open the outbox and begin to publish."""
    try:
        from edgert.link.mqtt import Broker, Connection
        from edgert.link.outbox import Limits, Outbox
        from edgert.link.publisher import Publisher
        from edgert.record import Presence
        from edgert.wire import encode_presence
    except ImportError as exc:
        raise MissingExtra(f"the link needs {exc.name}, which is not installed", "pip install 'edgert[mqtt]'") from exc
    link, address = config.link, config.address
    assert link is not None and address is not None, "parse_agent_config checks it"
    outbox = Outbox(link.outbox, Limits(max_bytes=link.max_bytes, max_age_s=link.max_age_s))
    names = ("url", "username", "password_file", "ca_file", "cert_file", "key_file", "version")
    broker = Broker(**{name: getattr(link, name) for name in names})
    will = encode_presence(Presence(False, outbox.epoch, outbox.boot))
    connection = Connection(broker, address.device, (address.status, will))
    publisher = Publisher(outbox, address, connection, lambda: birth(config, model))
    publisher.start()

    def close() -> int:
        publisher.drain(LAST_WORDS_S)
        publisher.stop()
        left = outbox.depth().records
        outbox.close()
        return left

    return Reports(outbox.put, close)


def birth(config: AgentConfig, model: Model) -> Birth:
    """Return who this device is and what it runs."""
    assert config.address is not None
    manifest, told, facts = model.bundle.manifest, model.explain(), host_facts()
    fallback = told["fallback"]
    slot = Slot(
        name=manifest.name,
        version=manifest.version,
        digest=model.bundle.digest,
        profile=manifest.profile,
        variant=told["variant"],
        requested=[placement.provider for placement in manifest.placements],
        used=told["provider"],
        reason="" if fallback is None else str(fallback["reason"])[:500],
        reference=_reference_hash(model),
    )
    hardware = {"arch": facts.arch, "cpu": facts.cpu_name, "system": facts.system, "profile": manifest.profile}
    caps = {"wire": [1], "merges": False, "max_bytes": 65_536}
    address = config.address
    return Birth(address.tenant, address.device, f"edgert/{__version__}", hardware, (SCHEMA,), (slot,), caps)


def _reference_hash(model: Model) -> bytes:
    return hashlib.sha256(model.bundle.file(model.bundle.manifest.reference).read_bytes()).digest()[:8]
