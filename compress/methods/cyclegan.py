"""CycleGAN: how teachers are made from two piles of images (Zhu et al., 2017).

Two generators, forth and back, each with a discriminator; what went forth and came back should be
what it was. `cyclegan` trains the four; `cyclegan_teaching` lets a student follow the forward
generator meanwhile, at its best so far: a GAN's last weights are seldom that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.features import forward_with_features
from compress.loop import Batch, Losses, Method, Outputs, Update
from compress.losses import AdversarialMode, discriminator_loss, generator_loss
from compress.methods.pix2pix import truth
from compress.methods.teaching import Shown, Teaching
from compress.models.modes import evaluating


@dataclass(frozen=True)
class Four:
    """The networks of CycleGAN.

    Attributes:
        forth: From the source domain to the target domain.
        back: The other way.
        of_targets: Tells target images from those that ``forth`` made.
        of_sources: Tells source images from those that ``back`` made.
    """

    forth: nn.Module
    back: nn.Module
    of_targets: nn.Module
    of_sources: nn.Module


@dataclass(frozen=True)
class CycleWeights:
    """Weights of the generators' losses; the paper's by default.

    Attributes:
        cycle: Mean absolute difference after forth and back.
        identity: Of an image that is already in the target domain to its translation, as a share
            of ``cycle``.
    """

    cycle: float = 10.0
    identity: float = 0.5


class ImagePool(nn.Module):
    """Older images for a discriminator: it forgets less (Shrivastava et al., 2017).

    Until it is full it gives back what it is given; then, half of the time, an older image, which
    the new one replaces. Its images, and how often it was asked (which decides what it draws), are
    buffers, so that a resumed training goes on exactly.

    Args:
        size: Images it holds; 0 gives back what it is given.
        shape: (C, H, W) of an image.
    """

    images: Tensor
    asked: Tensor

    def __init__(self, size: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("asked", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), detached."""
        size, given = len(self.images), images.detach()
        if not size:
            return given
        out = given.float().clone()
        for index, image in enumerate(given.float()):
            asked = int(self.asked)
            self.asked += 1
            if asked < size:
                self.images[asked] = image
                continue
            draw = torch.Generator().manual_seed(asked)
            if float(torch.rand((), generator=draw)) < 0.5:
                kept = int(torch.randint(size, (), generator=draw))
                out[index] = self.images[kept]
                self.images[kept] = image
        return out


def cyclegan(
    four: Four,
    *,
    image_shape: tuple[int, int, int],
    weights: CycleWeights = CycleWeights(),
    pool: int = 50,
    mode: AdversarialMode = "lsgan",
) -> Method:
    """Train both directions.

    Args:
        four: The networks.
        image_shape: (C, H, W) of a crop, for the pools.
        weights: Of the generators' losses.
        pool: Older images that each discriminator is shown, too.
        mode: Form of the adversarial losses.
    """

    def forward(batch: Batch) -> Outputs:
        image = four.forth(batch.source)
        return Outputs(batch, image, image, images={"back": four.back(truth(batch))})

    networks, updates = _learners(four, image_shape, weights, pool, mode, every=1)
    return Method(networks, forward, updates)


