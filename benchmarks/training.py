"""How fast is the training loop?

Two questions, each answered by variants that take turns in one run on the same batches. Against a
hand-written loop: the same networks and terms in plain PyTorch, one method after the other. And in
bfloat16 with channels-last against float32, contiguous, on nets as wide as the published ones.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.device import choose_device, placed
from compress.features import tap_channels
from compress.loop import Batch, Method, Schedule, make_optimizers, train
from compress.losses import channel_loss, ssim_loss, total_variation
from compress.methods.crd import crd
from compress.methods.dcd import DiscriminatorFeatureLoss, dcd
from compress.methods.l1 import l1
from compress.methods.likeness import Likeness
from compress.methods.omgd import Connectors, omgd
from compress.methods.pix2pix import pix2pix
from compress.methods.teaching import frozen, judged
from compress.models.blocks import Norm, initialize
from compress.models.discriminators import PatchDiscriminator
from compress.models.generators import ResnetGenerator, ResnetWidths
from compress.precision import in_bfloat16
from compress.relations import column_groups, patches, relation_loss, row_groups

MANY = 10**9  # steps; more are never asked for
BETAS = (0.5, 0.999)
RATE = 2e-4

Steps = Iterator[object]
"""One training step each time it is asked for the next item."""


@dataclass(frozen=True)
class Nets:
    """Networks as a distillation has them, the same for everybody who makes them again."""

    teacher: ResnetGenerator
    student: ResnetGenerator
    discriminator: PatchDiscriminator

    @classmethod
    def make(cls, width: int, student: int, norm: Norm) -> Nets:
        """A teacher and discriminator of ``width``, a student of ``student`` channels."""
        torch.manual_seed(0)
        return cls(
            initialize(ResnetGenerator(ResnetWidths.uniform(width), norm=norm)).eval(),
            initialize(ResnetGenerator(ResnetWidths.uniform(student), norm=norm)),
            initialize(PatchDiscriminator(6, width, norm=norm)),
        )


def ours(method: Method, batch: Batch) -> Steps:
    """The training loop of this project."""
    optimizers = make_optimizers(method, BETAS)
    return train(method, lambda step: batch, Schedule(MANY, RATE), optimizers=optimizers)


def loop_l1(nets: Nets) -> Method:
    """See `plain_l1`."""
    return l1(frozen(nets.teacher), nets.student)


def plain_l1(nets: Nets, batch: Batch) -> Steps:
    """Follow the teacher's image."""
    optimizer = adam(nets.student)
    while True:
        with torch.no_grad():
            wanted = nets.teacher(batch.source)
        loss = 100 * F.l1_loss(nets.student(batch.source), wanted)
        yield descend(loss, optimizer)


def loop_pix2pix(nets: Nets) -> Method:
    """See `plain_pix2pix`."""
    return pix2pix(nets.student, nets.discriminator)


def plain_pix2pix(nets: Nets, batch: Batch) -> Steps:
    """A generator against a discriminator, near the truth."""
    generator, discriminator = nets.student, nets.discriminator
    generators, discriminators = adam(generator), adam(discriminator)
    assert batch.target is not None
    while True:
        image = generator(batch.source)
        judge(discriminator, discriminators, batch, image.detach())
        fake = discriminator(torch.cat([batch.source, image], dim=1))
        loss = F.mse_loss(fake, torch.ones_like(fake)) + 100 * F.l1_loss(image, batch.target)
        yield descend(loss, generators)


def loop_dcd(nets: Nets) -> Method:
    """See `plain_dcd`."""
    torch.manual_seed(1)
    teaching = judged(nets.teacher, nets.discriminator, nets.teacher.taps)
    return dcd(teaching, nets.teacher, nets.student, likeness=Likeness(imitation=10.0))


