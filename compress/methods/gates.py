"""The gates of GCC's student discriminator: who opens and shuts them, and by what measure.

Li et al., "Revisiting Discriminator in GAN Compression: A Generator-discriminator Cooperative
Compression Scheme", NeurIPS 2021. A small generator loses to a large discriminator, whose loss then
goes to zero and teaches nothing. So the student's discriminator is given gates, one a channel, that
learn apart from its weights and on images which the weights have not learned from. They are to
leave it a competent judge (*local capacity*) and the student's game as far from a draw as the
teacher's game is (*global coordination*).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.distributed import average
from compress.loop import Losses
from compress.losses import AdversarialMode, generator_loss
from compress.models.gates import Gate, GatedPatchDiscriminator

LEAST_SHARE = 0.01
"""The newest gap of the teacher counts at least this much. The released code lets its share fall to
nothing, and the last epochs then coordinate with a number that stands still."""


class Gates(nn.Module):
    """The gates of a discriminator as a network of their own, and the gap they are to keep.

    Args:
        judge: Whose gates; its weights are not among the parameters here.
        updates: How often the gates will be updated in all: how closely the teacher's gap is
            followed depends on how many of these are done.

    Raises:
        ValueError: Fewer than one update.
    """

    followed: Tensor
    played: Tensor
    done: Tensor

    def __init__(self, judge: GatedPatchDiscriminator, *, updates: int) -> None:
        super().__init__()
        if updates < 1:
            raise ValueError(f"gates are updated once or more, got {updates}: train longer")
        self.gates = nn.ModuleList(judge.gates)
        self.register_buffer("followed", torch.zeros(()))  # the teacher's gap, averaged
        self.register_buffer("played", torch.zeros(()))  # the student's gap, the last one
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        self._gates, self._updates = judge.gates, updates
        self._seen: list[tuple[Tensor, Tensor]] = []

    def share(self) -> float:
        """How much the teacher's newest gap counts in its average: the paper's beta.

        1 at the first update, so that the average begins with a gap that was seen, and less with
        every update.
        """
        return max(1.0 - int(self.done) / self._updates, LEAST_SHARE)

    def coordination(self, teacher: Tensor, student: Tensor) -> Tensor:
        """How far the student's gap is from the teacher's averaged one (the paper's L_global).

        Both are remembered until `settle`, once for each part that a batch is computed in.

        Args:
            teacher: Gap of the teacher's game, (); gets no gradient.
            student: Gap of the student's, ().
        """
        self._seen.append((teacher.detach(), student.detach()))
        return (student - self._averaged(teacher.detach())).abs()

    @torch.no_grad()
    def settle(self) -> None:
        """To be called after each update: gates back into [0, 1], the teacher's gap averaged."""
        for gate in self._gates:
            gate.clip()
        means = [torch.stack(gaps).mean() for gaps in zip(*self._seen, strict=True)]
        teacher, student = average(means)
        self._seen.clear()
        self.followed.copy_(self._averaged(teacher))
        self.played.copy_(student)
        self.done += 1

    def figures(self) -> Losses:
        """What to log: the share of open gates, of all and of each layer, and both gaps."""
        masks = [gate.alpha.detach() >= gate.threshold for gate in self._gates]
        layers = {f"open_{n}": mask.float().mean() for n, mask in enumerate(masks, start=1)}
        gaps = {"gap_teacher": self.followed.clone(), "gap_student": self.played.clone()}
        return {"open": torch.cat(masks).float().mean(), **layers, **gaps}

    def _averaged(self, gap: Tensor) -> Tensor:
        share = self.share()
        return share * gap + (1 - share) * self.followed


def without_gates(judge: GatedPatchDiscriminator) -> nn.ModuleList:
    """Everything of a gated discriminator but its gates: what its own update moves."""
    return nn.ModuleList(module for module in judge.model if not isinstance(module, Gate))


def gap(scores: Tensor, mode: AdversarialMode) -> Tensor:
    """How far a game is from a draw: |loss of fooling the judge - loss of judging the image fake|.

    Args:
        scores: The judge's of generated images, any shape.
        mode: Form of the adversarial losses.
    """
    if mode == "hinge":
        caught = F.relu(1.0 + scores).mean()
    else:
        score = F.mse_loss if mode == "lsgan" else F.binary_cross_entropy_with_logits
        caught = score(scores, torch.zeros_like(scores))
    return (generator_loss(scores, mode) - caught).abs()
