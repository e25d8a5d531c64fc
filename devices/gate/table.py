"""The figures of a gate in rows and lines of words, alike in the terminal and in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from devices.gate.judge import Judgement, Verdict
from devices.gate.report import NAMES, UNITS, GateReport, Images, Measured, Once, PairReport
from devices.showing import machine_line
from devices.telemetry.words import in_words

WORDS: dict[Verdict, str] = {
    "pass": "not slower",
    "slower": "slower",
    "inconclusive": "cannot say",
}

WORSE_IMAGES = "worse images"

MORE_MEMORY: dict[Verdict, str] = WORDS | {"pass": "not more", "slower": "more"}

DIGITS: dict[Measured, int] = {"steady": 2, "cold": 0, "memory": 0}

SAME_ENGINE = "not compared, as both are the same engine"


@dataclass(frozen=True)
class Answer:
    """One question of a gate and what the rounds say of it, in words.

    Attributes:
        name: ``latency``.
        before: What the baseline's rounds measured, their median, with its unit.
        after: The same of the candidate.
        change: The estimate of the growth.
        at_most: What it is below, with 95 % confidence.
        floor: What concerns somebody.
        could_see: The smallest growth that these rounds would have called, 9 times in 10.
        word: What that comes to.
        verdict: The same for programs.
    """

    name: str
    before: str
    after: str
    change: str
    at_most: str
    floor: str
    could_see: str
    word: str
    verdict: Verdict


def answers(pair: PairReport) -> list[Answer]:
    """What was asked of a pair, latency first."""
    return [_answer(pair, cell.measured, cell.judgement) for cell in pair.cells]


def _answer(pair: PairReport, measured: Measured, judgement: Judgement) -> Answer:
    unit, digits = UNITS[measured], DIGITS[measured]
    before, after = (
        f"{statistics.median(values_of(runs, measured)):.{digits}f} {unit}"
        for runs in (pair.baseline, pair.candidate)
    )
    words = MORE_MEMORY if measured == "memory" else WORDS
    return Answer(
        name=NAMES[measured],
        before=before,
        after=after,
        change=f"{judgement.slowdown:+.1%}",
        at_most="-" if judgement.upper is None else f"{judgement.upper:+.1%}",
        floor=f"{judgement.floor:.0%}",
        could_see="-" if judgement.visible is None else f"from {judgement.visible:.0%}",
        word=words[judgement.verdict],
        verdict=judgement.verdict,
    )


def values_of(runs: Sequence[Once], measured: Measured) -> list[float]:
    """What each process measured, in order."""
    return [once.value(measured) for once in runs]


def headline(report: GateReport) -> str:
    """The verdict and the weightiest reason for it."""
    return ": ".join([word(report), *report.reasons[:1]])


def word(report: GateReport) -> str:
    """The verdict in two words."""
    if any(pair.images and pair.images.worse for pair in report.pairs):
        return WORSE_IMAGES
    grown = {
        cell.measured
        for pair in report.pairs
        for cell in pair.cells
        if cell.judgement.verdict == "slower"
    }
    if report.verdict == "slower" and grown == {"memory"}:
        return "more memory"
    return WORDS[report.verdict]


def could_see(pair: PairReport) -> str:
    """What slow-down the rounds of a pair rule out, and what they would have shown."""
    judgement = pair.cell("steady")
    sentences = [f"{judgement.rounds} rounds that spread by {judgement.spread:.1%}"]
    if judgement.upper is not None:
        sentences.append(f"rule out {judgement.upper:+.1%} and more with 95 % confidence")
    if judgement.visible is not None:
        sentences.append(f"would show slow-downs from {judgement.visible:.0%} on 9 times in 10")
    elif judgement.verdict == "pass":
        sentences.append("for what is slower there would have been more")
    else:
        sentences.append("can show no slow-down")
    return ", ".join([" ".join(sentences[:2]), *sentences[2:]])


def images_line(images: Images | None) -> str:
    """How good the images of both are, in one line."""
    if images is None:
        return SAME_ENGINE
    after = images.candidate_psnr_db
    parts = [
        f"PSNR {images.baseline_psnr_db:.2f} to {after:.2f} dB"
        if after is not None
        else f"PSNR {images.baseline_psnr_db:.2f} dB, the candidate's images are none"
    ]
    if images.baseline_lpips is not None and images.candidate_lpips is not None:
        parts.append(f"LPIPS {images.baseline_lpips:.4f} to {images.candidate_lpips:.4f}")
    verdict = WORSE_IMAGES if images.worse else "not worse"
    return f"{', '.join(parts)} ({images.images} images, {images.against}): {verdict}"


def facts(report: GateReport) -> dict[str, str]:
    """Everything beside the answers, by name, a short line each; what is not known is left out."""
    runs = [once for pair in report.pairs for once in (*pair.baseline, *pair.candidate)]
    spread, seen = report.known_spread, report.conditions
    lines = {
        "measured": f"{sum(len(once.samples_ms) for once in runs)} images in {len(runs)} "
        f"processes, {report.seconds:.0f} s",
        "known spread": ""
        if spread is None
        else f"equal engines seemed {spread:.1%} apart on this machine before",
        **(in_words(seen) if seen else {}),
        "disturbed": "; ".join(seen.disturbed) if seen else "",
        "machine": machine_line(runs[0].machine),
    }
    return {name: line for name, line in lines.items() if line}