def plain_dcd(nets: Nets, batch: Batch) -> Steps:
    """Feature maps compared by the discriminator, which learns on; adversarial; imitation."""
    torch.manual_seed(1)
    discriminator = nets.discriminator
    distance = DiscriminatorFeatureLoss(
        tap_channels(nets.teacher, nets.student), discriminator.features, 6
    )
    students, discriminators = adam(nets.student, distance), adam(discriminator)
    while True:
        with torch.no_grad():
            wanted, their_features = through(nets.teacher, batch.source)
        image, features = through(nets.student, batch.source)
        judge(discriminator, discriminators, batch, wanted)
        fake = discriminator(torch.cat([batch.source, image], dim=1))
        loss = (
            F.mse_loss(fake, torch.ones_like(fake))
            + distance(their_features, features)
            + 10 * F.l1_loss(image, wanted)
        )
        yield descend(loss, students)


def loop_omgd(nets: Nets) -> Method:
    """See `plain_omgd`."""
    torch.manual_seed(1)
    weights = Likeness(ssim=10.0, imitation=10.0, total_variation=1e-5)
    teaching = frozen(nets.teacher, nets.teacher.taps)
    return omgd(teaching, nets.teacher, nets.student, likeness=weights)


def plain_omgd(nets: Nets, batch: Batch) -> Steps:
    """Channel means behind connectors, structural similarity, imitation, total variation."""
    torch.manual_seed(1)
    connectors = Connectors(tap_channels(nets.teacher, nets.student))
    optimizer = adam(nets.student, connectors)
    while True:
        with torch.no_grad():
            wanted, their_features = through(nets.teacher, batch.source)
        image, features = through(nets.student, batch.source)
        loss = (
            10 * ssim_loss(image, wanted)
            + 10 * F.l1_loss(image, wanted)
            + 1e-5 * total_variation(image)
            + 100 * channel_loss(connectors(features), their_features)
        )
        yield descend(loss, optimizer)


def loop_crd(nets: Nets) -> Method:
    """See `plain_crd`."""
    teaching = judged(nets.teacher, nets.discriminator)
    return crd(teaching, nets.student, likeness=Likeness(imitation=10.0))


def plain_crd(nets: Nets, batch: Batch) -> Steps:
    """Relations of rows, columns and patches; adversarial; imitation."""
    discriminator = nets.discriminator
    students, discriminators = adam(nets.student), adam(discriminator)
    while True:
        with torch.no_grad():
            wanted = nets.teacher(batch.source)
        image = nets.student(batch.source)
        judge(discriminator, discriminators, batch, wanted)
        fake = discriminator(torch.cat([batch.source, image], dim=1))
        relations = (
            relation_loss(row_groups(image, 64), row_groups(wanted, 64))
            + relation_loss(column_groups(image, 64), column_groups(wanted, 64))
            + relation_loss(patches(image, 32), patches(wanted, 32))
        )
        adversarial = F.mse_loss(fake, torch.ones_like(fake))
        yield descend(25 * relations + adversarial + 10 * F.l1_loss(image, wanted), students)


METHODS: Mapping[str, tuple[Callable[[Nets], Method], Callable[[Nets, Batch], Steps]]] = {
    "l1": (loop_l1, plain_l1),
    "pix2pix": (loop_pix2pix, plain_pix2pix),
    "omgd": (loop_omgd, plain_omgd),
    "dcd": (loop_dcd, plain_dcd),
    "crd": (loop_crd, plain_crd),
}
"""Each method as a `Method` for the loop, and written out by hand."""


def adam(*networks: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of both sides."""
    parameters = [p for n in networks for p in n.parameters() if p.requires_grad]
    return torch.optim.Adam(parameters, lr=RATE, betas=BETAS)


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """One step for what the optimizer holds."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def judge(
    discriminator: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, image: Tensor
) -> None:
    """One step of a discriminator of pairs; its weights need no gradient afterwards."""
    assert batch.target is not None
    discriminator.requires_grad_(True)
    real = discriminator(torch.cat([batch.source, batch.target], dim=1))
    fake = discriminator(torch.cat([batch.source, image], dim=1))
    descend(
        0.5 * (F.mse_loss(real, torch.ones_like(real)) + F.mse_loss(fake, torch.zeros_like(fake))),
        optimizer,
    )
    discriminator.requires_grad_(False)


