"""The table [input]: what each kind takes, and that everything else is refused by the name of its key."""

from pathlib import Path

import pytest

from edgert.agent.input_config import (
    CallableConfig,
    CameraConfig,
    FolderConfig,
    HttpConfig,
    MicrophoneConfig,
    parse_input,
)
from edgert.errors import BadInput
from edgert.strict_toml import loads

AT = Path("/at")


def parse(text: str) -> object:
    return parse_input(loads(text, "agent.toml").table("input"), AT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('kind = "folder"\nfolder = "in"', FolderConfig(AT / "in", 1.0)),
        ('kind = "callable"\nfunction = "m:f"\nevery_s = 0', CallableConfig("m:f", 0.0)),
        ('kind = "camera"\ndevice = 0', CameraConfig(0, None, 1.0, False)),
        ('kind = "camera"\ndevice = "/dev/video2"\nevery_s = 0', CameraConfig("/dev/video2", None, 0.0, False)),
        ('kind = "camera"\ndevice = "rtsp://cam/1"', CameraConfig("rtsp://cam/1", None, 1.0, False)),
        ('kind = "camera"\nfile = "v.mp4"\nloop = true', CameraConfig(None, AT / "v.mp4", 0.0, True)),
        ('kind = "microphone"\ndevice = ""', MicrophoneConfig("", None, 0.0, 0.0, False)),
        ('kind = "microphone"\nfile = "s.wav"\nwindow_s = 2', MicrophoneConfig(None, AT / "s.wav", 0.0, 2.0, False)),
        ('kind = "http"\nlisten = "127.0.0.1:8080"', HttpConfig("127.0.0.1", 8080, 8, 10_000_000, 10.0, None)),
        ('kind = "http"\nlisten = "[::1]:0"\nqueue = 1', HttpConfig("::1", 0, 1, 10_000_000, 10.0, None)),
        (
            'kind = "http"\nlisten = "0.0.0.0:80"\ntoken_file = "token"',
            HttpConfig("0.0.0.0", 80, 8, 10_000_000, 10.0, AT / "token"),
        ),
    ],
)
def test_input_of_each_kind_has_its_keys_and_defaults(text, expected):
    """Paths are relative to the file's folder."""
    assert parse(f"[input]\n{text}") == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"'input\.kind' is missing"),
        ('kind = "cam"', r"'input\.kind' holds 'cam'"),
        ('kind = "folder"', r"'input\.folder' is missing"),
        ('kind = "folder"\nfolder = "in"\nlisten = "127.0.0.1:1"', r"'input\.listen' is not a known key"),
        ('kind = "callable"', r"'input\.function' is missing"),
        ('kind = "camera"', r"'input\.device' is missing"),
        ('kind = "camera"\ndevice = 0\nfile = "v.mp4"', r"'input\.device' is there beside file"),
        ('kind = "camera"\ndevice = -1', r"'input\.device' is -1"),
        ('kind = "camera"\ndevice = true', r"'input\.device' is True"),
        ('kind = "camera"\ndevice = "ftp://cam"', r"'input\.device' is 'ftp://cam'"),
        ('kind = "camera"\ndevice = 0\nloop = true', r"'input\.loop' is true"),
        ('kind = "camera"\nfile = "v.mp4"\nloop = 1', r"'input\.loop' is 1"),
        ('kind = "camera"\nfile = "v.mp4"\nwindow_s = 1', r"'input\.window_s' is not a known key"),
        ('kind = "microphone"\nfile = "s.wav"\nwindow_s = 0', r"'input\.window_s' is 0"),
        ('kind = "microphone"\nfile = "s.wav"\nevery_s = -1', r"'input\.every_s' is -1"),
        ('kind = "http"', r"'input\.listen' is missing"),
        ('kind = "http"\nlisten = "8080"', r"'input\.listen' is '8080'"),
        ('kind = "http"\nlisten = "127.0.0.1:99999"', r"'input\.listen' is '127\.0\.0\.1:99999'"),
        ('kind = "http"\nlisten = "example.org:80"', r"'input\.listen' is 'example\.org:80'"),
        ('kind = "http"\nlisten = "0.0.0.0:80"', r"'input\.token_file' is missing, but 0\.0\.0\.0 can be reached"),
        ('kind = "http"\nlisten = "[::]:80"', r"'input\.token_file' is missing"),
        ('kind = "http"\nlisten = "127.0.0.1:80"\nqueue = 0', r"'input\.queue' is 0"),
        ('kind = "http"\nlisten = "127.0.0.1:80"\nmax_body_bytes = 0', r"'input\.max_body_bytes' is 0"),
        ('kind = "http"\nlisten = "127.0.0.1:80"\ntimeout_s = 0', r"'input\.timeout_s' is 0"),
    ],
)
def test_input_that_is_wrong_names_its_key(text, reason):
    """Missing, unknown to this kind, out of range, contradictory: the key, and what to do."""
    with pytest.raises(BadInput, match=reason) as caught:
        parse(f"[input]\n{text}")
    assert caught.value.remedy
