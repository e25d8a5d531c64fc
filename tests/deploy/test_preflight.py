from __future__ import annotations

import pytest

from deploy import graph
from deploy.preflight import preflight


def test_what_it_tells_people(make_student, make_profile):
    model, summary = preflight(make_student(), make_profile())
    assert graph.opset(model) == 18
    assert summary.startswith("opset 18, 8 operators of 5 kinds, at least 0 of 512 MiB at 32 x 32")


def test_an_older_runtime_gets_an_older_opset(make_student, make_profile):
    model, summary = preflight(make_student(), make_profile(opset=17))
    assert graph.opset(model) == 17
    assert summary.startswith("opset 17")


def test_operators_a_device_lacks_are_named_with_a_remedy(make_student, make_profile):
    profile = make_profile(unsupported_operators=("Pad", "Selu"))
    with pytest.raises(ValueError, match="here cannot run Pad") as refused:
        preflight(make_student(op="Selu"), profile)
    assert str(refused.value) == (
        "here cannot run Pad (2 times): use a student family that pads inside its convolutions; "
        "Selu (1 times): choose another student family or another device"
    )


def test_a_student_that_does_not_fit(make_student, make_profile):
    with pytest.raises(
        ValueError, match=r"takes at least \d+ MiB at 1024 x 1024 and here allows 16: prune"
    ):
        preflight(make_student(), make_profile(memory_mib=16, image_size=1024))
