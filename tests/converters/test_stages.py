"""Time per stage: the recorder between the converter and whoever shows its progress."""

from collections.abc import Callable, Iterator

from converters.pipeline import convert_request
from converters.request import Request
from converters.stages import FIRST, StageClock


def _ticking(*seconds: float) -> Callable[[], float]:
    times: Iterator[float] = iter(seconds)
    return lambda: next(times)


def test_stage_clock_adds_up_all_turns_of_a_stage():
    """Steps of one stage and its return after another one count together; the order is that of their beginnings."""
    clock = StageClock(lambda *_: None, _ticking(0.0, 1.0, 3.0, 6.0, 10.0, 15.0))
    clock("a: calibrating", 0, 2)
    clock("a: calibrating", 1, 2)
    clock("b: calibrating", 0, 2)
    clock("a: calibrating", 2, 2)
    times = [(one.stage, one.seconds) for one in clock.times()]
    assert times == [(FIRST, 1.0), ("a: calibrating", 2.0 + 3.0 + 5.0), ("b: calibrating", 4.0)]


def test_stage_clock_hands_everything_on():
    """Whoever shows the progress sees the same calls."""
    seen = []
    clock = StageClock(lambda *call: seen.append(call))
    clock("calibrating", 1, 2)
    clock("writing", 0, 0)
    assert seen == [("calibrating", 1, 2), ("writing", 0, 0)]


def test_conversion_has_the_time_of_its_stages_with_the_profile_and_without_counts(tiny_model, tiny_samples, tmp_path):
    """The document lists stages of each profile by its name; numbers of steps are not in their names."""
    stages = []
    request = Request(
        tiny_model,
        ("raspberry-pi-5",),
        tmp_path,
        calibration=str(tiny_samples),
        progress=lambda stage, done, total: stages.append(stage),
    )
    document = convert_request(request).to_json()
    told = document["stages"]
    assert [one["stage"] for one in told] == list(dict.fromkeys([FIRST, *stages]))[: len(told)]
    assert "raspberry-pi-5: writing the bundle" in [one["stage"] for one in told]
    assert all(one["seconds"] >= 0 for one in told)
