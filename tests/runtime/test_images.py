"""Pictures as model input: layouts, colours, the three ways to resize, and files that are not pictures."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgert.errors import BadInput
from edgert.image_spec import ImageSpec
from edgert.runtime.images import default_image_spec, frame_input, load_image, takes_image

RAW = ImageSpec(std=(1.0,))


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Return a picture of 8x4 pixels: the left half (200, 100, 50), the right half (10, 20, 30)."""
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4], pixels[:, 4:] = (200, 100, 50), (10, 20, 30)
    path = tmp_path / "wide.png"
    Image.fromarray(pixels).save(path)
    return path


def test_load_image_nchw_and_nhwc_hold_the_same_values(wide: Path) -> None:
    """Where the channels are decides the layout, and the values are the pixels."""
    planar = load_image(wide, RAW, (1, 3, 4, 8), "float32")
    packed = load_image(wide, RAW, ("N", 4, 8, 3), "float32")
    assert planar.shape == (1, 3, 4, 8)
    assert packed.shape == (1, 4, 8, 3)
    assert planar.flags.c_contiguous
    np.testing.assert_array_equal(planar.transpose(0, 2, 3, 1), packed)
    np.testing.assert_array_equal(planar[0, :, 0, 0], (200, 100, 50))
    np.testing.assert_array_equal(planar[0, :, 0, 7], (10, 20, 30))


def test_load_image_bgr_reverses_channels_before_mean_and_std(wide: Path) -> None:
    """mean and std are in the order of `color`."""
    spec = ImageSpec(color="bgr", mean=(50.0, 100.0, 200.0), std=(1.0, 2.0, 4.0))
    pixel = load_image(wide, spec, (1, 3, 4, 8), "float32")[0, :, 0, 7]
    np.testing.assert_allclose(pixel, ((30 - 50) / 1, (20 - 100) / 2, (10 - 200) / 4))


def test_load_image_gray_has_one_channel(wide: Path) -> None:
    """Gray is the luma of ITU-R 601."""
    values = load_image(wide, ImageSpec("gray", std=(1.0,)), (1, 1, 4, 8), "float32")
    assert values[0, 0, 0, 0] == round(200 * 0.299 + 100 * 0.587 + 50 * 0.114)


def test_load_image_stretch_fills_the_area(wide: Path) -> None:
    """Both halves are there after the aspect ratio is given up."""
    values = load_image(wide, RAW, (1, 3, 4, 4), "float32")[0]
    assert values[0, 2, 0] > 150
    assert values[0, 2, 3] < 50


def test_load_image_pad_keeps_the_ratio_and_fills_with_zeros(wide: Path) -> None:
    """A wide picture in a square leaves zeros below, whatever the mean is."""
    values = load_image(wide, ImageSpec(mean=(127.5,), std=(127.5,), resize="pad"), (1, 3, 8, 8), "float32")[0]
    assert values[0, 0, 0] == pytest.approx((200 - 127.5) / 127.5)
    assert values[0, 3, 7] == pytest.approx((10 - 127.5) / 127.5)
    assert not values[:, 4:].any()


def test_load_image_crop_keeps_the_middle(tmp_path: Path) -> None:
    """What sticks out is cut evenly on both sides."""
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 255
    Image.fromarray(pixels).save(tmp_path / "bar.png")
    values = load_image(tmp_path / "bar.png", ImageSpec("gray", resize="crop"), (1, 1, 4, 4), "float32")
    np.testing.assert_array_equal(values, np.ones((1, 1, 4, 4), np.float32))


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(1, 500), (500, 1), (37, 53)])
def test_load_image_of_any_ratio_fits(tmp_path: Path, resize: str, size: tuple[int, int]) -> None:
    """Extreme pictures still give an array of the asked shape."""
    Image.new("RGB", size, (255, 255, 255)).save(tmp_path / "p.png")
    values = load_image(tmp_path / "p.png", ImageSpec(resize=resize), (1, 3, 24, 32), "float32")
    assert values.shape == (1, 3, 24, 32)
    assert values.max() == 1.0


