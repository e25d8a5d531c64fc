"""DGL: the teacher's discriminator, which learns no more, is a second critic of the student.

Tian et al., "DGL-GAN: Discriminator Guided Learning for GAN Compression", arXiv 2112.06502, 2021.
The student has a discriminator of its own, which learns from the truth and from the student's
images as in any GAN; and it must please the teacher's discriminator, too, which is trained and
stands still: min over G of M(G, D) + alpha M(G, D of the teacher). Nothing is taken from the
teacher generator. The paper trains in two stages, first without the second critic and then with
it: two methods with the same networks, `compress.methods.rivals.rivals` and the same `guided`.

The paper makes images from noise. Ours translate: critics see what `see` shows them, and the
objective stays near the truth, as pix2pix's. Because the second critic is one more loss and one
more network that stands still, `guided` adds it to any method whose student makes images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.loop import Losses, Method, Outputs
from compress.losses import AdversarialMode, generator_loss
from compress.methods.pix2pix import see
from compress.models.discriminators import SharedPatchDiscriminator

ALPHA = 0.1
"""Weight of the second critic in the paper."""


def guided(
    method: Method,
    critic: nn.Module,
    *,
    weight: float = ALPHA,
    mode: AdversarialMode = "lsgan",
) -> Method:
    """The same method, whose student must please a critic that learns no more, too.

    Args:
        method: Any with an update of ``student``; what it compares otherwise stays as it is.
        critic: A trained discriminator of pairs or of images. Copied now: where the method's own
            discriminator begins with the same weights, that one goes on alone. The copy is the
            method's network ``critic``, which no update names.
        weight: Of the critic's adversarial loss; the paper's alpha.
        mode: Form of that loss. The paper's is the hinge, which is without bound: a critic that
            stands still pays a student for ever more of what it once took for real.

    Raises:
        ValueError: The method has no student to guide, or is guided already; or the critic judges
            with several heads.
    """
    if "critic" in method.networks:
        raise ValueError("this method has a critic already: guide it once, with the sum of weights")
    if not any(update.network == "student" for update in method.updates):
        names = ", ".join(repr(update.network) for update in method.updates)
        raise ValueError(f"a critic guides updates of 'student', and this method has {names} only")
    if isinstance(critic, SharedPatchDiscriminator):
        raise ValueError(
            f"a discriminator with {critic.heads} heads judges as many teachers and guides no "
            "student: name one with a single head, such as a patchgan"
        )
    still = _standing_still(critic)

    def with_guidance(objective: Callable[[Outputs], Losses]) -> Callable[[Outputs], Losses]:
        def guided_objective(outputs: Outputs) -> Losses:
            scores = still(see(still, outputs.batch, outputs.student)).float()
            return objective(outputs) | {"guidance": weight * generator_loss(scores, mode)}

        return guided_objective

    return replace(
        method,
        networks={**method.networks, "critic": still},
        updates=tuple(
            replace(update, objective=with_guidance(update.objective))
            if update.network == "student"
            else update
            for update in method.updates
        ),
    )


def _standing_still(critic: nn.Module) -> nn.Module:
    """A copy that nothing moves, neither weights nor statistics."""
    still = copy.deepcopy(critic).requires_grad_(False).train()
    for module in still.modules():
        if isinstance(module, _BatchNorm):
            # it judges by the statistics of a batch, as it was trained to, and keeps none of them
            module.momentum = 0.0
    return still
