"""Sinks beside each other: one that fails is counted, and nobody else notices."""

import sys

import pytest

from edgert.errors import BadInput
from edgert.sinks.callable import callable_sink
from edgert.sinks.fan_out import FanOut
from tests.sinks.reports import born, window


def test_sink_that_raises_stops_neither_the_others_nor_the_caller(caplog):
    """Both others have every report; each kind of failure is counted always and logged once."""
    first, last, kinds = [], [], [ValueError, KeyError, ValueError, BadInput]

    def failing(items):
        raise kinds.pop()("for a reason")

    fan = FanOut({"first": first.append, "failing": failing, "last": last.append})
    for _ in range(4):
        fan(window())
    assert len(first) == len(last) == 4
    assert fan.failures == {"first": 0, "failing": 4, "last": 0}
    assert [record.getMessage() for record in caplog.records] == [
        f"sink 'failing' failed, which is told once: {kind}"
        for kind in ("BadInput: for a reason", "ValueError: for a reason", "KeyError: 'for a reason'")
    ]


def test_closing_closes_all_that_can_be_closed():
    """Also behind one whose close fails; a function has nothing to close."""
    closed = []

    class Closing:
        def __init__(self, fails):
            self.fails = fails

        def __call__(self, items):
            pass

        def close(self):
            closed.append(self.fails)
            if self.fails:
                raise OSError("cannot")

    fan = FanOut({"a": Closing(True), "b": lambda items: None, "c": Closing(False)})
    fan.close()
    assert closed == [True, False]
    assert fan.failures == {"a": 1, "b": 0, "c": 0}


def test_exit_asked_for_inside_a_sink_is_not_swallowed():
    """Ctrl-C ends the program wherever it arrives."""

    def interrupted(items):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FanOut({"interrupted": interrupted})(born())


def test_callable_sink_is_the_function_that_was_named(tmp_path, monkeypatch):
    """`module:function` gets the stamps and bodies as they are."""
    (tmp_path / "my_sink.py").write_text("seen = []\ndef keep(items): seen.extend(items)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sink = callable_sink("my_sink:keep")
    sink(born())
    assert sys.modules["my_sink"].seen == born()


@pytest.mark.parametrize("name", ["nowhere_at_all:f", "math:nothing", "math", ":", "math:pi"])
def test_callable_sink_that_is_none_says_what_to_write(name):
    """A wrong module, a wrong name, no name, or a number."""
    with pytest.raises(BadInput) as raised:
        callable_sink(name)
    assert "function" in raised.value.remedy
