"""A subscriber of its own: what a broker delivers, with QoS and the retained flag."""

import threading
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.link.test_publisher import until


class Listener:
    """Subscribes to `topics` at QoS 1 and keeps what comes, in order."""

    def __init__(self, port: int, topics: str) -> None:
        self.messages = list[paho.MQTTMessage]()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._take
        there = threading.Event()
        self._client.on_subscribe = lambda *_: there.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe(topics, qos=1)
        assert there.wait(10)

    def _take(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.messages.append(message)

    def of(self, topic: str) -> list[paho.MQTTMessage]:
        """Return what came on a topic."""
        return [one for one in self.messages if one.topic == topic]

    def wait(self, topic: str, count: int = 1) -> list[paho.MQTTMessage]:
        """Return what came on a topic once there are so many."""
        assert until(lambda: len(self.of(topic)) >= count, 20), [one.topic for one in self.messages]
        return self.of(topic)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Say something, and wait until the broker has it."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def eventually(condition: Callable[[], bool]) -> None:
    """Fail where a condition does not come true."""
    assert until(condition, 20)


def pause() -> None:
    """Let messages that should not come have their time."""
    time.sleep(0.6)
