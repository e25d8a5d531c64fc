"""Which channels of a discriminator can go: a discriminator is a chain of convolutions.

Generators branch and join, and need a dependency graph (`compress.pruning.structure`). In a
PatchGAN, a PixelGAN and SRGAN's discriminator each convolution reads what the one before it made,
which can be said in a few lines, however many channels go in.
"""

from __future__ import annotations

from torch import nn

from compress.pruning.structure import ONE_BY_ONE, Coupling, Member, Structure


def chain(network: nn.Module) -> Structure:
    """The couplings of a network in which each convolution reads what the one before it made.

    What makes the scores, and what a linear layer reads, stays as it is.

    Raises:
        ValueError: The network is no such chain, or a layer in it cannot lose channels.
    """
    couplings: list[Coupling] = []
    maker: tuple[str, nn.Conv2d] | None = None
    between: list[str] = []
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear):
            break
        if isinstance(layer, nn.Conv2d):
            if layer.groups != 1:
                raise ValueError(f"{name} is a {layer}, which cannot lose channels in a chain")
            if maker is not None:
                couplings.append(_coupling(maker, between, (name, layer)))
            maker, between = (name, layer), []
        elif isinstance(layer, ONE_BY_ONE):
            between.append(name)
        elif any(True for _ in layer.parameters(recurse=False)):
            raise ValueError(
                f"{name} is a {type(layer).__name__}, which cannot lose channels: give a "
                "discriminator of family patchgan or pixelgan"
            )
    if not couplings:
        raise ValueError(f"{type(network).__name__} has no two convolutions in a row to prune")
    return Structure(tuple(couplings))


def _coupling(
    maker: tuple[str, nn.Conv2d], between: list[str], reader: tuple[str, nn.Conv2d]
) -> Coupling:
    """What the maker makes, through what is between, to the reader."""
    count = maker[1].out_channels
    if reader[1].in_channels != count:
        raise ValueError(
            f"{reader[0]} reads {reader[1].in_channels} channels and {maker[0]} before it makes "
            f"{count}: no chain of convolutions; give a discriminator of family patchgan or "
            "pixelgan"
        )
    every = tuple(range(count))
    members = (
        Member(maker[0], "out", every, every),
        *(Member(name, "through", every, every) for name in between),
        Member(reader[0], "in", every, every),
    )
    return Coupling(maker[0], count, False, members)
