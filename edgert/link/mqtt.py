"""The only file that knows paho-mqtt: one connection, whose happenings come out of a queue.

What to send and when is left to `publisher`; nothing here waits, and no callback does more than put into the queue.
"""

import contextlib
import queue
import ssl
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgert.cbor import MAX_PAYLOAD
from edgert.errors import BadInput
from edgert.link.settings import Broker

KEEPALIVE_S = 60
IN_FLIGHT = 8
CONNECT_TIMEOUT_S = 10.0
MOST_WAITING = 64


@dataclass(frozen=True)
class Connected:
    """The broker took the connection."""


@dataclass(frozen=True)
class Disconnected:
    """The connection is gone, or never came about; `reason` says why, `refused` that the broker did not want it."""

    reason: str
    refused: bool = False


@dataclass(frozen=True)
class Subscribed:
    """The broker answered the subscription."""


@dataclass(frozen=True)
class Taken:
    """The broker acknowledged message `mid`: it is on its way, not committed. `error` where it was refused for good."""

    mid: int
    error: str = ""


@dataclass(frozen=True)
class Message:
    """Something came down."""

    topic: str
    payload: bytes
    retained: bool


Happening = Connected | Disconnected | Subscribed | Taken | Message


class Happenings(queue.SimpleQueue[Happening]):
    """What waits to be heard: of each topic the first `MOST_WAITING` messages, none larger than a payload may be.

    The rest is dropped, as a broker may do at QoS 0: a flood of one topic costs neither memory nor the others.
    """

    def __init__(self) -> None:
        self._waiting, self._lock = Counter[str](), threading.Lock()

    def offer(self, message: Message) -> None:
        """Put a message, or drop it."""
        with self._lock:
            is_full = self._waiting[message.topic] >= MOST_WAITING or self._waiting.total() >= 4 * MOST_WAITING
            if is_full or len(message.payload) > MAX_PAYLOAD:
                return
            self._waiting[message.topic] += 1
        self.put(message)

    def get(self, block: bool = True, timeout: float | None = None) -> Happening:
        """Return the next; as of any queue."""
        found = super().get(block, timeout)
        if isinstance(found, Message):
            with self._lock:
                self._waiting -= Counter((found.topic,))  # and forget a topic of which none waits
        return found


class Connection:
    """One MQTT session that is clean at each connection; the broker publishes `will`, at QoS 1, when it breaks."""

    def __init__(self, broker: Broker, client_id: str, will: tuple[str, bytes], *, retain_will: bool = True) -> None:
        self._heard = Happenings()
        self.happenings: queue.SimpleQueue[Happening] = self._heard
        self._broker, self._client_id, self._will, self._retain_will = broker, client_id, will, retain_will
        self._client: paho.Client | None = None

    def open(self) -> None:
        """Begin to connect; what comes of it is in `happenings`. BadInput where the settings cannot be right."""
        self.close()
        address = urlsplit(self._broker.url)
        if address.scheme not in ("mqtt", "mqtts") or not address.hostname:
            raise BadInput(f"broker url {self._broker.url[:80]!r}", "write mqtt://host:1883 or mqtts://host:8883")
        try:
            # a certificate or password that is being replaced may be half written: the next attempt reads anew
            client = self._made(secure=address.scheme == "mqtts")
            port = address.port or (8883 if address.scheme == "mqtts" else 1883)
            client.connect(address.hostname, port, keepalive=KEEPALIVE_S, **self._session())
        except (OSError, ValueError) as exc:  # ValueError: a host name or a text that is none
            self.happenings.put(Disconnected(f"{type(exc).__name__}: {exc}"))
            return
        self._client = client
        client.loop_start()

    def subscribe(self, topics: list[str], *, qos: int = 0) -> None:
        """Ask for what comes down."""
        if self._client is not None:
            self._client.subscribe([(topic, qos) for topic in topics])

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> int | None:
        """Hand a message over and return its number; None where there is no connection. At QoS 0 sent is `Taken`."""
        if self._client is None:
            return None
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        return info.mid if info.rc == paho.MQTT_ERR_SUCCESS else None

    def close(self) -> None:
        """Disconnect, if connected; nothing more happens then."""
        client, self._client = self._client, None
        if client is not None:
            client.on_disconnect = None
            client.disconnect()
            with contextlib.suppress(AttributeError):  # paho 2.1: its thread may end before loop_stop joins it
                client.loop_stop()

    def _made(self, *, secure: bool) -> paho.Client:
        broker = self._broker
        is_v5 = broker.version == 5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            clean_session=None if is_v5 else True,  # with version 5 the connection says it
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(IN_FLIGHT)
        client.max_queued_messages_set(4 * IN_FLIGHT)
        client.will_set(self._will[0], self._will[1], qos=1, retain=self._retain_will)
        if broker.username or broker.password_file:
            secret = broker.password_file.read_text(encoding="utf-8").strip() if broker.password_file else None
            client.username_pw_set(broker.username, secret)
        if secure:
            client.tls_set_context(_context(broker))
        self._listen(client)
        return client

    def _session(self) -> dict[str, Any]:
        return {"clean_start": True} if self._broker.version == 5 else {}

    def _listen(self, client: paho.Client) -> None:
        put, offer = self._heard.put, self._heard.offer

        def on_connect(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            put(Disconnected(str(reason), refused=True) if reason.is_failure else Connected())

        def on_disconnect(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            put(Disconnected(str(reason)))

        def on_subscribe(_client: Any, _data: Any, _mid: Any, _reasons: Any, _properties: Any) -> None:
            put(Subscribed())

        def on_publish(_client: Any, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
            put(Taken(mid, str(reason) if reason.is_failure else ""))

        def on_message(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
            offer(Message(message.topic, bytes(message.payload), bool(message.retain)))

        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        client.on_subscribe, client.on_publish, client.on_message = on_subscribe, on_publish, on_message


def _context(broker: Broker) -> ssl.SSLContext:
    """Return TLS 1.2 or newer with the broker's name checked."""
    context = ssl.create_default_context(cafile=None if broker.ca_file is None else str(broker.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if broker.cert_file is not None:
        context.load_cert_chain(broker.cert_file, broker.key_file)
    return context
