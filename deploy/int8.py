"""INT8 graphs for every backend of a profile, each led back to the floor layer by layer.

All of a student is quantized first, by every quantizer that a backend fuses. A graph that its
judges (calibration images; never the golden pairs, which verify later) find below the floor is
joined by one with its most sensitive layers back in float.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from deploy.control import Judge, control, judge_on
from deploy.evidence import LayerSensitivity
from deploy.imaging import Pixels, PixelSpec
from deploy.manifests import QualityFloor
from deploy.qdq import for_backend, fuses_as
from deploy.quantize import Quantized, judges_of, quantize_candidates
from deploy.reverting import quantized_layers
from deploy.sensitivity import sensitivity
from deploy.verify import Distance
from devices.profile import Backend, DeviceProfile

log = logging.getLogger(__name__)

MARGIN_DB = 1.5
MARGIN_LPIPS = 1.35
"""By how much more than the floor the judges ask: the golden pairs are other images, and came out
up to 1.43 dB and 1.35 times LPIPS worse (five students, see docs/quality-control.md)."""
MOST = 0.5
"""Share of the layers that may go back to float: with more of them INT8 has nothing left to win."""

Working = Callable[[str], None]
"""Told what goes on inside a stage, for as long as it does."""


Layers = Callable[[], tuple[LayerSensitivity, ...]]
"""What each layer costs, worst first; measured at the first call."""


@dataclass(frozen=True)
class Int8Graph:
    """One INT8 graph that becomes an engine.

    Attributes:
        model: Placed as the backend fuses it.
        quantizer: What made it and how much it left in float, for people.
        reverted: Layers that quality control put back in float.
    """

    backend: Backend
    model: onnx.ModelProto
    quantizer: str
    reverted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quantizing:
    """What INT8 graphs of one student are made with.

    Attributes:
        calibration: Inputs as the student will see them, (N, H, W, 3), checked before.
        spec: How the student sees pixels.
        floor: What the judges ask for.
        keep: Layers left in float whatever the judges say.
        lpips: Or None to leave LPIPS out.
        threads: Of ONNX Runtime, for judging.
        resume: Folder where sensitivities are kept until the bundle is sealed, or None.
        working: Told how far it is.
    """

    calibration: Pixels
    spec: PixelSpec
    floor: QualityFloor
    keep: Sequence[str]
    lpips: Distance | None
    threads: int
    resume: Path | None
    working: Working

    def graphs(
        self, student: onnx.ModelProto, profile: DeviceProfile, backends: Sequence[Backend]
    ) -> tuple[list[Int8Graph], Layers]:
        """The INT8 graphs of one float graph for some backends, and what its layers cost.

        What layers cost is measured when somebody asks, here only where a graph is below the floor.

        Raises:
            ModuleNotFoundError: NNCF is not installed.
        """
        kinds: dict[Backend, Backend] = {one: fuses_as(one, profile) for one in backends}
        self.working("quantizing")
        quantized = quantize_candidates(
            student,
            self.calibration,
            tuple(dict.fromkeys(kinds.values())),
            keep=self.keep,
            spec=self.spec,
        )
        if not quantized:
            return [], tuple
        judges = judges_of(self.calibration, self.spec)
        general = next(one for one in quantized if len(one.backends) == len(set(kinds.values())))
        layers = functools.cache(
            lambda: sensitivity(
                student,
                general.model,
                judges,
                lpips=self.lpips,
                spec=self.spec,
                threads=self.threads,
                resume=self.resume,
                progress=self._told("layer"),
            )
        )
        made: list[Int8Graph] = []
        for backend, kind in kinds.items():
            judge = judge_on(
                student,
                judges,
                lpips=self.lpips,
                spec=self.spec,
                threads=self.threads,
                placed=functools.partial(for_backend, backend=backend, profile=profile),
            )
            for one in _worth_building([q for q in quantized if kind in q.backends], backend):
                made += self._controlled(student, one, backend, profile, judge, layers)
        return made, layers

    def _controlled(
        self,
        student: onnx.ModelProto,
        one: Quantized,
        backend: Backend,
        profile: DeviceProfile,
        judge: Judge,
        layers: Layers,
    ) -> list[Int8Graph]:
        """The graph as it is and, where the judges refuse it, what quality control makes of it."""
        whole = Int8Graph(backend, for_backend(one.model, backend, profile), one.quantizer)
        if not judge(one.model).shortfall(self.floor):
            return [whole]
        ranked = layers()
        unknown = set(quantized_layers(one.model)) - {layer.layer for layer in ranked}
        if unknown:
            log.info("%s also quantizes %s, and is not led back", one.quantizer, sorted(unknown))
            return [whole]
        controlled = control(
            student,
            one.model,
            ranked,
            judge,
            self.floor,
            most=int(len(ranked) * MOST),
            progress=self._told("judgement"),
        )
        if not controlled.holds:
            log.info(
                "%s for %s: even with %d layers in float, %s",
                one.quantizer,
                backend,
                len(controlled.reverted),
                controlled.shortfall,
            )
            return [whole]
        name = f"{one.quantizer}; {len(controlled.reverted)} of {len(ranked)} layers in float"
        better = for_backend(controlled.model, backend, profile)
        return [Int8Graph(backend, better, name, controlled.reverted), whole]

    def _told(self, what: str) -> Callable[[int, int, float | None], None]:
        def progress(done: int, total: int, seconds_left: float | None) -> None:
            left = "" if seconds_left is None else f", {seconds_left:.0f} s left"
            self.working(f"{what} {done} of at most {total}{left}")

        return progress


def judges_floor(floor: QualityFloor, needed_db: float) -> QualityFloor:
    """What the judges ask for, so that the golden pairs find no less than ``floor``."""
    lpips = None if floor.lpips is None else floor.lpips / MARGIN_LPIPS
    psnr_db = max(floor.psnr_db, needed_db) + MARGIN_DB
    return floor.model_copy(update={"psnr_db": psnr_db, "lpips": lpips})


def _worth_building(usable: Sequence[Quantized], backend: Backend) -> list[Quantized]:
    """The best of those that are equally fast.

    Only the family decides that, but for OpenVINO, which leaves a transposed convolution in float
    where activations are asymmetric.

    Args:
        usable: Best first.
        backend: What will run them.
    """
    fastest: dict[str, Quantized] = {}
    for one in usable:
        fastest.setdefault(one.quantizer if backend == "openvino" else one.family, one)
    return list(fastest.values())
