"""Device profiles: what a model is compiled for, and how fast it must be there."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

PROFILES = Path(__file__).parent / "profiles"

Backend = Literal["onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


class Frozen(BaseModel):
    """A value read from or written to a file: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LatencyBudget(Frozen):
    """The slowest allowed, in milliseconds per image at batch 1, around ``Session.run`` only."""

    p50_ms: PositiveFloat
    p90_ms: PositiveFloat
    p99_ms: PositiveFloat

    @model_validator(mode="after")
    def _ordered(self) -> LatencyBudget:
        if not self.p50_ms <= self.p90_ms <= self.p99_ms:
            raise ValueError(
                f"budget must satisfy p50 <= p90 <= p99, "
                f"got {self.p50_ms} / {self.p90_ms} / {self.p99_ms} ms"
            )
        return self


class PowerMode(Frozen):
    """One setting of a board's power switch; a board can be 12 times slower in another.

    Attributes:
        name: As the board's own tool prints it (``15W``, ``MAXN_SUPER``).
        watts: The cap the vendor states, or None where it states none.
        gpu_mhz: Highest GPU clock in this mode, or None where there is no GPU in use.
        cpu_mhz: Highest CPU clock in this mode.
        source: Where these numbers come from.
    """

    name: str
    watts: PositiveFloat | None = None
    gpu_mhz: PositiveInt | None = None
    cpu_mhz: PositiveInt | None = None
    source: str


class DeviceProfile(Frozen):
    """One kind of device, as a compiler and a stopwatch see it.

    Attributes:
        name: File name of the profile, without ``.toml``.
        description: One line for people.
        architecture: ``platform.machine()`` of the device.
        board: Part of what the board calls itself in ``/proc/device-tree/model``, or None where
            any machine of the architecture will do.
        backends: Runtimes to try, in order of preference.
        execution_providers: ONNX Runtime providers, in order of preference.
        precisions: Precisions worth building, in order of preference.
        opset: Newest ONNX opset the device's runtime reads.
        image_size: Height and width that latency is promised for, in pixels.
        threads: CPU threads a session may use.
        memory_mib: Memory a session may use, in MiB.
        channel_multiple: Channels are rounded to this when a student is pruned.
        unsupported_operators: ONNX operators the device cannot run.
        power_modes: Rows of the board's power switch, slowest first; empty where it has none.
        budget: The latency promise at ``image_size``.
        source: Where the numbers above come from.
    """

    name: str
    description: str
    architecture: Literal["x86_64", "aarch64"]
    board: str | None = None
    backends: tuple[Backend, ...]
    execution_providers: tuple[str, ...]
    precisions: tuple[Precision, ...]
    opset: PositiveInt
    image_size: PositiveInt
    threads: PositiveInt
    memory_mib: PositiveInt
    channel_multiple: PositiveInt
    unsupported_operators: tuple[str, ...] = ()
    power_modes: tuple[PowerMode, ...] = ()
    budget: LatencyBudget
    source: str


def profile_names() -> list[str]:
    """Names of the profiles that ship with the package, sorted."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """Read a profile by name (``"jetson"``) or by path (``"lab/my_board.toml"``).

    Raises:
        ValueError: No such profile (the message lists the known names), or a file that is not
            a profile (the message names the file and the first wrong key).
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = PROFILES / f"{name_or_path}.toml"
    if not path.is_file():
        raise ValueError(
            f"no device profile {str(name_or_path)!r}; there are: {', '.join(profile_names())} "
            "(or give the path of a .toml file)"
        )
    return read_toml(DeviceProfile, path)


Model = TypeVar("Model", bound=BaseModel)


def read_toml(model: type[Model], path: Path) -> Model:
    """Read a TOML file into a strict model.

    Raises:
        ValueError: Not TOML, or a missing, unknown or ill-typed key; one line, naming the file.
    """
    try:
        # by way of JSON: arrays become tuples and ints floats, but "8" never becomes 8
        values = json.dumps(tomllib.loads(path.read_text()))
        return model.model_validate_json(values)
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error, model)}") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for people from a pydantic error: the first wrong key, and what was meant."""
    # a misspelt key is both unknown and missing: name the one that is there to be mended
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"]) or "value"
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key.rsplit(".", 1)[-1], _field_names(model), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"unknown key {key!r}{hint}"
    if first["type"] == "missing":
        return f"missing key {key!r}"
    return f"{key} = {first['input']!r}: {first['msg']}"


def _field_names(model: type[BaseModel]) -> set[str]:
    """Every field name of a model and of the models inside it."""
    names = set(model.model_fields)
    for field in model.model_fields.values():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names |= _field_names(inner)
    return names
