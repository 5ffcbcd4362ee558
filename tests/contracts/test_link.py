"""Every server keeps the contract of `link_contract.py`; here is the reference consumer."""

import os
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.contracts.link_contract import LinkContract, Server
from tests.link.brokers import Process
from tests.link.consumer_process import ConsumerProcess


class TestReferenceConsumer(LinkContract):
    """`examples/store_and_forward/consumer.py`, written from docs/wire-format.md alone."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, broker: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        """Yield it as a process of its own."""
        private = os.urandom(32)
        one = ConsumerProcess(tmp_path_factory.mktemp("server"), broker.port, private)
        one.order_key = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        one.start()
        yield one
        one.kill()
