import numpy as np
import torch
from torch import nn

from compress.evaluate import translate
from compress.samples import choose_samples
from deploy.grid import GAP, HEADER
from tests.compress.small import SmallGenerator


class Held:
    """Images whose numbers are their levels, and truths that are brighter."""

    def __init__(self, count, size, scale=1, truth=True):
        self.count, self.size, self.scale, self.truth = count, size, scale, truth

    def __len__(self):
        return self.count

    def whole(self, index, *, multiple):
        height, width = (n - n % multiple for n in self.size)
        source = np.full((height, width, 3), index, np.uint8)
        target = np.full((height * self.scale, width * self.scale, 3), 100 + index, np.uint8)
        return source, target if self.truth else None


class Enlarger(nn.Module):
    taps, multiple, scale, spec = (), 1, 2, {}

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.gain * nn.functional.interpolate(images, scale_factor=2)


def test_samples_are_spread_over_the_split_and_cut_to_what_fits():
    samples = choose_samples(Held(11, (301, 99)), SmallGenerator())
    assert [int(image[0, 0, 0]) for image in samples.source] == [0, 5, 10]
    assert {image.shape for image in samples.source} == {(256, 96, 3)}
    assert [int(image[0, 0, 0]) for image in samples.truth] == [100, 105, 110]
    assert samples.teacher == ()


def test_one_image_is_enough():
    assert len(choose_samples(Held(1, (16, 16)), SmallGenerator()).source) == 1


def test_a_sheet_has_a_column_for_each():
    student, teacher = SmallGenerator(), SmallGenerator(seed=3)
    samples = choose_samples(Held(3, (16, 16)), student, teacher=teacher)
    assert np.array_equal(samples.teacher[2], translate(teacher, samples.source)[2])
    sheet = samples.draw(student)
    assert sheet.size == (4 * (16 + GAP) + GAP, HEADER + 3 * (16 + GAP))
    unknown = choose_samples(Held(3, (16, 16), truth=False), student)
    assert unknown.truth == ()
    assert unknown.draw(student).width == 2 * (16 + GAP) + GAP


def test_enlarged_images_stay_small_on_paper():
    samples = choose_samples(Held(1, (400, 300), scale=2), Enlarger())
    assert samples.source[0].shape == (128, 128, 3)
    assert samples.truth[0].shape == (256, 256, 3)
    assert samples.draw(Enlarger()).size == (3 * (256 + GAP) + GAP, HEADER + 256 + GAP)


def test_drawing_leaves_every_module_in_its_mode():
    network = SmallGenerator(nn.BatchNorm2d(4))
    fixed = network.block[0][1].eval()
    translate(network, (np.zeros((8, 8, 3), np.uint8),))
    assert network.training
    assert not fixed.training
    assert fixed.num_batches_tracked == 0
