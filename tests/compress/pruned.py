"""Tiny networks of every family that can be pruned."""

import functools

import torch
from torch import nn

from compress.models.cartoon import CartoonGenerator, CartoonWidths
from compress.models.generators import ResnetGenerator, ResnetWidths
from compress.models.mobile import DeepestMobileGenerator, DeepestWidths, MobileResnetGenerator
from compress.models.rrdb import RrdbNet, RrdbWidths
from compress.models.srgan import SrganGenerator, SrganWidths
from compress.models.srvgg import SrvggNet, SrvggWidths
from compress.models.unet import DeepestUnetGenerator, DeepestUnetWidths, UnetGenerator, UnetWidths
from compress.pruning.structure import structure

RESNET = ResnetWidths.uniform(16, 2)
MAKE = {
    "resnet_batch": lambda: ResnetGenerator(RESNET, norm="batch"),
    "resnet_instance": lambda: ResnetGenerator(RESNET, norm="instance"),
    "resnet_affine_instance": lambda: ResnetGenerator(RESNET, norm="affine_instance"),
    "mobile": lambda: MobileResnetGenerator(RESNET),
    "deepest_mobile": lambda: DeepestMobileGenerator(DeepestWidths.uniform(8)),
    "unet": lambda: UnetGenerator(UnetWidths.uniform(16, 5)),
    "unet_hollow": lambda: UnetGenerator(UnetWidths((16, 32, 32, 48), (16, 32, 32), True)),
    "deepest_unet": lambda: DeepestUnetGenerator(DeepestUnetWidths.uniform(8, 4)),
    "cartoon": lambda: CartoonGenerator(CartoonWidths.uniform(16, 2)),
    "rrdb": lambda: RrdbNet(RrdbWidths.uniform(16, 1, 8)),
    "rrdb_x2": lambda: RrdbNet(RrdbWidths.uniform(16, 1, 8), scale=2),
    "srvgg": lambda: SrvggNet(SrvggWidths.uniform(16, 3)),
    "srgan": lambda: SrganGenerator(SrganWidths.uniform(16, 2)),
}


def network(name, seed=0):
    """A network of that family in which no two channels are alike, norms included."""
    torch.manual_seed(seed)
    made = MAKE[name]()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.4)
    with torch.no_grad():
        made.train()(image(64))  # running statistics of something real
    return made.eval()


def image(size=32, count=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator) * 2 - 1


@functools.cache
def structure_of(name):
    """Found once: half of what these tests compute."""
    return structure(network(name))
