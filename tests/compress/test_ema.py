import torch
from torch import nn

from compress.ema import average_of, settle


def test_the_first_weights_are_taken_and_the_later_ones_mixed_in():
    network = nn.Linear(1, 1, bias=False)
    average = average_of(network, 0.75)
    for value, want in ((4.0, 4.0), (8.0, 5.0), (1.0, 4.0)):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
        assert average.module.weight.item() == want
    settle(network, average)
    assert network.weight.item() == 4.0


def test_buffers_are_those_of_the_last_update():
    network = nn.BatchNorm1d(2)
    average = average_of(network, 0.9)
    for value in (1.0, 5.0):
        network.running_mean.fill_(value)
        average.update_parameters(network)
    network.running_mean.fill_(9.0)
    assert torch.equal(average.module.running_mean, torch.full((2,), 5.0))


def test_the_average_asks_for_no_gradients():
    network = nn.Linear(2, 2)
    assert not any(p.requires_grad for p in average_of(network, 0.9).parameters())
    assert all(p.requires_grad for p in network.parameters())
