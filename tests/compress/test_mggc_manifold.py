import math

import pytest
import torch
from torch import nn

from compress.loop import Batch
from compress.methods.manifold import (
    NARROWEST,
    density_loss,
    find_manifold,
    neighbourhood_batches,
    neighbours_of,
    pooled_features,
    pooled_pixels,
)
from tests.compress.small import SmallGenerator, batch_at


def circle(count, radians=2 * math.pi):
    angles = torch.arange(count) * (radians / count)
    return torch.stack([angles.cos(), angles.sin()], 1)


class Painter(nn.Module):
    """Returns what it is given; has a parameter, as generators do."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.gain * images


def numbered(number):
    """The sample of a number: an image that says which it is, and its opposite for a truth."""
    image = torch.full((1, 3, 4, 4), float(number))
    return Batch(image, -image)


def test_on_a_circle_everybody_lives_between_two_neighbours():
    manifold = neighbours_of(circle(12), 2)
    assert manifold.neighbourhoods[:, 0].tolist() == list(range(12))
    for centre, *others in manifold.neighbourhoods.tolist():
        assert set(others) == {(centre - 1) % 12, (centre + 1) % 12}
    assert manifold.bandwidth == pytest.approx(2 * math.sin(math.pi / 12), rel=1e-3)


def test_a_twin_is_a_neighbour_and_not_the_centre():
    points = circle(4).repeat_interleave(2, 0)
    manifold = neighbours_of(points, 1)
    assert [pair[0] for pair in manifold.neighbourhoods.tolist()] == list(range(8))
    assert [pair[1] for pair in manifold.neighbourhoods.tolist()] == [1, 0, 3, 2, 5, 4, 7, 6]
    assert manifold.bandwidth >= NARROWEST


def test_there_must_be_as_many_neighbours():
    with pytest.raises(ValueError, match="cannot be found among 4 samples: take 1 to 3 neighbours"):
        neighbours_of(circle(4), 4)
    with pytest.raises(ValueError, match="and 0 others"):
        neighbours_of(circle(4), 0)


def test_neighbours_are_of_one_kind():
    """Bright and dark images, and what little they differ by beyond."""

    def sample_at(number):
        noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(number))
        return Batch((0.8 if number % 2 else -0.8) + 0.1 * noise)

    painter = Painter()
    manifold = find_manifold(painter, sample_at, samples=8, neighbours=3, embed=pooled_pixels)
    for neighbourhood in manifold.neighbourhoods.tolist():
        assert len({index % 2 for index in neighbourhood}) == 1
    assert painter.training


def test_the_manifold_is_that_of_what_the_generator_makes():
    generator = SmallGenerator()

    def sample_at(number):
        return batch_at(number, images=1)

    with torch.no_grad():
        made = [generator(sample_at(number).source) for number in range(1, 7)]
    want = neighbours_of(torch.cat([pooled_pixels(Batch(image), image) for image in made]), 2)
    got = find_manifold(generator, sample_at, samples=6, neighbours=2, embed=pooled_pixels)
    assert torch.equal(got.neighbourhoods, want.neighbourhoods)
    assert got.bandwidth == pytest.approx(want.bandwidth)


def test_every_centre_has_its_turn_with_its_neighbours():
    manifold = neighbours_of(circle(6), 2)
    at = neighbourhood_batches(manifold, numbered, seed=3)
    for turn in (0, 6):
        centres = []
        for step in range(turn + 1, turn + 7):
            batch = at(step)
            numbers = batch.source[:, 0, 0, 0].int().tolist()
            assert torch.equal(batch.target, -batch.source)
            assert [n - 1 for n in numbers] == manifold.neighbourhoods[numbers[0] - 1].tolist()
            centres.append(numbers[0])
        assert sorted(centres) == [1, 2, 3, 4, 5, 6]


def test_a_neighbourhood_follows_from_seed_and_step_alone():
    manifold = neighbours_of(circle(20), 2)
    first, again, other = (
        [
            int(neighbourhood_batches(manifold, numbered, seed=seed)(step).source[0, 0, 0, 0])
            for step in range(1, 41)
        ]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert first[:20] != first[20:]


def test_photos_without_a_truth_have_neighbourhoods_too():
    manifold = neighbours_of(circle(4), 1)
    at = neighbourhood_batches(manifold, lambda n: Batch(numbered(n).source), seed=0)
    assert at(1).target is None
    assert len(at(1).source) == 2


def test_the_density_is_the_kernel_estimate():
    theirs, ours, width = circle(5, 1.0), circle(5, 2.0), 0.4

    def log_density(samples):
        kernel = torch.exp(-torch.cdist(theirs, samples).square() / (2 * width**2))
        return kernel.mean(1).log()

    want = (log_density(ours) - log_density(theirs)).abs().mean()
    torch.testing.assert_close(density_loss(theirs, ours, width), want, rtol=1e-3, atol=1e-5)


def test_equal_sets_are_equally_dense_whoever_is_where():
    points = circle(6, 1.0)
    assert float(density_loss(points, points, 0.2)) == pytest.approx(0.0, abs=1e-6)
    assert float(density_loss(points, points.flip(0), 0.2)) == pytest.approx(0.0, abs=1e-6)


def test_one_image_for_all_is_not_as_dense():
    points = circle(6, 1.0)
    collapsed = points[2:3].expand(6, -1)
    assert float(density_loss(points, collapsed, 0.2)) > 0.5


def test_the_density_moves_ours_and_not_theirs():
    theirs = circle(6, 1.0).requires_grad_()
    ours = circle(6, 1.5).requires_grad_()
    density_loss(theirs, ours, 0.3).backward()
    assert theirs.grad is None
    assert float(ours.grad.abs().sum()) > 0


def test_embeddings_are_of_unit_length_at_any_size():
    for size in (24, 96):
        images = torch.rand(3, 3, size, size) * 2 - 1
        points = pooled_pixels(Batch(images), images)
        assert points.shape == (3, 768)
        torch.testing.assert_close(points.norm(dim=1), torch.ones(3))
    embed = pooled_features(lambda _batch, x: (x, x[:, :2, ::2, ::2] + 2))
    points = embed(Batch(images), images)
    assert points.shape == (3, 2)
    torch.testing.assert_close(points.norm(dim=1), torch.ones(3))
