"""The brokers and the server that tests of the link share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.store_and_forward.consumer import Consumer
from tests.link.brokers import KINDS, Process


@pytest.fixture(params=["mosquitto-5", "nats"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    """Yield each broker in turn, in the clear; a test may ask for others of `KINDS`."""
    one = KINDS[request.param](tmp_path)
    one.start()
    yield one
    one.kill()


@pytest.fixture
def consumer(tmp_path: Path, broker: Process) -> Iterator[Consumer]:
    """Yield the reference consumer at that broker."""
    one = Consumer(tmp_path / "server.db")
    one.start(broker.port)
    yield one
    one.stop()