PATTERN = (np.add.outer(np.arange(5) * 37, np.arange(7) * 53)[:, :, None] * np.array([1, 2, 3]) % 256).astype(np.uint8)


@pytest.mark.parametrize(
    ("spec", "height", "expected"),
    [
        (
            ImageSpec(std=(1.0,), resize="crop", filter="bicubic", shortest_edge=4),
            3,
            [
                [[88, 180, 138], [135, 214, 117], [186, 105, 63]],
                [[152, 114, 117], [125, 152, 150], [147, 101, 153]],
                [[108, 172, 102], [79, 132, 188], [137, 100, 163]],
            ],
        ),
        (
            ImageSpec(std=(1.0,), filter="bicubic"),
            2,
            [
                [[73, 170, 88], [163, 119, 131]],
                [[119, 135, 120], [151, 137, 134]],
                [[93, 139, 130], [155, 132, 130]],
            ],
        ),
    ],
    ids=["clip", "vit"],
)
def test_load_image_equals_what_transformers_gave(
    tmp_path: Path, spec: ImageSpec, height: int, expected: list[object]
) -> None:
    """The pixels are those of CLIPImageProcessor and ViTImageProcessor of transformers 4.57.6, 7 x 5 pixels in."""
    Image.fromarray(PATTERN).save(tmp_path / "p.png")
    values = load_image(tmp_path / "p.png", spec, (1, 3, height, 3), "float32")
    np.testing.assert_array_equal(values[0], expected)


def test_load_image_with_a_shortest_edge_and_a_needle_is_refused(tmp_path: Path) -> None:
    """A picture that is one pixel wide would become billions of pixels."""
    Image.new("L", (1, 60_000)).save(tmp_path / "needle.png")
    spec = ImageSpec("gray", resize="crop", shortest_edge=256)
    with pytest.raises(BadInput, match=r"needle\.png.* 1 x 60000"):
        load_image(tmp_path / "needle.png", spec, (1, 1, 224, 224), "float32")


def test_load_image_turns_as_the_camera_says(tmp_path: Path) -> None:
    """The orientation in the picture's metadata is obeyed."""
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 6:] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[274] = 6  # turn right by 90 degrees to see it upright
    image.save(tmp_path / "p.png", exif=exif)
    values = load_image(tmp_path / "p.png", ImageSpec("gray"), (1, 1, 8, 4), "float32")[0, 0]
    assert values[7].min() == 1.0
    assert values[0].max() == 0.0


def test_load_image_for_uint8_gives_pixels_as_they_are(wide: Path) -> None:
    """A model that normalises by itself gets bytes; mean and std with it contradict each other."""
    values = load_image(wide, RAW, (1, 4, 8, 3), "uint8")
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values[0, 0, 0], (200, 100, 50))
    with pytest.raises(BadInput, match="mean and std"):
        load_image(wide, ImageSpec(), (1, 4, 8, 3), "uint8")


def test_load_image_for_float16_is_float16(wide: Path) -> None:
    """The dtype is the input's."""
    assert load_image(wide, ImageSpec(), (1, 3, 4, 8), "float16").dtype == np.float16


@pytest.mark.parametrize(
    ("shape", "dtype", "named", "remedy"),
    [
        ((1, 3, 48, "W"), "float32", "dimension 3 (width, 'W') of shape 1x3x48xW is free", "--shape"),
        ((1, None, 32, 3), "float32", "dimension 1 (height, '?')", "--shape"),
        ((1, 1, 4, 8), "float32", "3 channels", "--image"),
        ((3, 4, 8), "float32", "shape 3x4x8", "--shape"),
        ((2, 3, 4, 8), "float32", "one picture cannot fill 2", ".npy"),
        ((1, 3, 4, 8), "int64", "takes int64", ".npy"),
    ],
)
def test_load_image_into_a_shape_without_room_names_it(
    wide: Path, shape: tuple[int | str | None, ...], dtype: str, named: str, remedy: str
) -> None:
    """An input that a picture cannot fill is named, with what to do."""
    with pytest.raises(BadInput) as caught:
        load_image(wide, RAW, shape, dtype)
    assert named in caught.value.message
    assert remedy in caught.value.remedy


