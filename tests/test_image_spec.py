"""The command line form and the manifest form of an image specification."""

import pytest

from edgert import strict_json
from edgert.errors import BadInput, UsageError
from edgert.image_spec import ImageSpec, parse_image_spec


def test_image_spec_of_empty_text_is_the_default() -> None:
    """No rules mean RGB, divided by 255, stretched."""
    assert parse_image_spec("") == ImageSpec("rgb", (0.0,), (255.0,), "stretch")


def test_image_spec_with_all_keys_is_read_exactly() -> None:
    """Every key of the command line form arrives, one number or three."""
    spec = parse_image_spec("color=bgr, mean=123.7/116.3/103.5, std=58, resize=pad")
    assert spec == ImageSpec("bgr", (123.7, 116.3, 103.5), (58.0,), "pad")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("filter=cubic", "did you mean 'bicubic'"),
        ("resize=crop,shortest_edge=0", "out of range"),
        ("resize=crop,shortest_edge=70000", "out of range"),
        ("resize=crop,shortest_edge=1.5", "shortest_edge '1.5'"),
        ("shortest_edge=256", "needs resize=crop, not stretch"),
        ("colour=rgb", "'color'"),
        ("color=bgrr", "'bgr'"),
        ("resize=padd", "'pad'"),
        ("mean", "key=value"),
        ("mean=a", "mean 'a'"),
        ("mean=1/2", "mean has 2 numbers"),
        ("color=gray,mean=1/2/3", "gray takes 1"),
        ("std=0", "divide by zero"),
        ("std=nan", "not finite"),
        ("mean=1,mean=2", "twice"),
        ("color=", "'' is not one of"),
    ],
)
def test_image_spec_with_a_slip_names_it(text: str, named: str) -> None:
    """A wrong key, word or number is an error that names it, and the nearest right one where there is one."""
    with pytest.raises(UsageError) as caught:
        parse_image_spec(text)
    assert named in caught.value.message
    assert "color=bgr" in caught.value.remedy


@pytest.mark.parametrize(
    "spec",
    [
        ImageSpec("gray", (127.5,), (127.5,), "crop"),
        ImageSpec(resize="crop", filter="bicubic", shortest_edge=256),
        ImageSpec(filter="lanczos"),
    ],
)
def test_image_spec_through_json_is_the_same(spec: ImageSpec) -> None:
    """What a manifest holds is read back as it was."""
    assert ImageSpec.from_json(strict_json.loads(strict_json.dumps(spec.to_json()), "test")) == spec


def test_image_spec_to_json_leaves_the_newer_keys_out_where_default() -> None:
    """A manifest that an older edgert wrote keeps its bytes, and so its digest."""
    assert sorted(ImageSpec().to_json()) == ["color", "mean", "resize", "std"]


def test_image_spec_words_of_a_vision_model_are_read() -> None:
    """The command line form has the filter and the shorter side too."""
    spec = parse_image_spec("resize=crop,filter=bicubic,shortest_edge=256")
    assert spec == ImageSpec(resize="crop", filter="bicubic", shortest_edge=256)


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([], "list"),
        ({"color": 3}, "'color' is int"),
        ({"mean": "0"}, "'mean' is str"),
        ({"mean": [True]}, "holds True"),
        ({"mean": [10**400]}, "holds 1000"),
        ({"mean": [], "std": []}, "0 numbers"),
        ({"resize": "fit"}, "'fit'"),
        ({"filter": "area"}, "'area'"),
        ({"resize": "crop", "shortest_edge": "256"}, "'shortest_edge' is str"),
        ({"resize": "crop", "shortest_edge": True}, "'shortest_edge' is bool"),
        ({"resize": "pad", "shortest_edge": 256}, "needs resize=crop"),
        ({"crop": 1}, "unknown key 'crop'"),
    ],
)
def test_image_spec_from_a_defective_document_is_bad_input(document: object, named: str) -> None:
    """A manifest with a wrong specification is refused, with its name and the defect."""
    with pytest.raises(BadInput) as caught:
        ImageSpec.from_json(document, "manifest.json inputs[0].image")
    assert "manifest.json inputs[0].image" in caught.value.message
    assert named in caught.value.message
