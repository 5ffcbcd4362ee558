"""A device that can be killed: it produces marked records and notes each, synced, once it has its number.

    python -m tests.link.chaos_device SETTINGS

SETTINGS is JSON: `outbox`, `journal` and `finish` (paths), `port`, `version`, `name`, `max_bytes`. When the file
`finish` is there it produces no more, and ends once nothing waits.
"""

import json
import os
import random
import sys
import threading
import time
from pathlib import Path

from edgert.link.mqtt import Broker, Connection
from edgert.link.outbox import Limits, Outbox
from edgert.link.publisher import Publisher
from edgert.record import Birth, Body, Event, Events, LogLines, Presence, Stamp
from edgert.topics import Address
from edgert.wire import encode_presence


def main(settings: dict[str, object]) -> None:
    """Run until told to finish, or killed."""
    dice, address = random.Random(), Address("acme", str(settings["name"]))
    outbox = Outbox(Path(str(settings["outbox"])), Limits(max_bytes=int(str(settings["max_bytes"]))))
    will = (address.status, encode_presence(Presence(False, outbox.epoch, outbox.boot)))
    where = Broker(f"mqtt://127.0.0.1:{settings['port']}", version=int(str(settings["version"])))
    birth = Birth("acme", address.device, "chaos/1", {}, (), ())
    publisher = Publisher(
        outbox, address, Connection(where, address.device, will), lambda: birth, chance=lambda: 0.1, mark_wait_s=1.0
    )
    publisher.start()
    pause, finish = threading.Event(), Path(str(settings["finish"]))
    with Path(str(settings["journal"])).open("a") as journal:
        while not finish.exists():
            produce(outbox, dice, journal)
            pause.wait(dice.random() * 0.3)  # time.sleep fails under libfaketime
    while outbox.depth().records:
        pause.wait(0.1)
    publisher.stop()
    outbox.close()


def produce(outbox: Outbox, dice: random.Random, journal) -> None:  # type: ignore[no-untyped-def]
    """Put some records at once, and note the epoch, the number and the mark of each."""
    marks = [f"{dice.getrandbits(64):016x}" for _ in range(dice.randint(1, 12))]
    at = Stamp(int(time.monotonic() * 1000), int(time.time() * 1000))
    noisy = dice.random() < 0.5
    bodies: list[Body] = [
        LogLines(((0, "info", mark + os.urandom(100).hex()),)) if noisy else Events((Event("tick", 0, 0, {"m": mark}),))
        for mark in marks
    ]
    epoch = outbox.epoch
    numbers = outbox.put([(at, body) for body in bodies])
    if outbox.epoch != epoch:
        return  # whose numbers these are cannot be said from here
    for number, mark in zip(numbers, marks, strict=True):
        journal.write(f"{epoch.hex()} {number} {mark}\n")
    journal.flush()
    os.fsync(journal.fileno())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
