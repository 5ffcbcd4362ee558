"""Sparkplug B payloads of samples, by pysparkplug: a script for its environment, JSON in on stdin, JSON out.

In: names, whole (which are integers), times in ms, rows. Out: the hex of one DDATA with all rows under aliases, and
of the DBIRTH that names them with their first values.
"""

import json
import sys

from pysparkplug import DataType, DBirth, DData, Metric


def main() -> None:
    """Answer one question."""
    asked = json.load(sys.stdin)
    kinds = [DataType.INT64 if whole else DataType.FLOAT for whole in asked["whole"]]
    last = asked["times"][-1]
    history = [
        Metric(timestamp=at, name=None, datatype=kind, value=value, alias=alias, is_historical=at != last)
        for at, row in zip(asked["times"], asked["rows"], strict=True)
        for alias, (kind, value) in enumerate(zip(kinds, row, strict=True))
    ]
    named = [
        Metric(timestamp=asked["times"][0], name=name, datatype=kind, value=value, alias=alias)
        for alias, (name, kind, value) in enumerate(zip(asked["names"], kinds, asked["rows"][0], strict=True))
    ]
    data = DData(timestamp=last, seq=7, metrics=tuple(history)).encode()
    birth = DBirth(timestamp=asked["times"][0], seq=0, metrics=tuple(named)).encode()
    print(json.dumps({"DDATA": data.hex(), "DBIRTH": birth.hex()}))


if __name__ == "__main__":
    main()
