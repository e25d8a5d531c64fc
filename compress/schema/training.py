"""``[training]``: how long, how fast, in which precision."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from compress.loop import Schedule
from compress.stage import Options
from devices.profile import Frozen


class Training(Frozen):
    """How long, how fast, on what.

    Attributes:
        steps: Batches.
        batch_size: Crops in a batch, of all processes and parts together.
        crop: Height and width of a crop, in pixels; a multiple of 4.
        learning_rate: Of Adam, at the start.
        decay_from: Share of the steps after which the rate falls linearly to zero.
        betas: Of Adam; the GAN papers' (0.5, 0.999) unless there is a reason.
        checkpoint_every: Steps between checkpoints.
        autocast: Compute convolutions in bfloat16: faster where the CPU or GPU has it.
        channels_last: Keep images and weights channels-last in networks that gain by it.
        compile: Compile the generators' blocks with ``torch.compile``.
        accumulate: Parts that a batch is computed in, one after the other, to save memory.
        ema: Share of the student's moving average that stays at each step; 0: no average.
        tensorboard: Also write losses and samples for TensorBoard.
    """

    steps: PositiveInt
    batch_size: PositiveInt
    crop: PositiveInt = Field(multiple_of=4, ge=32)
    learning_rate: PositiveFloat
    decay_from: float = Field(ge=0, le=1)
    betas: tuple[NonNegativeFloat, NonNegativeFloat] = (0.5, 0.999)
    checkpoint_every: PositiveInt
    autocast: bool = False
    channels_last: bool = False
    compile: bool = False
    accumulate: PositiveInt = 1
    ema: float = Field(default=0.0, ge=0, lt=1)
    tensorboard: bool = False

    def schedule(self) -> Schedule:
        """How long, and how fast."""
        return Schedule(self.steps, self.learning_rate, self.decay_from)

    def options(self, *, seed: int) -> Options:
        """How a stage computes, and what it keeps; ``seed`` is the recipe's."""
        return Options(
            seed=seed,
            betas=self.betas,
            checkpoint_every=self.checkpoint_every,
            autocast=self.autocast,
            channels_last=self.channels_last,
            compile=self.compile,
            accumulate=self.accumulate,
            ema=self.ema,
            tensorboard=self.tensorboard,
        )
