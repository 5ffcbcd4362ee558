"""What Home Assistant is told over MQTT: one retained discovery document per device, and a state with newest values.

The document is that of device discovery (`homeassistant/device/…/config`), which Home Assistant 2024.11 and newer read:
https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload. Sending is left to `home_assistant_sink`.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgert.link.quantiles import count_of, quantile
from edgert.record import COUNTER, Batch, Birth, Body, Events, LogSketch, Metric, Sketches
from edgert.topics import Address
from edgert.wire import schema_hash

PREFIX = "homeassistant"
ONLINE, OFFLINE = b"online", b"offline"

LONGEST_STATE = 255
"""Home Assistant refuses a longer one."""

_UNITS = {"1": "", "degC": "°C"}
_CLASSES = {"°C": "temperature", "B": "data_size", "s": "duration", "ms": "duration", "W": "power", "V": "voltage"}
"""Home Assistant's unit -> its device class; it refuses a class with a unit that is not one of it."""

_ERROR, _LAST_ERROR = 2, "last_error"


@dataclass(frozen=True)
class Sensor:
    """One component of the discovery document; `key` is also that of its value in the state."""

    key: str
    name: str
    unit: str = ""
    state_class: str = ""

    def component(self, address: Address) -> dict[str, str]:
        """Return its entry: only keys that the sensor platform documents."""
        entry = {
            "platform": "sensor",
            "name": self.name,
            "unique_id": f"{object_id(address)}.{self.key}",
            "value_template": f"{{{{ value_json['{self.key}'] }}}}",
            "unit_of_measurement": self.unit,
            "device_class": _CLASSES.get(self.unit, "") if self.state_class == "measurement" else "",
            "state_class": self.state_class,
            "entity_category": "diagnostic" if self.key == _LAST_ERROR else "",
        }
        return {key: text for key, text in entry.items() if text}


def object_id(address: Address) -> str:
    """Return the name of a device in the discovery topic; device ids are unique over all tenants."""
    return f"edgert_{address.device}"


def discovery_topic(address: Address) -> str:
    """Return the topic of the discovery document."""
    return f"{PREFIX}/device/{object_id(address)}/config"


def state_topic(address: Address) -> str:
    """Return the topic of the newest values."""
    return f"edgert/home_assistant/{address.device}/state"


def availability_topic(address: Address) -> str:
    """Return the topic that says whether the device is there."""
    return f"edgert/home_assistant/{address.device}/availability"


def discovery(address: Address, birth: Birth) -> bytes:
    """Return the discovery document of a device."""
    device: dict[str, object] = {
        "identifiers": [object_id(address)],
        "name": address.device,
        "manufacturer": "edgert",
        "model": birth.hardware.get("profile", ""),
        "hw_version": birth.hardware.get("arch", ""),
        "sw_version": birth.agent,
    }
    document = {
        "device": {key: text for key, text in device.items() if text},
        "origin": {"name": "edgert", "sw_version": birth.agent},
        "components": {one.key: one.component(address) for one in sensors(birth)},
        "state_topic": state_topic(address),
        "availability_topic": availability_topic(address),
        "payload_available": ONLINE.decode(),
        "payload_not_available": OFFLINE.decode(),
        "qos": 1,
    }
    return json.dumps(document, sort_keys=True).encode()


def sensors(birth: Birth) -> list[Sensor]:
    """Return what a birth announces: its metrics, the rate and latency of each model, and the last error."""
    found = {one.key: one for schema in birth.schemas for one in map(_sensor_of, schema)}
    for place, slot in enumerate(birth.slots):
        for word, name, unit in (
            ("rate", "inference rate", "1/s"),
            ("p50", "latency p50", "ms"),
            ("p95", "latency p95", "ms"),
        ):
            key = f"model{place}_{word}"
            found[key] = Sensor(key, f"{slot.name} {name}", unit, "measurement")
    return [*found.values(), Sensor(_LAST_ERROR, "Last error")]


class State:
    """The newest values of one device. Counters are added up since the program began; null is what is not known yet."""

    def __init__(self, birth: Birth) -> None:
        self._birth = birth
        self._schemas = {schema_hash(schema): schema for schema in birth.schemas}
        self._values: dict[str, float | str | None] = {one.key: None for one in sensors(birth)}

    def take(self, body: Body) -> bool:
        """Take a body; say whether anything is new."""
        new = dict(self._read(body))
        self._values |= {key: value for key, value in new.items() if key in self._values}
        return bool(new)

    def payload(self) -> bytes:
        """Return the values as Home Assistant's templates read them."""
        return json.dumps(self._values, sort_keys=True, allow_nan=False).encode()

    def _read(self, body: Body) -> Iterator[tuple[str, float | str | None]]:
        if isinstance(body, Batch):
            yield from self._batch(body)
        elif isinstance(body, Sketches):
            yield from _speed(body)
        elif isinstance(body, Events):
            codes = [_code(one.code, one.details) for one in body.events if one.severity == _ERROR]
            if codes:
                yield _LAST_ERROR, codes[-1][:LONGEST_STATE]

    def _batch(self, batch: Batch) -> Iterator[tuple[str, float | None]]:
        for metric, column in zip(self._schemas.get(batch.schema, ()), batch.columns, strict=False):
            values = [_scaled(value, metric.scale) for value in (column.values if column else ()) if value is not None]
            finite = [value for value in values if math.isfinite(value)]
            if not finite:
                continue
            key = _sensor_of(metric).key
            if metric.kind == COUNTER:
                before = self._values.get(key)
                yield key, sum(finite) + (before if isinstance(before, int | float) else 0)
            else:
                yield key, finite[-1]


def _sensor_of(metric: Metric) -> Sensor:
    key = _escape(metric.name) if metric.slot is None else f"model{metric.slot}-2f-{_escape(metric.name)}"
    state_class = "total_increasing" if metric.kind == COUNTER else "measurement"
    return Sensor(key, metric.name.replace("_", " "), _UNITS.get(metric.unit, metric.unit), state_class)


def _escape(name: str) -> str:
    """Return a name in the letters of Home Assistant's topics; two names stay two."""
    return re.sub(r"[^A-Za-z0-9_]", lambda found: f"-{ord(found[0]):x}-", name)


def _scaled(value: int | float, scale: int) -> float:
    if isinstance(value, float) or scale == 0:
        return value
    return value / 10**scale if scale > 0 else float(value * 10**-scale)


def _speed(body: Sketches) -> Iterator[tuple[str, float | None]]:
    sketch = body.sketches.get("run_seconds")
    if not isinstance(sketch, LogSketch):
        return
    key = f"model{body.slot}"
    if body.window_ms > 0:
        yield f"{key}_rate", round(count_of(sketch) * 1000 / body.window_ms, 3)
    for word, share in (("p50", 0.50), ("p95", 0.95)):
        seconds = quantile(sketch, share)
        yield f"{key}_{word}", None if seconds is None else round(seconds * 1000, 3)


def _code(code: str, details: Mapping[str, object]) -> str:
    """Return what went wrong: `inference_failed` counts errors by their codes, and the most frequent one says more."""
    if code != "inference_failed" or not details:
        return code
    return max(details, key=lambda name: (count if isinstance(count := details[name], int) else 0, name))
