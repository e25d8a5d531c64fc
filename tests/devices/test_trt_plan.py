import pytest

from devices.trt_plan import numbers, plan_version, strongly_typed
from tests.tensorrt.played import plan_of


@pytest.mark.parametrize(
    ("version", "parts", "strong"),
    [
        ("8.2", (8, 2), False),
        ("8.6.1", (8, 6, 1), False),
        ("10.3.0", (10, 3, 0), False),
        ("10.11.0.33", (10, 11, 0, 33), False),
        ("10.12", (10, 12), True),
        ("10.13.3.9.post1", (10, 13, 3, 9), True),
        ("11.4.0.106", (11, 4, 0, 106), True),
    ],
)
def test_a_network_is_strongly_typed_from_10_12_on(version, parts, strong):
    assert numbers(version) == parts
    assert strongly_typed(version) is strong


def test_not_a_version():
    with pytest.raises(ValueError, match=r"'newest' is not a TensorRT version such as '10\.3'"):
        strongly_typed("newest")


def test_the_version_is_in_the_header_of_a_plan(tmp_path):
    plan = tmp_path / "engine.plan"
    plan.write_bytes(plan_of("10.13.3.9"))
    assert plan_version(plan) == (10, 13, 3, 9)


@pytest.mark.parametrize(
    "header", [b"", b"ftrt", b"ptrt" + bytes(40), b"ftrt" + b"\x01" + bytes(40)]
)
def test_another_header_tells_nothing(tmp_path, header):
    plan = tmp_path / "engine.plan"
    plan.write_bytes(header)
    assert plan_version(plan) is None
