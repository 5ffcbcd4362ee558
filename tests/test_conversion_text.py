"""What `edgert convert` prints for a person: made from the document alone, so no model is needed."""

from edgert.commands.conversion_text import candidate_lines, conversion_lines, layer_lines, stage_lines
from edgert.commands.plan_text import duration
from edgert.commands.printing import LINE_WIDTH, printable, progress_text

CHOSEN = {"precision": "int8", "variant": "qdq-minmax", "gate": 0.99714, "speedup": 1.5, "bytes": 3_050_000}
SLOW = {"precision": "fp32", "variant": "fp32", "gate": 1.0, "speedup": 1.0, "bytes": 9_000_000}
UNTRIED = {"precision": "mixed", "variant": "mixed", "gate": None, "speedup": None, "bytes": None}
CANDIDATES = [
    {**CHOSEN, "outcome": "chosen"},
    {**SLOW, "outcome": "slower"},
    {**UNTRIED, "outcome": "not tried:\nno \x1b[2Jtime"},
]
FAILED = {
    "path": None,
    "profile": "board",
    "digest": None,
    "chosen": None,
    "error": {"message": "nothing holds", "remedy": "give more", "refused_nodes": []},
    "candidates": [{**SLOW, "outcome": "below the gate"}],
    "layers": [],
}


def _layer(name: str, error: float) -> dict[str, object]:
    return {"layer": name, "node": "", "op_type": "Conv", "error": error, "alone": True, "decision": "float"}


def test_candidates_table_has_a_row_for_each_and_marks_the_chosen():
    """Variant, precision, size, the gate's value under its metric, speed-up and outcome; what is unknown is a dash."""
    (text,) = candidate_lines({"candidates": CANDIDATES, "chosen": "qdq"}, "cosine")
    header, chosen, slow, untried = text.splitlines()
    assert header.split() == ["candidate", "precision", "size", "cosine", "speed-up", "outcome"]
    assert chosen.split() == ["*", "qdq-minmax", "int8", "3.05", "MB", "0.9971", "1.50x", "chosen"]
    assert slow.split() == ["fp32", "fp32", "9.00", "MB", "1.0000", "1.00x", "slower"]
    assert untried.split()[:5] == ["mixed", "mixed", "-", "-", "-"]


def test_candidates_table_marks_the_variant_where_no_outcome_is_chosen():
    """A GPU's fp32 is in the bundle, and chosen where fp16 is not."""
    found = [{**SLOW, "outcome": "in the bundle"}, {**CHOSEN, "outcome": "below the gate"}]
    (text,) = candidate_lines({"candidates": found, "chosen": "fp32"}, "cosine")
    assert [line.strip()[0] == "*" for line in text.splitlines()] == [False, True, False]


def test_what_a_model_or_library_said_cannot_command_the_terminal():
    """Control characters are replaced, line breaks are blanks."""
    (text,) = candidate_lines({"candidates": CANDIDATES, "chosen": ""}, "cosine")
    assert "\x1b" not in text
    assert len(text.splitlines()) == 4
    assert printable("a\nb\x07") == "a b?"


def test_layers_table_has_the_five_costliest_first():
    """Of seven layers the five with the largest errors are shown, and none where there are no layers."""
    layers = [_layer(f"layer{number}", number / 100) for number in range(7)]
    (text,) = layer_lines(layers)
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["layer6", "layer5", "layer4", "layer3", "layer2"]
    assert list(layer_lines([])) == []


def test_stage_lines_show_what_took_a_twentieth_of_the_time():
    """The longest first; a stage of 4.9 % is left out, one of 5 % is not."""
    times = {"passes": 5.0, "calibrating": 90.1, "writing": 4.9}
    lines = list(stage_lines([{"stage": name, "seconds": seconds} for name, seconds in times.items()]))
    assert lines[0].strip() == "time: 100.0 s"
    assert [line.split()[-1] for line in lines[1:]] == ["calibrating", "passes"]
    assert list(stage_lines([])) == []


def test_failed_profile_shows_what_was_tried():
    """The error, its remedy and the table of candidates; of a score the column is the fall."""
    evaluation = {"metric": "top1", "kind": "labels", "samples": 9, "note": "accuracy", "original": 0.5}
    document = {"source": {"parity": None}, "evaluation": evaluation, "bundles": [FAILED], "stages": [], "report": None}
    text = "\n".join(conversion_lines(document))
    for words in ("board", "failed: nothing holds", "remedy: give more", "below the gate", "1 - drop of top1"):
        assert words in text
    assert "the original has 0.5000" in text


def test_progress_has_percent_where_the_end_is_known():
    """A bar with percent and counts, the stage alone without a total, one line in any case."""
    assert progress_text("calibrating", 16, 64) == "[######..................]  25 % 16/64 calibrating"
    assert "100 % 9/8" in progress_text("more than expected", 9, 8)
    assert progress_text("timing", 0, 0) == "timing"
    assert len(progress_text("x" * 500, 1, 2)) == LINE_WIDTH


def test_duration_is_short():
    """Seconds, minutes, hours."""
    assert [duration(one) for one in (0.123, 4.26, 110.0, 600.0, 9000.0)] == [
        "0.12 s",
        "4.3 s",
        "110 s",
        "10 min",
        "2.5 h",
    ]
