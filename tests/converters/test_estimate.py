"""The estimate of a dry run: arithmetic on one timed run."""

from dataclasses import replace

import pytest

from converters.candidates.planned import Planned
from converters.estimate import Measured, estimate

FLOAT, INT8 = Planned("fp32", "fp32"), Planned("qdq-s8s8-minmax", "int8")
MAYBE = Planned("qdq-s8s8-kl", "int8", "where its ranges are new")
MIXED = Planned("qdq-s8s8-*-mixed-*", "mixed", "where int8 misses the gate")
HERE = Measured(run_s=0.1, open_s=0.01, passes_s=0.5, samples=64, budget_s=6.0, host=False)


def test_estimate_without_conditions_is_one_number():
    """What is tried in any case takes as long at least as at most."""
    found = estimate([FLOAT, INT8], HERE)
    assert found.least_s == found.most_s > 0


@pytest.mark.parametrize("further", [MAYBE, MIXED])
def test_estimate_of_a_candidate_under_a_condition_raises_only_the_most(further):
    """What may be tried makes no difference to what is sure."""
    sure, more = estimate([FLOAT, INT8], HERE), estimate([FLOAT, INT8, further], HERE)
    assert more.least_s == sure.least_s
    assert more.most_s > sure.most_s


def test_estimate_counts_every_sample_through_candidate_and_original():
    """Twice the samples of a slow model take about twice as long; at least two runs a sample and candidate."""
    once, twice = (estimate([FLOAT], replace(HERE, samples=count, budget_s=0.0)).most_s for count in (1000, 2000))
    assert once >= 2 * 1000 * HERE.run_s
    assert twice - once == pytest.approx(2 * 1000 * HERE.run_s)


def test_estimate_of_float_alone_has_no_calibration():
    """Calibration is paid once, by whatever needs ranges."""
    timed = replace(HERE, budget_s=0.0)
    floats, mixed_in = estimate([FLOAT, FLOAT], timed), estimate([FLOAT, INT8], timed)
    two = estimate([FLOAT, INT8, INT8], timed).most_s - mixed_in.most_s
    assert mixed_in.most_s > floats.most_s
    assert two == pytest.approx(2 * 64 * HERE.run_s + 2 * HERE.open_s)


def test_estimate_of_timing_stays_in_its_budget():
    """However slow the model is, timing it ends with the budget; where times are not real it is short."""
    none, some = (estimate([FLOAT], replace(HERE, budget_s=budget, host=True)).most_s for budget in (0.0, 2.0))
    assert some - none == pytest.approx(2.0)
    assert estimate([FLOAT], HERE).most_s < estimate([FLOAT], replace(HERE, host=True)).most_s


def test_estimate_holds_the_graph_passes_once():
    """They run once for a profile, however many candidates there are."""
    without = replace(HERE, passes_s=0.0)
    for candidates in ([FLOAT], [FLOAT, INT8, MAYBE]):
        more = estimate(candidates, HERE).most_s - estimate(candidates, without).most_s
        assert more == pytest.approx(HERE.passes_s)
