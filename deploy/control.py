"""Quality control: the layers that bear no rounding go back to float until the floor holds.

The layers are taken in the order of their sensitivity, so what is searched for is how many. A graph
with more of them in float is nearly always closer to the float student; nearly, because errors of
two layers can cancel. So the number is found by doubling and bisection, which asks for few
judgements, and nothing rests on its being monotone: only a graph that was itself judged and held
is ever returned, and at the end each reverted layer is offered INT8 again by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import onnx

from deploy.evidence import LayerSensitivity
from deploy.imaging import RGB, PixelSpec, canonical
from deploy.manifests import QualityFloor
from deploy.reverting import quantized_layers, revert
from deploy.running import outputs
from deploy.sensitivity import Progress, no_progress
from deploy.verify import Closeness, Distance, closeness
from devices.session import Images

log = logging.getLogger(__name__)

Judge = Callable[[onnx.ModelProto], Closeness]
"""How close a graph's images are to the float student's."""
Placed = Callable[[onnx.ModelProto], onnx.ModelProto]
"""Puts a Q/DQ graph into the form a backend runs."""


@dataclass(frozen=True)
class Step:
    """One judgement.

    Attributes:
        reverted: Layers that were in float, worst first.
        closeness: What the judges saw.
        shortfall: What was below the floor; empty where nothing was.
    """

    reverted: tuple[str, ...]
    closeness: Closeness
    shortfall: str


@dataclass(frozen=True)
class Controlled:
    """Where quality control ended.

    Attributes:
        model: The graph with the most layers in INT8 that was found to hold; where none held, the
            one with the most layers in float.
        reverted: Layers in float in it, worst first.
        shortfall: What is below the floor in it; empty where nothing is.
        steps: Every judgement, in order.
    """

    model: onnx.ModelProto
    reverted: tuple[str, ...]
    shortfall: str
    steps: tuple[Step, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing is below the floor."""
        return not self.shortfall


def control(
    float_model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    sensitivity: Sequence[LayerSensitivity],
    judge: Judge,
    floor: QualityFloor,
    *,
    most: int | None = None,
    progress: Progress = no_progress,
) -> Controlled:
    """Revert as few layers as it takes, the worst first.

    Args:
        float_model: The student.
        quantized: The same with Q/DQ, before it is placed for a backend.
        sensitivity: Of its layers, worst first; see `deploy.sensitivity.sensitivity`.
        judge: See `judge_on`. Its images are calibration images: the golden pairs verify what comes
            out, and would not if they had chosen it.
        floor: What is good enough.
        most: Layers that may be reverted; all if None. (A graph that is float but for a few layers
            is no faster than float.)
        progress: Told after each judgement, with the most judgements there can still be.

    Returns:
        The graph, which holds, or, where ``most`` layers in float are not enough, one that does
        not and says what is below the floor.

    Raises:
        ValueError: ``sensitivity`` leaves a quantized layer out.
    """
    order = [one.layer for one in sensitivity]
    missing = [layer for layer in quantized_layers(quantized) if layer not in order]
    if missing:
        raise ValueError(
            f"sensitivity says nothing of {', '.join(missing)}: it is that of another graph; "
            "measure it again"
        )
    highest = len(order) if most is None else min(most, len(order))
    search = _Search(float_model, quantized, judge, floor, progress)
    count = _fewest(order, highest, search)
    if count is None:
        last = search.steps[-1]
        log.info("%d layers in float are not enough: %s", len(last.reverted), last.shortfall)
        return search.ended(last)
    reverted = tuple(order[:count])
    # the last one is needed: the graph with all but it was judged; the others each by itself
    for still in reversed(range(count - 1)):
        without = tuple(layer for layer in reverted if layer != order[still])
        if not search.shortfall(without, still=still):
            reverted = without
    found = next(step for step in search.steps if step.reverted == reverted)
    progress(len(search.steps), len(search.steps), 0.0)
    return search.ended(found)


def judge_on(
    float_model: onnx.ModelProto,
    judges: Images,
    *,
    lpips: Distance | None,
    spec: PixelSpec = RGB,
    threads: int = 1,
    placed: Placed = lambda model: model,
) -> Judge:
    """A judge that runs graphs in ONNX Runtime on some images.

    Args:
        float_model: The student, which is run once.
        judges: Calibration images, (N, 3, H, W) as the student sees them.
        lpips: Or None to leave LPIPS out.
        spec: How the student sees pixels.
        threads: Of ONNX Runtime.
        placed: How a graph is changed for the backend that will run it, where that costs quality.
    """
    references = canonical(outputs(float_model, judges, threads=threads), spec)

    def judge(model: onnx.ModelProto) -> Closeness:
        images = canonical(outputs(placed(model), judges, threads=threads), spec)
        return closeness(images, references, lpips)

    return judge


def marked(
    sensitivity: Iterable[LayerSensitivity], reverted: Iterable[str]
) -> tuple[LayerSensitivity, ...]:
    """The sensitivities with those that ended in float marked."""
    names = set(reverted)
    return tuple(one.model_copy(update={"reverted": one.layer in names}) for one in sensitivity)


class _Search:
    """Judges sets of layers, each once."""

    def __init__(
        self,
        float_model: onnx.ModelProto,
        quantized: onnx.ModelProto,
        judge: Judge,
        floor: QualityFloor,
        progress: Progress,
    ) -> None:
        self._float, self._quantized = float_model, quantized
        self._judge, self._floor, self._progress = judge, floor, progress
        self._begun = time.monotonic()
        self.steps: list[Step] = []

    def shortfall(self, reverted: tuple[str, ...], *, still: int) -> str:
        """What is below the floor with these layers in float.

        Args:
            reverted: Their names.
            still: Judgements that may come after this one, at most.
        """
        for step in self.steps:
            if step.reverted == reverted:
                return step.shortfall
        close = self._judge(self._model(reverted))
        self.steps.append(Step(reverted, close, close.shortfall(self._floor)))
        done = len(self.steps)
        pace = (time.monotonic() - self._begun) / done
        self._progress(done, done + still, pace * still)
        return self.steps[-1].shortfall

    def ended(self, step: Step) -> Controlled:
        """With the graph of one judgement."""
        return Controlled(
            self._model(step.reverted), step.reverted, step.shortfall, tuple(self.steps)
        )

    def _model(self, reverted: tuple[str, ...]) -> onnx.ModelProto:
        return revert(self._quantized, self._float, reverted)


def _fewest(order: Sequence[str], highest: int, search: _Search) -> int | None:
    """How many of the worst must be in float: by doubling, then bisection; None: not enough."""
    fails, count = -1, 0
    while True:
        doublings = highest.bit_length() - count.bit_length()
        still = doublings + _bisections(fails, highest) + max(0, highest - 1)
        if not search.shortfall(tuple(order[:count]), still=still):
            break
        if count == highest:
            return None
        fails, count = count, min(max(1, 2 * count), highest)
    while count - fails > 1:
        middle = (fails + count) // 2
        still = _bisections(fails, count) + count - 2
        if search.shortfall(tuple(order[:middle]), still=still):
            fails = middle
        else:
            count = middle
    return count


def _bisections(fails: int, holds: int) -> int:
    """Judgements that finding the border between two numbers takes, at most."""
    return (holds - fails - 1).bit_length()
