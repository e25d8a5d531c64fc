"""Methods that train in milliseconds, for tests of what surrounds a method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compress.loop import Batch, Method, Outputs, Update


@dataclass
class Silent:
    """A progress that keeps what it is told."""

    started: tuple = ()
    steps: int = 0

    def start(self, stage, total, done, images):
        self.started = stage, total, done

    def step(self, step, losses):
        self.steps += 1


class SmallGenerator(nn.Module):
    """Two convolutions, (B, 3, H, W) -> the same; its taps are its blocks."""

    taps, multiple, scale, spec = ("block.0",), 4, 1, {}

    def __init__(self, *between, seed=0, width=4):
        super().__init__()
        torch.manual_seed(seed)
        self.block = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *between, nn.ReLU()),
            nn.Sequential(nn.Conv2d(width, 3, 3, padding=1), nn.Tanh()),
        )

    def forward(self, images):
        return self.block(images)


def relay(*between, every=1):
    """The student follows the image that a teacher made before it moved: order matters."""
    teacher, student = SmallGenerator(seed=1), SmallGenerator(*between, seed=2)

    def forward(batch):
        return Outputs(batch, teacher(batch.source), student(batch.source))

    def teach(outputs):
        return {"reconstruction": F.mse_loss(outputs.teacher, outputs.batch.target)}

    def follow(outputs):
        return {
            "imitation": F.mse_loss(outputs.student, outputs.teacher.detach()),
            "size": 0.1 * outputs.student.abs().mean(),
        }

    updates = (Update("teacher", teach, every=every), Update("student", follow))
    return Method({"teacher": teacher, "student": student}, forward, updates)


def batch_at(step, images=4):
    """Batches of one step are the same whenever they are asked for."""
    generator = torch.Generator().manual_seed(step)
    source = torch.rand(images, 3, 8, 8, generator=generator) * 2 - 1
    return Batch(source, source.flip(-1))


def weights(method):
    """Copies of every weight and buffer, by name."""
    return {
        f"{name}/{key}": tensor.detach().clone()
        for name, network in method.networks.items()
        for key, tensor in network.state_dict().items()
    }