def through(generator: ResnetGenerator, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A generator's image and feature maps, layer by layer."""
    features = []
    for name, layer in generator.model.named_children():
        images = layer(images)
        if f"model.{name}" in generator.taps:
            features.append(images)
    return images, features


def take_turns(variants: Mapping[str, Steps], rounds: int, steps: int) -> dict[str, list[float]]:
    """Steps a second of each variant in each round; every second round runs backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for each in variants.values():
        next(each)  # the first step allocates
    for turn in range(rounds):
        order = list(variants)[:: 1 if turn % 2 == 0 else -1]
        for name in order:
            begun = time.perf_counter()
            for _ in range(steps):
                next(variants[name])
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - begun) / steps)
    return {name: [1 / s for s in each] for name, each in seconds.items()}


def report(label: str, rates: dict[str, list[float]], rounds: int, steps: int) -> None:
    """One line: both rates, and the ratio of the first to the second, round by round."""
    (first, a), (second, b) = rates.items()
    low, middle, high = statistics.quantiles([x / y for x, y in zip(a, b, strict=True)], n=4)
    print(
        f"{label:9} {first} {statistics.median(a):.3g} steps/s, {second} "
        f"{statistics.median(b):.3g} steps/s: ratio {middle:.3f} (quartiles {low:.3f} to "
        f"{high:.3f}; {rounds} rounds of {steps} steps)",
        flush=True,
    )


def images(count: int, size: int, device: torch.device) -> Batch:
    """A batch of noise with a truth."""
    source = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return Batch(source.to(device), -source.to(device))


def compare_loops(args: argparse.Namespace, device: torch.device) -> None:
    """The loop against plain loops, method by method."""
    batch = images(args.batch, args.size, device)
    for name in args.methods:
        make, plain = METHODS[name]
        mine, theirs = (Nets.make(args.width, args.student, "instance") for _ in range(2))
        method = make(mine)
        with contextlib.ExitStack() as stack:
            for nets in (mine, theirs):
                both = (nets.teacher, nets.student, nets.discriminator)
                stack.enter_context(placed(both, device))
            stack.enter_context(placed(method.networks.values(), device))
            variants = {"loop": ours(method, batch), "plain": plain(theirs, batch)}
            report(name, take_turns(variants, args.rounds, args.steps), args.rounds, args.steps)


def compare_precisions(args: argparse.Namespace, device: torch.device) -> None:
    """Wide nets in bfloat16 and channels-last against float32, contiguous: pix2pix."""
    batch = images(1, args.wide_size, device)
    norms: tuple[Norm, ...] = ("instance", "batch")
    for norm in norms:
        variants = {}
        with contextlib.ExitStack() as stack:
            for label, fast in (("bf16+cl", True), ("fp32", False)):
                method = loop_pix2pix(Nets.make(args.wide, args.wide, norm))
                last = stack.enter_context(
                    placed(method.networks.values(), device, channels_last=fast)
                )
                optimizers = make_optimizers(method, BETAS)
                variants[label] = train(
                    in_bfloat16(method, device) if fast else method,
                    lambda step: batch,
                    Schedule(MANY, RATE),
                    optimizers=optimizers,
                    channels_last=last,
                )
            report(norm, take_turns(variants, args.rounds, args.steps), args.rounds, args.steps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="steps a round")
    parser.add_argument("--width", type=int, default=32, help="of teacher and discriminator")
    parser.add_argument("--student", type=int, default=12, help="width of the student")
    parser.add_argument("--size", type=int, default=96, help="height and width of crops, px")
    parser.add_argument("--batch", type=int, default=2, help="crops in a batch")
    parser.add_argument("--wide", type=int, default=64, help="width of the wide nets; 0: leave out")
    parser.add_argument("--wide-size", type=int, default=128, help="height and width there, px")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    device = choose_device()
    print(
        f"torch {torch.__version__}, {device}, {args.threads} threads; ResNet-9 of width "
        f"{args.width} teaches {args.student}, {args.batch} crops of {args.size} px"
    )
    compare_loops(args, device)
    if args.wide:
        print(f"pix2pix, generator and discriminator of width {args.wide}, {args.wide_size} px")
        compare_precisions(args, device)


if __name__ == "__main__":
    main()