def test_load_image_of_broken_files_is_bad_input(wide: Path, tmp_path: Path) -> None:
    """Text, half a picture and nothing at all are named as such; none gives a half-black array."""
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "half.png").write_bytes(wide.read_bytes()[: wide.stat().st_size * 2 // 3])
    for name in ("text.png", "half.png", "absent.png"):
        with pytest.raises(BadInput, match=name):
            load_image(tmp_path / name, RAW, (1, 3, 4, 8), "float32")


def test_load_image_with_16_bits_is_refused(tmp_path: Path) -> None:
    """Pixels that would be clipped to white are refused, not used."""
    Image.fromarray(np.full((4, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BadInput, match="I;16"):
        load_image(tmp_path / "deep.png", RAW, (1, 3, 4, 8), "float32")


def test_load_image_without_pillow_names_the_extra(wide: Path) -> None:
    """The base install says which command makes pictures work."""
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from pathlib import Path\n"
        "from edgert.errors import MissingExtra\n"
        "from edgert.image_spec import ImageSpec\n"
        "from edgert.runtime.images import load_image\n"
        "try:\n    load_image(Path(sys.argv[1]), ImageSpec(), (1, 3, 4, 8), 'float32')\n"
        "except MissingExtra as error:\n    print(error.exit_code, error.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(wide)], capture_output=True, text=True, check=True)
    assert done.stdout == "3 pip install 'edgert[media]'\n"


def test_default_image_spec_follows_channels_and_dtype() -> None:
    """Without rules, floats are 0..1 and bytes are bytes."""
    assert default_image_spec((1, 3, 4, 8), "float32") == ImageSpec()
    assert default_image_spec((1, 4, 8, 1), "float32").color == "gray"
    assert default_image_spec((1, 4, 8, 3), "uint8").std == (1.0,)
    assert takes_image((None, 3, "H", "W"), "float16")
    assert not takes_image((1, 3, 4, 8), "int64")
    assert not takes_image((1, 80, 4, 8), "float32")
    assert not takes_image((1, 3), "float32")


@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("rules", [{"resize": "stretch"}, {"resize": "pad"}, {"resize": "crop"}, {"shortest_edge": 9}])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_frame_input_is_to_the_bit_what_a_file_of_its_pixels_is(tmp_path: Path, color, rules, filter) -> None:
    """Only the decoding differs: colours, sizes, layouts and numbers are of the same code."""
    pixels = np.random.default_rng(0).integers(0, 256, (31, 17, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    spec = ImageSpec(color=color, mean=(10.0,), std=(3.0,), filter=filter, **rules)
    for shape in ((1, spec.channels, 8, 12), (1, 8, 12, spec.channels)):
        expected = load_image(tmp_path / "x.png", spec, shape, "float32")
        backwards = np.ascontiguousarray(pixels[:, :, ::-1])
        for frame in (pixels, backwards[:, :, ::-1]):  # the latter a view, as a frame of OpenCV is
            np.testing.assert_array_equal(frame_input(frame, spec, shape, "float32"), expected)


def test_frame_input_names_the_frame_that_does_not_fit() -> None:
    """As for a file: what is wrong, and with what."""
    with pytest.raises(BadInput, match=r"'cam\[3\]'"):
        frame_input(np.zeros((4, 4, 3), np.uint8), RAW, (1, 3, None, None), "float32", "cam[3]")


def test_load_image_with_more_pixels_than_allowed_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """The header says how many there are; the rest of this file is missing, and nobody looks."""
    Image.new("RGB", (1000, 1000)).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:60])
    with pytest.raises(BadInput, match="1000 x 1000 pixels, at most 999999 are read"):
        load_image(tmp_path / "x.png", RAW, (1, 3, 4, 4), "float32", max_pixels=999_999)
