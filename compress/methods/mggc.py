"""MGGC: generator and discriminator are pruned together, so that the manifold keeps its density.

Ganjdanesh et al., "Compressing Image-to-Image Translation GANs Using Local Density Structures on
Their Learned Manifold", AAAI 2024. The paper has published no code, and what was at hand of it is
its abstract and first figure.

The paper's: neighbourhoods of the original generator's images; in each, the pruned generator should
keep the distribution of the original's, asked adversarially; two agents, one for each network,
decide on the channels and feed each other back; then both networks are fine-tuned on the task.

This project's: the form of all that. Both networks keep their weights while the agents learn; the
discriminator takes the original's images of a neighbourhood for real and the masked generator's for
fake; agents, masks and the resource term are those of NPPM (`compress.pruning.agents`), and what
the agents hear of each other is `compress.pruning.agents.Decision.state`. Explicit density
(`compress.methods.manifold.density_loss`) and imitation are optional terms beside the paper's.

`mggc` is the stage in which the agents learn, on batches of one neighbourhood each; after it
`compress.pruning.hardening` prunes both networks, and `compress.methods.rivals.rivals` is the stage
after that, in whose place any other method may stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.loop import Batch, Losses, Method, Outputs, Update
from compress.losses import AdversarialMode, discriminator_loss, generator_loss
from compress.methods.manifold import Embed, density_loss
from compress.methods.pix2pix import see
from compress.pruning.agents import Decision, PruningAgent, draw_mask, resource_loss
from compress.pruning.gating import Gated
from compress.pruning.resources import Limit


@dataclass(frozen=True)
class Player:
    """A network that is pruned, and who decides on its channels.

    Attributes:
        gated: The network, whose weights stay as they are.
        agent: Decides.
        limit: What it may cost.
    """

    gated: Gated
    agent: PruningAgent
    limit: Limit


@dataclass(frozen=True)
class Weights:
    """The weight of each of the agents' losses; optional terms of no weight are not computed.

    Attributes:
        adversarial: Of the discriminator's view of a neighbourhood, for both agents.
        kernel_density: Of the explicit density, for the generator's agent.
        imitation: Of the mean absolute difference to the original generator's images, for the same.
        resource: Of what a network costs beyond its limit, for both agents.
    """

    adversarial: float = 1.0
    kernel_density: float = 0.0
    imitation: float = 0.0
    resource: float = 4.0


def mggc(
    generator: Player,
    discriminator: Player,
    *,
    weights: Weights = Weights(),
    embed: Embed | None = None,
    bandwidth: float = 1.0,
    temperature: float = 0.4,
    feedback: bool = True,
    mode: AdversarialMode = "lsgan",
) -> Method:
    """The agents of a generator and of its discriminator learn which channels stay.

    The discriminator's agent goes first. The method's networks are the agents: ``student`` decides
    what the student is, ``discriminator`` what its discriminator is. Batches are neighbourhoods
    (`compress.methods.manifold.neighbourhood_batches`), and outputs are the original generator's
    images and those of the masked one, which has its weights.

    Args:
        generator: The original, and its agent.
        discriminator: Its discriminator, trained, and that one's agent.
        weights: Of the losses.
        embed: What the density is estimated in, where it has a weight.
        bandwidth: Of the kernel, `compress.methods.manifold.Manifold.bandwidth`.
        temperature: Of the masks' gradient; NPPM's by default.
        feedback: Whether the agents hear each other. Without, each hears zeros: what the feedback
            is worth can only be seen so.
        mode: Form of the adversarial losses.

    Raises:
        ValueError: The density has a weight, and nothing to estimate it in is given.
    """
    if weights.kernel_density and embed is None:
        raise ValueError(
            f"kernel_density = {weights.kernel_density} compares embedded images, and no embedding "
            "is given: give one, or kernel_density = 0"
        )

    def drawn(player: Player) -> Tensor:
        peer = discriminator if player is generator else generator
        logits = decide(player, peer, feedback=feedback).logits
        return draw_mask(logits, player.agent.channels, temperature=temperature)

    def resource(player: Player) -> Tensor:
        # a draw of its own, as NPPM has it: not what the images happen to be made with
        cost = player.limit.expected(drawn(player))
        return weights.resource * resource_loss(cost, player.limit.goal)

    def scores(batch: Batch, image: Tensor, mask: Tensor) -> Tensor:
        return discriminator.gated(see(discriminator.gated.network, batch, image), mask).float()

    def forward(batch: Batch) -> Outputs:
        with torch.no_grad():
            original = generator.gated(batch.source)
        return Outputs(batch, original, generator.gated(batch.source, drawn(generator)))

    def discriminator_objective(outputs: Outputs) -> Losses:
        batch, mask = outputs.batch, drawn(discriminator)
        real, fake = (
            scores(batch, image.detach(), mask) for image in (outputs.teacher, outputs.student)
        )
        return {
            "adversarial": weights.adversarial * discriminator_loss(real, fake, mode),
            "resource": resource(discriminator),
        }

    def generator_objective(outputs: Outputs) -> Losses:
        batch, ours, theirs = outputs.batch, outputs.student, outputs.teacher.detach()
        with torch.no_grad():
            mask = drawn(discriminator)
        deceived = generator_loss(scores(batch, ours, mask), mode)
        losses = {"adversarial": weights.adversarial * deceived}
        if weights.kernel_density and embed is not None:
            with torch.no_grad():
                wanted = embed(batch, theirs)
            density = density_loss(wanted, embed(batch, ours), bandwidth)
            losses["kernel_density"] = weights.kernel_density * density
        if weights.imitation:
            losses["imitation"] = weights.imitation * F.l1_loss(ours.float(), theirs.float())
        return losses | {"resource": resource(generator)}

    def say(player: Player, hears: Player) -> None:
        if feedback:
            player.agent.remember(hears.agent.said)

    return Method(
        networks={"discriminator": discriminator.agent, "student": generator.agent},
        forward=forward,
        updates=(
            Update(
                "discriminator",
                discriminator_objective,
                after=lambda: say(discriminator, hears=generator),
            ),
            Update(
                "student",
                generator_objective,
                after=lambda: say(generator, hears=discriminator),
            ),
        ),
    )


def decide(player: Player, peer: Player, *, feedback: bool = True) -> Decision:
    """What a player's agent wants, having heard what the peer's said last.

    Args:
        player: Who decides.
        peer: Who is heard.
        feedback: Whether it is; else the agent hears zeros.
    """
    said = peer.agent.said
    found: Decision = player.agent(said if feedback else torch.zeros_like(said))
    return found
