"""A day's budget: it is kept by telling less, by plan, and all is told again where there is room."""

import itertools

import pytest

from edgert.agent.budget import DAY_S, STEPS, Budget, Planner, Spent

WINDOW_S = 60.0
SIZES = dict(enumerate((2000.0, 2000.0, 1200.0, 800.0, 400.0, 400.0)))


def day(budget: Budget, *, size: float = 1.0, flash: float = 20_000, cpu_s: float = 0.01, extra: float = 0.0):
    """Report for a simulated day; return what was spent, the steps of all reports, and their reasons."""
    planner, now, spent = Planner(budget, WINDOW_S, 0.0), 0.0, Spent()
    steps, reasons, waiting = list[int](), set[str](), 0.0
    while now < DAY_S - WINDOW_S:
        now += WINDOW_S * planner.detail.windows
        sizes = {step: bytes_ * size for step, bytes_ in SIZES.items()}
        waiting += sizes[planner.step] + extra
        left = planner.left(now, spent)
        sent = waiting if left is None or left > 0 else 0.0
        waiting -= sent
        spent = Spent(spent.sent_bytes + sent, spent.flash_bytes + flash, spent.cpu_s + cpu_s)
        steps.append(planner.step)
        planner.reported(now, spent, sizes)
        reasons.add(planner.reason)
    return spent, steps, reasons


def test_without_a_budget_everything_is_told():
    """Every minute, all columns."""
    spent, steps, reasons = day(Budget())
    assert set(steps) == {0}
    assert len(steps) == 1439
    assert reasons == {""}
    assert spent.sent_bytes == 1439 * 2000


@pytest.mark.parametrize("allowed", [4e6, 1.5e6, 300_000, 60_000, 20_000])
def test_bytes_of_a_day_stay_inside_the_budget(allowed):
    """From plenty to hardly anything; the last report may go over by itself alone."""
    spent, steps, reasons = day(Budget(bytes_per_day=allowed))
    assert spent.sent_bytes <= allowed + 2000
    assert spent.sent_bytes > allowed / 6 or allowed > 3e6
    assert (max(steps) == 0) == (allowed > 3e6)
    assert ("bytes_per_day" in reasons) == (allowed < 3e6)
    assert sum(one != other for one, other in itertools.pairwise(steps)) < 12


def test_what_the_plan_does_not_know_of_is_taken_from_later_reports():
    """Events, resends: as many bytes again. The day still stays inside."""
    spent, steps, _ = day(Budget(bytes_per_day=1.5e6), extra=1000)
    assert spent.sent_bytes <= 1.5e6 + 3000
    assert max(steps) > 0


def test_flash_of_a_day_stays_inside_the_budget():
    """A commit a minute of 20 kB would be 29 MB; 10 MB are allowed."""
    spent, _, reasons = day(Budget(flash_mb_per_day=10))
    assert 3e6 < spent.flash_bytes <= 10.1e6
    assert "flash_mb_per_day" in reasons


def test_cpu_share_makes_windows_longer():
    """A report that costs a second each minute, and a hundredth is allowed."""
    _, steps, reasons = day(Budget(cpu_share=0.01), cpu_s=1.0)
    assert STEPS[steps[-1]].windows >= 2
    assert "cpu_share" in reasons


def test_all_is_told_again_on_the_next_day():
    """The budget of a day is not the next one's."""
    planner = Planner(Budget(bytes_per_day=100_000), WINDOW_S, 0.0)
    spent = Spent(sent_bytes=99_000)
    assert planner.reported(DAY_S - 600, spent, dict.fromkeys(range(len(STEPS)), 500.0))
    assert planner.step > 0
    assert planner.left(DAY_S - 600, spent) == 1000
    assert planner.left(DAY_S + 1, spent) == 100_000


def test_steps_tell_less_and_less_and_say_what():
    """Each is longer or narrower than the one before."""
    costs = [(step.columns / step.windows, -step.windows) for step in STEPS]
    assert costs == sorted(costs, reverse=True)
    assert STEPS[0].left_out() == "nothing"
    assert "battery_ratio" in STEPS[2].left_out()
    assert "sketches other than run_seconds" in STEPS[4].left_out()
