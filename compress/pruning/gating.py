"""Channels switched off in a network that runs, to try what it would be without them.

A *mask* has a number for every channel of every coupling, in the order of the couplings: 1, the
channel is there; 0, it is not. Every layer that reads a channel reads it times that number, so that
a channel of 0 *is* removed (`compress.pruning.structure.without`). That place is behind norm and
activation: a norm never sees an emptied map, whose deviation it would divide by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compress.pruning.structure import Place, Structure


@dataclass(frozen=True)
class Gated:
    """A network, and where its channels can be switched off.

    Attributes:
        network: Runs in the mode it is in; its weights and statistics stay as they are.
        structure: Its couplings.
        readers: For each layer that reads channels of couplings, where in a mask each of its
            input channels is decided, as `switches` has it.
    """

    network: nn.Module
    structure: Structure
    readers: Mapping[str, Tensor]

    @classmethod
    def of(cls, network: nn.Module, structure: Structure) -> Gated:
        """A network and the couplings found in it."""
        places = switches(network, structure)
        readers = {layer: index for (layer, side), index in places.items() if side == "in"}
        return cls(network, structure, readers)

    def __call__(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the network.

        Args:
            images: (B, C, H, W).
            mask: (channels of all couplings,), with a graph where somebody learns it; None: all
                channels are there.

        Returns:
            What the network makes of them.
        """
        gates = {} if mask is None else self._gates(mask)
        handles = [
            self.network.get_submodule(layer).register_forward_pre_hook(_times(gate))
            for layer, gate in gates.items()
        ]
        # running statistics of a network in training mode would follow what is only tried
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        try:
            output = functional_call(self.network, buffers, (images,))
        finally:
            for handle in handles:
                handle.remove()
        assert isinstance(output, Tensor)
        return output

    def _gates(self, mask: Tensor) -> dict[str, Tensor]:
        """What every reader multiplies its input channels with."""
        numbers = torch.cat([mask, mask.new_ones(1)])
        return {
            layer: numbers.index_select(0, index.to(mask.device))
            for layer, index in self.readers.items()
        }


def switches(network: nn.Module, structure: Structure) -> dict[Place, Tensor]:
    """Where in a mask the channels of every side of every convolution are decided.

    Returns:
        For each layer and side that some coupling goes through: for each of its channels the
        position in a mask that is followed by a single one, (channels,); the position of that one
        for channels that are in no coupling.
    """
    every = sum(coupling.channels for coupling in structure.couplings)
    places: dict[Place, Tensor] = {}
    before = 0
    for coupling in structure.couplings:
        for member in coupling.members:
            layer = network.get_submodule(member.layer)
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                count = layer.in_channels if member.side == "in" else layer.out_channels
                index = places.setdefault((member.layer, member.side), torch.full((count,), every))
                index[list(member.channels)] = before + torch.tensor(member.positions)
        before += coupling.channels
    return places


def switched_off(structure: Structure, mask: Tensor) -> list[list[int]]:
    """For each coupling the channels where a mask is 0, as `without` takes them."""
    parts = torch.split(mask, [coupling.channels for coupling in structure.couplings])
    return [torch.nonzero(part == 0).flatten().tolist() for part in parts]


def _times(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
    def multiplied(_module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        (x,) = inputs
        return x * gate[:, None, None].to(x.dtype)

    return multiplied
