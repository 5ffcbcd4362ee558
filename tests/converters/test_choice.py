"""The choice among candidates: pure, so every rule is tested without a model."""

from converters.candidates.choice import Judged, outcome, select

FLOAT = Judged("fp32", "fp32", 1.0, 1.2)


def pick(*judged: Judged, max_drop: float = 0.01) -> str | None:
    winner, _ = select(judged, max_drop, "cosine")
    return winner.variant if winner else None


def test_select_fastest_within_the_gate_wins():
    """int8 that holds the gate and is faster is chosen."""
    assert pick(Judged("int8", "int8", 0.995, 2.0), FLOAT) == "int8"


def test_select_integers_slower_than_float_are_never_chosen():
    """int8 first in the profile's order but slower than fp32 loses."""
    assert pick(Judged("int8", "int8", 1.0, 1.1), FLOAT) == "fp32"


def test_select_integers_no_faster_than_noise_lose_to_float():
    """One percent is noise: float keeps its accuracy for nothing."""
    assert pick(Judged("int8", "int8", 1.0, 1.21), FLOAT) == "fp32"


def test_select_below_the_gate_is_never_chosen_however_fast():
    """A broken int8 at three times the speed loses."""
    assert pick(Judged("int8", "int8", 0.86, 3.0), FLOAT) == "fp32"


def test_select_plain_graph_wins_where_the_speed_passes_slow_it_down():
    """A rewrite that costs time on this machine is dropped by measurement."""
    assert pick(Judged("fp32", "fp32", 1.0, 0.8), Judged("fp32-plain", "fp32", 1.0, 1.0)) == "fp32-plain"


def test_select_takes_the_nearest_of_candidates_as_fast():
    """Two int8 within noise: the one nearer to the original; one that is slower by more than noise is not."""
    near, far = Judged("near", "int8", 1.0, 1.98, (1.0, 0.99)), Judged("far", "int8", 1.0, 2.0, (1.0, 0.95))
    assert pick(far, near, FLOAT) == "near"
    assert pick(far, Judged("slow", "int8", 1.0, 1.9, (1.0, 0.99)), FLOAT) == "far"
    assert select([far, near, FLOAT], 0.01, "cosine")[1] == "near is the nearest of the fastest, 1.98x the original"


def test_select_says_so_where_what_was_asked_for_is_slower_than_the_original():
    """--precision int8 gives int8; the reason tells what it costs."""
    assert select([Judged("int8", "int8", 1.0, 0.68)], 0.01, "cosine")[1].endswith("; it is slower than the original")
    assert "slower" not in select([Judged("plain", "fp32", 1.0, 0.99)], 0.01, "cosine")[1]


def test_select_rewrite_no_faster_than_noise_loses_to_the_graph_as_it_came():
    """One percent is noise: what the passes did has to be worth it."""
    plain = Judged("fp32-plain", "fp32", 1.0, 1.0)
    assert pick(Judged("fp32", "fp32", 1.0, 1.01), plain) == "fp32-plain"
    assert pick(Judged("fp32", "fp32", 1.0, 1.05), plain) == "fp32"


def test_select_without_times_takes_the_profiles_first_that_holds():
    """Where the time is not real, order decides, not the emulated time."""
    untimed = (Judged("int8", "int8", 0.9, None), Judged("fp32", "fp32", 1.0, None))
    assert pick(*untimed) == "fp32"
    assert pick(Judged("int8", "int8", 0.995, None), untimed[1]) == "int8"


def test_select_nothing_holds_names_the_best():
    """The reason says which candidate came nearest and its value."""
    winner, reason = select([Judged("int8", "int8", 0.5, 1.0), Judged("fp16", "fp16", 0.7, 1.0)], 0.01, "cosine")
    assert winner is None
    assert "fp16" in reason
    assert "0.7000" in reason


def test_select_reason_is_about_the_winner_alone():
    """What became of the others stands in the table of candidates, not in the reason."""
    _, reason = select([Judged("int8", "int8", 0.5, 2.0), FLOAT, Judged("plain", "fp32", 1.0, 1.0)], 0.01, "cosine")
    assert reason == "fp32 is the fastest that holds the gate, 1.20x the original"


def test_outcome_says_why_a_candidate_is_not_in_the_bundle():
    """Chosen, slower, below the gate, or not needed where times are not real."""
    slow, bad, late = Judged("a", "int8", 1.0, 0.5), Judged("b", "int8", 0.5, 2.0), Judged("c", "fp32", 1.0, None)
    words = [outcome(one, FLOAT, 0.01) for one in (FLOAT, slow, bad, late)]
    assert words == ["chosen", "slower", "below the gate", "later in the profile's order"]