class BestSoFar(nn.Module):
    """A copy of a generator, renewed when the generator has become better.

    Judged is the one direction that the copy translates; the released codes of OMGD and DCD renew
    it when either direction of the cycle improves.

    Args:
        generator: Learns.
        score: How bad a generator is.
        consider_every: Calls of `consider` between two looks at the score.
    """

    record: Tensor
    calls: Tensor

    def __init__(
        self, generator: nn.Module, score: Callable[[nn.Module], float], consider_every: int
    ) -> None:
        super().__init__()
        self.best = copy.deepcopy(generator).requires_grad_(False).eval()
        self.register_buffer("record", torch.tensor(torch.inf, dtype=torch.float64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self._learner = (generator,)  # a tuple: not a submodule, so not saved twice
        self._score, self._every = score, consider_every

    def consider(self) -> None:
        """To be called after each update of the generator."""
        self.calls += 1
        if int(self.calls) % self._every:
            return
        (learner,) = self._learner
        with evaluating(learner), torch.no_grad():
            score = self._score(learner)
        if score < float(self.record):
            self.record.fill_(score)
            self.best.load_state_dict(learner.state_dict())


def cyclegan_teaching(
    four: Four,
    layers: Sequence[str],
    *,
    image_shape: tuple[int, int, int],
    score: Callable[[nn.Module], float],
    consider_every: int,
    every: int = 4,
    weights: CycleWeights = CycleWeights(),
    pool: int = 50,
    mode: AdversarialMode = "lsgan",
) -> Teaching:
    """CycleGAN goes on learning; the student follows its forward generator at its best so far.

    Args:
        four: The networks.
        layers: Layers of the forward generator that the student's objective looks at.
        image_shape: (C, H, W) of a crop, for the pools.
        score: How bad a forward generator is.
        consider_every: Updates of the generators between two scores.
        every: Steps between updates of the teachers and discriminators.
        weights: Of the generators' losses.
        pool: Older images that each discriminator is shown, too.
        mode: Form of the adversarial losses.
    """
    followed = BestSoFar(four.forth, score, consider_every)

    def show(source: Tensor) -> Shown:
        with torch.no_grad():
            return Shown(*forward_with_features(followed.best, source, layers))

    networks, updates = _learners(four, image_shape, weights, pool, mode, every, followed)
    return Teaching(show, {**networks, "followed": followed}, updates, four.of_targets)


def _learners(
    four: Four,
    image_shape: tuple[int, int, int],
    weights: CycleWeights,
    pool: int,
    mode: AdversarialMode,
    every: int,
    followed: BestSoFar | None = None,
) -> tuple[dict[str, nn.Module], tuple[Update, ...]]:
    """Networks and updates of the four. They make their own images, when they are due."""
    pools = nn.ModuleList(ImagePool(pool, image_shape) for _ in range(2))

    def generator_objective(outputs: Outputs) -> Losses:
        source, target = outputs.batch.source, truth(outputs.batch)
        # where the student has a teacher of its own, this pass is not the shared one
        forth = four.forth(source) if followed else outputs.teacher
        back = four.back(target) if followed else outputs.images["back"]
        losses = {
            "adversarial_forth": generator_loss(four.of_targets(forth).float(), mode),
            "adversarial_back": generator_loss(four.of_sources(back).float(), mode),
            "cycle_forth": weights.cycle * F.l1_loss(four.back(forth).float(), source),
            "cycle_back": weights.cycle * F.l1_loss(four.forth(back).float(), target),
        }
        if weights.identity:
            scale = weights.identity * weights.cycle
            losses["identity_forth"] = scale * F.l1_loss(four.forth(target).float(), target)
            losses["identity_back"] = scale * F.l1_loss(four.back(source).float(), source)
        return losses

    def discriminator_objective(outputs: Outputs) -> Losses:
        source, target = outputs.batch.source, truth(outputs.batch)
        with torch.no_grad():
            forth = four.forth(source) if followed else outputs.teacher
            back = four.back(target) if followed else outputs.images["back"]
        losses = {}
        for name, judge, real, image, older in (
            ("forth", four.of_targets, target, forth, pools[0]),
            ("back", four.of_sources, source, back, pools[1]),
        ):
            scores = judge(real).float(), judge(older(image)).float()
            losses[f"adversarial_{name}"] = discriminator_loss(*scores, mode)
        return losses

    networks: dict[str, nn.Module] = {
        "generator": nn.ModuleList([four.forth, four.back]),
        "discriminator": nn.ModuleList([four.of_targets, four.of_sources, pools]),
    }
    after = None if followed is None else followed.consider
    return networks, (
        Update("generator", generator_objective, every=every, after=after),
        Update("discriminator", discriminator_objective, every=every),
    )
