"""Which engine ships: the fastest that is good enough, and never one slower than float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.manifests import Candidate, QualityFloor
from deploy.verify import Fidelity
from devices.profile import Backend, Precision

AS_EXPORTED = "as exported"
ALIKE = 1.03
"""Medians of one interleaved run repeat within three percent; nearer than that, quality decides."""


@dataclass(frozen=True)
class Tried:
    """One engine and what is known of it.

    Attributes:
        quantizer: What made it INT8 and which layers it left in float, or None.
        variant: Which of the equal graphs it was made from.
        fidelity: Beside the float student, or None where it could not be built or run.
        p50_ms: Median latency of the run that all engines shared, or None where not measured.
        engine_bytes: Size of its files.
        kernels: Convolutions that run on integers, and all of them; None where nobody counted.
        failure: Why it could not be built or run; empty where it could.
    """

    backend: Backend
    precision: Precision
    quantizer: str | None = None
    variant: str = AS_EXPORTED
    fidelity: Fidelity | None = None
    p50_ms: float | None = None
    engine_bytes: int | None = None
    kernels: tuple[int, int] | None = None
    failure: str = ""

    @property
    def name(self) -> str:
        """What people call it: no two that are tried together have the same."""
        return engine_name(self.backend, self.precision, self.quantizer, self.variant)

    @property
    def kind(self) -> str:
        """Backend and precision: several may share them."""
        return f"{self.backend} {self.precision}"


def engine_name(
    backend: str, precision: str, quantizer: str | None, variant: str = AS_EXPORTED
) -> str:
    """``openvino int8 (nncf extremes; sub-pixel)``: backend, precision and what is not plain."""
    notes = [note for note in (quantizer, variant) if note and note != AS_EXPORTED]
    return f"{backend} {precision}" + (f" ({'; '.join(notes)})" if notes else "")


def spans(values: Sequence[tuple[str, float]], unit: str, digits: int = 1) -> str:
    """Figures of many engines in one line: the span of each kind.

    Args:
        values: What is measured (``openvino int8``) and its figure, in order.
        unit: Written behind each.
        digits: Behind the point.
    """
    kinds: dict[str, list[float]] = {}
    for kind, value in values:
        kinds.setdefault(kind, []).append(value)
    said = []
    for kind, found in kinds.items():
        low, high = f"{min(found):.{digits}f}", f"{max(found):.{digits}f}"
        said.append(f"{kind} {low if low == high else f'{low} to {high}'} {unit}")
    return ", ".join(said)


def choose(tried: Sequence[Tried], floor: QualityFloor) -> tuple[int, tuple[Candidate, ...]]:
    """Choose the engine that ships.

    Args:
        tried: In order of preference. Where none was measured the first that passes ships.
        floor: What an engine may cost.

    Returns:
        Index of the engine that ships, and a manifest entry for each, in the same order.

    Raises:
        ValueError: None may ship; the message has the numbers of all.
    """
    refusals = [_refusal(one, floor, tried) for one in tried]
    eligible = [index for index, refusal in enumerate(refusals) if not refusal]
    if not eligible:
        every = "; ".join(f"{t.name}: {r}" for t, r in zip(tried, refusals, strict=True))
        raise ValueError(
            f"no engine may ship ({every}): train the student longer, give it other calibration "
            "images, or lower the recipe's floor"
        )
    shipped = _best([(index, tried[index]) for index in eligible])
    reasons = [
        refusal or _reason(tried[index], tried[shipped], index == shipped, len(eligible))
        for index, refusal in enumerate(refusals)
    ]
    return shipped, tuple(
        _entry(one, reason, index == shipped)
        for index, (one, reason) in enumerate(zip(tried, reasons, strict=True))
    )


def _refusal(one: Tried, floor: QualityFloor, tried: Sequence[Tried]) -> str:
    """Why an engine may not ship whatever the others do; empty where it may."""
    if one.failure or one.fidelity is None:
        return one.failure or "was not verified"
    shortfall = one.fidelity.shortfall(floor)
    if shortfall:
        return shortfall
    if any(other.p50_ms is not None for other in tried):
        if one.p50_ms is None:
            return "was not measured"
        floats = [t.p50_ms for t in tried if t.precision == "fp32" and t.p50_ms is not None]
        if floats and one.p50_ms > min(floats):
            return f"slower than float: {one.p50_ms:.2f} against {min(floats):.2f} ms"
        if floats and one.precision == "int8" and one.p50_ms * floor.speedup > min(floats):
            gain = min(floats) / one.p50_ms
            return f"{gain:.2f} x as fast as float, worth its loss from {floor.speedup:g} x on"
    return ""


def _best(eligible: Sequence[tuple[int, Tried]]) -> int:
    """The closest to float of those that are as fast as the fastest; else the first."""
    times = [one.p50_ms for _, one in eligible if one.p50_ms is not None]
    if not times:
        return eligible[0][0]
    alike = [(i, one) for i, one in eligible if (one.p50_ms or 0.0) <= min(times) * ALIKE]
    return max(alike, key=lambda pair: (_psnr_db(pair[1]), -pair[0]))[0]


def _reason(one: Tried, shipped: Tried, ships: bool, passing: int) -> str:
    if ships and one.p50_ms is None:
        return f"first choice of the profile of {passing} that may ship; not measured here"
    if ships:
        return f"fastest of {passing} that may ship"
    if one.p50_ms is None or shipped.p50_ms is None:
        return f"the profile prefers {shipped.backend} {shipped.precision}"
    ratio = one.p50_ms / shipped.p50_ms
    if one.p50_ms <= shipped.p50_ms * ALIKE and _psnr_db(one) < _psnr_db(shipped):
        return f"as fast ({ratio:.2f} x) but further from float"
    return f"slower: {ratio:.2f} x the one that ships"


def _psnr_db(one: Tried) -> float:
    assert one.fidelity is not None  # one that was not verified is not eligible
    return one.fidelity.psnr_db


def _entry(one: Tried, reason: str, ships: bool) -> Candidate:
    fidelity = one.fidelity
    return Candidate(
        backend=one.backend,
        precision=one.precision,
        quantizer=one.quantizer,
        variant=one.variant,
        p50_ms=one.p50_ms,
        psnr_db=fidelity.psnr_db if fidelity else None,
        ssim=fidelity.ssim if fidelity else None,
        lpips=fidelity.lpips if fidelity else None,
        truth_psnr_db=fidelity.truth_psnr_db if fidelity else None,
        engine_bytes=one.engine_bytes,
        kernels=one.kernels,
        shipped=ships,
        reason=reason,
    )
