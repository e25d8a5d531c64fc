"""How good a generator's images are, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compress.data.dataset import Dataset
from compress.data.sampling import to_tensor
from compress.lineage import versions
from compress.measures.extractors import Extractor
from compress.measures.images import Half, Pairing, open_folder, pair_up
from compress.measures.lpips import Lpips
from compress.measures.measure import measure
from compress.measures.pixels import psnr, ssim
from compress.measures.report import Evaluation, Measure
from compress.measures.subjects import open_translator
from compress.models.modes import evaluating
from deploy import imaging
from deploy.imaging import Pixels
from deploy.manifests import Quality


@dataclass(frozen=True)
class Images:
    """Whole held-back images, (H, W, 3) each, sizes may differ.

    Attributes:
        source: What is translated.
        target: What it should look like; None where there is no truth.
    """

    source: tuple[Pixels, ...]
    target: tuple[Pixels, ...] | None


def held_back(data: Dataset, *, multiple: int) -> Images:
    """The images of a test split at full size, cropped to multiples of ``multiple``."""
    both = [data.whole(index, multiple=multiple) for index in range(len(data))]
    targets = tuple(target for _, target in both if target is not None)
    return Images(
        tuple(source for source, _ in both), targets if len(targets) == len(both) else None
    )


def translate(generator: nn.Module, sources: tuple[Pixels, ...]) -> tuple[Pixels, ...]:
    """Translate images one by one, in evaluation mode, to 8-bit pixels as a user gets them.

    The generator may be on any device, and in any mode.
    """
    device = next(generator.parameters()).device
    with evaluating(generator), torch.inference_mode():
        outputs = [generator(to_tensor(s).to(device)).float().cpu().numpy() for s in sources]
    return tuple(imaging.from_model(output)[0] for output in outputs)


def quality(images: tuple[Pixels, ...], references: tuple[Pixels, ...]) -> Quality:
    """Mean PSNR and SSIM over images, on 8-bit RGB, as `compress.measures.pixels` has them."""
    pairs = list(zip(images, references, strict=True))
    return Quality(
        psnr_db=float(np.mean([psnr(image, reference) for image, reference in pairs])),
        ssim=float(np.mean([ssim(image, reference) for image, reference in pairs])),
    )


@dataclass(frozen=True)
class Question:
    """What ``pocketgan evaluate`` is asked.

    Attributes:
        subject: A folder of images, a network's file, an export or a bundle.
        reference: Folder of the images to compare with.
        source: Folder of the images to translate; for a subject that is not images.
        source_half: Which half of each source file, where files hold two images side by side.
        reference_half: The same of each reference file.
        pairs: How images and references belong together.
        measures: What to measure, all possible or refused; None: what is possible.
        border: Pixels cut from each side before luma is compared; None: the subject's scale.
        skip_broken: Whether files that are not images are left out rather than refused.
    """

    subject: Path
    reference: Path
    source: Path | None = None
    source_half: Half | None = None
    reference_half: Half | None = None
    pairs: Pairing = "name"
    measures: tuple[Measure, ...] | None = None
    border: int | None = None
    skip_broken: bool = False


def evaluate(
    question: Question,
    *,
    extractor: Extractor | None = None,
    lpips: Lpips | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measure a subject against references.

    Args:
        question: What to measure.
        extractor: As in `compress.measures.measure.measure`.
        lpips: The same.
        progress: Told how many images of all were seen.

    Raises:
        ValueError: Folders that are absent, empty or broken, a subject that cannot be opened, or a
            measure that was asked for and cannot be taken.
        PretrainedError: A network's weights could not be fetched.
        DeviceError: The bundle's runtime is not here.
    """
    subject = question.subject
    translator = open_translator(subject)
    if translator is None and (question.source or question.source_half):
        raise ValueError(f"{subject} is a folder of images: there is nothing to translate a source")
    if translator is not None and question.source is None:
        raise ValueError(f"{subject} makes images: name the images it translates with --source")
    images = open_folder(
        question.source or subject,
        half=question.source_half,
        skip_broken=question.skip_broken,
    )
    references = open_folder(
        question.reference, half=question.reference_half, skip_broken=question.skip_broken
    )
    images, references, unpaired = pair_up(images, references, question.pairs)
    scale = translator.scale if translator else 1
    border = question.border
    if border is None:
        border = scale if scale > 1 else 0
    total, seen = len(images) + len(references), count(1)
    report = measure(
        images if translator is None else map(translator.translate, images),
        references,
        question.measures,
        unpaired=unpaired,
        extractor=extractor,
        lpips=lpips,
        border=border,
        tick=lambda: progress(next(seen), total),
    )
    return Evaluation(
        subject=str(subject),
        kind=translator.kind if translator else "images",
        sha256=translator.sha256 if translator else None,
        runs_on=translator.runs_on if translator else None,
        source=str(question.source) if question.source else None,
        reference=str(question.reference),
        images=len(images),
        references=len(references),
        paired=unpaired is None,
        skipped=tuple(str(path) for path in (*images.skipped, *references.skipped)),
        cost=translator.cost if translator else None,
        report=report,
        versions=versions(),
    )
