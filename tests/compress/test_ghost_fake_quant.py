"""Fake INT8: the numbers that eight bits leave, on the float student's own parameters."""

import copy

import pytest
import torch
from torch import nn

from compress.fake_quant import (
    Int8Conv2d,
    int8_twin,
    quantizable,
    round_inputs,
    round_weights,
)
from compress.features import forward_with_features
from compress.models.families import build
from tests.compress.conftest import tiny_generator
from tests.compress.pruned import MAKE, image, network
from tests.compress.small import SmallGenerator


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_are_rounded_as_torch_does_it_for_each_channel(axis):
    weight = draw(6, 5, 3, 3)
    others = [dimension for dimension in range(4) if dimension != axis]
    scale = weight.abs().amax(others) / 127
    zero = torch.zeros(len(scale), dtype=torch.int32)
    want = torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -127, 127)
    assert torch.allclose(round_weights(weight, axis), want, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 3.0, -5.0])
def test_inputs_are_rounded_as_torch_does_it_with_a_zero_point(shift):
    x = draw(2, 3, 8, 8) + shift
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = (high - low) / 255
    want = torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)
    assert torch.allclose(round_inputs(x), want, atol=1e-5)


def test_no_more_values_than_eight_bits_have():
    assert len(round_inputs(draw(1, 4, 64, 64)).unique()) <= 256
    weight = round_weights(draw(2, 64, 3, 3), 0)
    assert max(len(channel.unique()) for channel in weight) <= 255


def test_zero_stays_zero():
    x = draw(1, 1, 8, 8).relu() - 0.25
    x[0, 0, 0] = 0
    assert (round_inputs(x)[0, 0, 0] == 0).all()
    nothing = torch.zeros(2, 1, 3, 3)
    assert (round_inputs(nothing) == 0).all()
    assert (round_weights(nothing, 0) == 0).all()


def test_a_gradient_passes_the_rounding_as_if_it_were_not_there():
    for rounding in (round_inputs, lambda x: round_weights(x, 0)):
        x = draw(2, 3, 4, 4).requires_grad_()
        (gradient,) = torch.autograd.grad((rounding(x) * draw(2, 3, 4, 4, seed=1)).sum(), x)
        assert torch.equal(gradient, draw(2, 3, 4, 4, seed=1))


def test_a_norm_that_is_folded_in_later_changes_nothing():
    weight, factor = draw(4, 3, 3, 3), torch.tensor([0.1, -2.0, 30.0, 1.0])[:, None, None, None]
    folded = round_weights(weight * factor, 0)
    assert torch.allclose(folded, round_weights(weight, 0) * factor, rtol=1e-5, atol=1e-6)


def test_a_twin_has_the_parameters_and_the_names_of_its_generator():
    student = tiny_generator(4)
    twin = int8_twin(student, quantizable(student))
    theirs, ours = dict(twin.named_parameters()), dict(student.named_parameters())
    assert list(theirs) == list(ours)
    assert all(theirs[name] is ours[name] for name in ours)
    assert list(twin.state_dict()) == list(student.state_dict())
    assert (twin.spec, twin.taps, twin.multiple) == (student.spec, student.taps, student.multiple)
    assert not any(isinstance(module, Int8Conv2d) for module in student.modules())


def test_where_the_twin_is_moved_the_generator_moves():
    student = tiny_generator(4)
    twin = int8_twin(student, quantizable(student))
    twin.to(torch.float64)
    assert {p.dtype for p in student.parameters()} == {torch.float64}
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert student(image(32).double()).abs().max().item() == 0.0
    other = copy.deepcopy(twin)
    assert all(p is not q for p, q in zip(other.parameters(), twin.parameters(), strict=True))


def test_without_rounded_layers_it_is_the_generator():
    student, x = tiny_generator(4).eval(), image(32)
    with torch.no_grad():
        assert torch.equal(int8_twin(student, [])(x), student(x))


def test_only_the_named_layers_are_rounded():
    student = SmallGenerator()
    first, second = quantizable(student)
    twin = int8_twin(student, [second])
    kinds = {name: type(layer) for name, layer in quantizable(twin).items()}
    assert kinds == {first: nn.Conv2d, second: Int8Conv2d}
    x = draw(1, 3, 8, 8)
    _, ours = forward_with_features(student, x, ["block.0"])
    _, theirs = forward_with_features(twin, x, ["block.0"])
    assert torch.equal(ours[0], theirs[0])
    assert not torch.equal(twin(x), student(x))


def test_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match=r"SmallGenerator has no layers \['block'\] to round; it"):
        int8_twin(SmallGenerator(), ["block"])


def test_a_transposed_layer_takes_no_output_size():
    twin = int8_twin(nn.ConvTranspose2d(2, 3, 3, stride=2), [""])
    with pytest.raises(ValueError, match=r"takes no output_size, got \[17, 17\]"):
        twin(draw(1, 2, 8, 8), [17, 17])


@pytest.mark.parametrize("name", MAKE)
def test_every_family_runs_in_fake_int8(name):
    student, x = network(name), image(64)
    twin = int8_twin(student, quantizable(student))
    assert all(type(layer).__name__.startswith("Int8") for layer in quantizable(twin).values())
    assert build(twin.spec).state_dict().keys() == student.state_dict().keys()
    with torch.no_grad():
        ours, theirs = student(x), twin(x)
    error = float((ours - theirs).square().mean() / ours.var())
    assert 0 < error < 0.35  # weights are fresh ones: nothing has taught them to bear it
    target = torch.zeros_like(ours)
    loss = (twin(x) - target).square().mean()
    gradients = torch.autograd.grad(loss, [q.weight for q in quantizable(student).values()])
    assert all(float(gradient.abs().sum()) > 0 for gradient in gradients)
