"""The processes that `bench_link_memory` looks at: a model that runs, and a link that reports, with nothing beside.

python -m tests.bench_link_memory_child --bare BUNDLE | --link FOLDER PORT
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FEEDS = "EDGERT_BENCH_FEEDS"
EVERY_S = 0.05


def feeds() -> Iterator[Mapping[str, Any]]:
    """Yield the one input of `$EDGERT_BENCH_FEEDS` for ever: also the source of the agent."""
    import numpy as np

    one = dict(np.load(os.environ[FEEDS]))
    while True:
        yield one


def run_model(bundle: Path) -> None:
    """Run a bundle twenty times a second."""
    import edgert

    with edgert.load(bundle, device="cpu") as model:
        for one in feeds():
            model.run(one)
            time.sleep(EVERY_S)


def run_link(folder: Path, port: int) -> None:
    """Report a batch of 60 x 20 ten times a second."""
    from edgert.columns import INTEGERS, Column
    from edgert.link.mqtt import Broker, Connection
    from edgert.link.outbox import Outbox
    from edgert.link.publisher import Publisher
    from edgert.record import Batch, Birth, Presence, Stamp
    from edgert.topics import Address
    from edgert.wire import encode_presence

    columns = [Column(INTEGERS, tuple(place * 100 + at % 7 for at in range(60))) for place in range(20)]
    made = Batch(bytes(8), tuple(range(0, 300_000, 5_000)), columns)
    address = Address("acme", "bench-1")
    outbox = Outbox(folder / "outbox.db")
    will = (address.status, encode_presence(Presence(False, outbox.epoch, outbox.boot)))
    link = Connection(Broker(f"mqtt://127.0.0.1:{port}"), address.device, will)
    Publisher(outbox, address, link, lambda: Birth("acme", "bench-1", "edgert/bench", {}, (), ())).start()
    while True:
        outbox.put([(Stamp(1, 1), made)])
        time.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1] == "--bare":
        run_model(Path(sys.argv[2]))
    else:
        run_link(Path(sys.argv[2]), int(sys.argv[3]))
