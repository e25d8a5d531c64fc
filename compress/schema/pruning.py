"""``[pruning]``: how small the student is, and which channels go."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from devices.profile import Frozen

LOOKING = ("taylor", "discriminator")
"""Importances that look at images."""

DEFAULT_BATCHES = 32


class Pruning(Frozen):
    """How small the student is.

    Attributes:
        macs_reduction: Budget: true MACs of the teacher over those of the student, at least.
        params_reduction: Or: parameters of the teacher over those of the student, at least.
        latency_ms: Or: milliseconds per image at most, in float32 on ONNX Runtime on this machine.
        outer_share: Share of the channels outside the residual blocks, and of their stream, that
            goes; the blocks then meet the budget. Left out, all layers lose the same share.
        importance: Which channels go first. Left out where only the widths are kept.
        rounds: How many times pruning and training alternate.
        weights: ``inherit`` the teacher's, or ``initialize``: keep only the widths.
        batches: Training batches that ``taylor`` and ``discriminator`` look at.
    """

    macs_reduction: float | None = Field(default=None, gt=1)
    params_reduction: float | None = Field(default=None, gt=1)
    latency_ms: PositiveFloat | None = None
    outer_share: float | None = Field(default=None, ge=0, lt=1)
    importance: Literal["magnitude", "scale", "taylor", "discriminator"] | None = None
    rounds: PositiveInt = 1
    weights: Literal["inherit", "initialize"] = "inherit"
    batches: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> Pruning:
        budgets = ("macs_reduction", "params_reduction", "latency_ms")
        given = [name for name in budgets if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a student has one budget: give one of {', '.join(budgets)}, got "
                f"{' and '.join(given) or 'none'}"
            )
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> Pruning:
        if self.weights == "inherit" and self.importance is None:
            raise ValueError("say which channels go first: importance, e.g. 'magnitude'")
        if self.weights == "initialize" and (self.importance is not None or self.rounds > 1):
            raise ValueError(
                "weights = 'initialize' keeps the widths alone, whichever channels go: leave "
                "importance and rounds out"
            )
        if self.batches is not None and self.importance not in LOOKING:
            raise ValueError(
                f"batches are for the importances that look at images, {' and '.join(LOOKING)}, "
                f"and importance is {self.importance!r}: leave batches out"
            )
        return self
