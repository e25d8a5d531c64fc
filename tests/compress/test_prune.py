import pytest
import torch

from compress.macs import cost
from compress.models.generators import ResnetWidths
from compress.prune import prune_to_macs
from tests.compress.conftest import tiny_generator


@pytest.mark.parametrize(
    ("norm", "importance"),
    [("batch", "magnitude"), ("batch", "batchnorm"), ("instance", "magnitude")],
)
def test_pruning_reaches_its_budget_in_multiples(norm, importance):
    teacher = tiny_generator(16, norm=norm, blocks=6)
    student = prune_to_macs(teacher, macs_reduction=3.0, channel_multiple=4, importance=importance)
    assert cost(teacher, 64).macs / cost(student, 64).macs >= 3.0
    widths = student.widths
    every = (widths.stem, widths.down, widths.stream, *widths.inner, widths.up, widths.head)
    assert all(width % 4 == 0 for width in every)
    assert student(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_the_teacher_stays_as_it_was():
    teacher = tiny_generator(16, blocks=6)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    prune_to_macs(teacher, macs_reduction=2.0, channel_multiple=8)
    assert teacher.widths == ResnetWidths.uniform(16, 6)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_weights_are_inherited_and_the_strongest_channels_stay():
    teacher = tiny_generator(16, blocks=6)
    with torch.no_grad():
        teacher.model[1].weight[::2] *= 100  # even channels of the stem matter most
        teacher.model[4].weight[:, ::2] *= 100
    student = prune_to_macs(teacher, macs_reduction=3.0, channel_multiple=4)
    kept = student.model[1].weight
    assert len(kept) < 16
    strong = teacher.model[1].weight[::2]
    assert all(any(torch.equal(channel, other) for other in strong) for channel in kept)


def test_the_blocks_can_meet_the_budget_alone():
    student = prune_to_macs(
        tiny_generator(16, blocks=6), macs_reduction=3.0, channel_multiple=4, outer_share=0.25
    )
    widths = student.widths
    assert (widths.stem, widths.down, widths.stream, widths.up, widths.head) == (12, 24, 48, 24, 12)
    assert set(widths.inner) == {max(widths.inner)}
    assert max(widths.inner) < 48


def test_a_budget_out_of_reach_says_what_is():
    with pytest.raises(ValueError, match=r"macs_reduction 500.* out of reach: 8 channels in every"):
        prune_to_macs(tiny_generator(16, blocks=6), macs_reduction=500, channel_multiple=8)
