"""Reports that cannot be true."""

from __future__ import annotations

import json
import math

import pytest

from devices.remote.believe import believe
from devices.remote.words import BoardError
from devices.sealed import read_sealed

HOUR_S = 3600.0


@pytest.fixture
def read(bundle, report):
    """Believes a report of which some fields were changed."""
    sealed = read_sealed(bundle)

    def believed(wall_s=HOUR_S, architecture=report.machine.architecture, **changes):
        values = {**json.loads(report.model_dump_json()), **changes}
        text = json.dumps(values).encode()
        return believe(text, sealed, "rapid", architecture=architecture, wall_s=wall_s)

    return believed


def test_an_honest_report_is_believed(read, report):
    assert read() == report


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engine_sha256": "f" * 64}, "engine_sha256 is ffff.* was asked for"),
        ({"profile": "jetson"}, "profile is jetson, and cpu was asked for"),
        ({"backend": "tensorrt"}, "backend is tensorrt"),
        ({"precision": "int8"}, "precision is int8"),
        ({"image_size": 8}, "image_size is 8, and 16 was asked for"),
        ({"mode": "normal"}, "mode is normal, and rapid was asked for"),
        ({"load_ms": math.nan}, "one of its numbers is nan"),
        ({"peak_rss_mib": math.inf}, "one of its numbers is inf"),
        ({"samples_ms": [math.nan] * 64}, "one of its numbers is nan"),
        ({"first_ms": -1.0}, "first_ms has -1, a time is more than 0"),
        ({"samples_ms": [1.0] * 63 + [-1.0]}, "samples_ms has -1"),
        ({"samples_ms": [2.0] * 64}, r"p50\.value_ms is 1.0315, its own samples give 2"),
        ({"samples_ms": [1.0] * 10}, "it has 10 images, the mode rapid wants 64"),
        ({"p90": None}, "p90 does not fit 64 images"),
        ({"p99": {"value_ms": 1.0, "upper_ms": 1.1}}, "p99 does not fit 64 images"),
        ({"wall_s": 0.0, "load_ms": 2e3}, r"its images took 2.4 s together, and 0.0 s passed"),
        ({"architecture": "sparc"}, "it measured on .* and is sparc"),
        ({"fingerprint": "0" * 12}, "fingerprint 000000000000 is not that of the machine"),
    ],
)
def test_a_report_that_lies(changes, said, read):
    with pytest.raises(BoardError, match=f"^its report cannot be believed: .*{said}"):
        read(**changes)


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\u202e", "x" * 1001])
def test_texts_that_would_do_something_to_a_terminal(text, read, report):
    machine = json.loads(report.machine.model_dump_json()) | {"cpu": text}
    with pytest.raises(BoardError, match="one of its texts is not for people: '"):
        read(machine=machine)
    conditions = json.loads(report.conditions.model_dump_json())
    span = {"low": 1.0, "median": 1.0, "high": 1.0}
    with pytest.raises(BoardError, match="one of its texts is not for people: '"):
        read(conditions={**conditions, "clocks_mhz": {text: span}})


def test_a_machine_that_nobody_watched(read, report):
    conditions = report.conditions.model_copy(update={"readings": 0})
    with pytest.raises(BoardError, match="nobody looked at its clocks meanwhile"):
        read(conditions=json.loads(conditions.model_dump_json()))


def test_a_slow_board_may_stop_before_its_images_are_enough(read, report, make_report, bundle):
    slow = {"samples_ms": [7000.0] * 6, "p50": None, "p90": None}
    assert len(read(**slow).samples_ms) == 6


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 3}', b"null", b"1e999"],
)
def test_what_is_no_report(text, bundle):
    with pytest.raises(BoardError, match=r"^its report is none: [\x20-\x7e]{1,300}$"):
        believe(text, read_sealed(bundle), "rapid", architecture="x86_64", wall_s=1.0)
