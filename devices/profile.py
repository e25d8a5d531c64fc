"""Device profiles: what a model is compiled for, and how fast it must be there."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

PROFILES = Path(__file__).parent / "profiles"

Backend = Literal["onnxruntime", "openvino", "tensorrt"]
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
        budget: The latency promise in this mode, where it is not the profile's own.
        source: Where these numbers come from.
    """

    name: str
    watts: PositiveFloat | None = None
    gpu_mhz: PositiveInt | None = None
    cpu_mhz: PositiveInt | None = None
    budget: LatencyBudget | None = None
    source: str


class TensorRt(Frozen):
    """TensorRT as a device has it; what a profile leaves out is asked of the board itself.

    Attributes:
        version: As the board's JetPack ships it (``10.3``); decides between a weakly typed network
            and a strongly typed one.
        compute_capability: Of the GPU (``8.7``).
        workspace_mib: Scratch memory that building an engine may take, in MiB.
        dla_cores: Deep-learning accelerators on the board.
        use_dla: Whether to build for one of them; what it cannot run falls back to the GPU.
    """

    version: Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)*$")]
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")]
    workspace_mib: PositiveInt
    dla_cores: NonNegativeInt = 0
    use_dla: bool = False

    @property
    def number(self) -> tuple[int, ...]:
        """The version as numbers, so that 10.3 comes before 10.12."""
        return tuple(int(part) for part in self.version.split("."))

    @property
    def int8(self) -> bool:
        """Whether the GPU computes in INT8 (TensorRT support matrix, hardware and precision)."""
        capability = tuple(int(part) for part in self.compute_capability.split("."))
        return capability == (6, 1) or capability >= (7, 0)  # 6.0 and 6.2 do not

    @model_validator(mode="after")
    def _has_what_it_uses(self) -> TensorRt:
        if self.use_dla and not self.dla_cores:
            raise ValueError("use_dla = true on a board with dla_cores = 0; leave use_dla out")
        return self


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
        provider_options: Options of a provider, by its name.
        precisions: Precisions worth building, in order of preference.
        opset: Newest ONNX opset the device's runtime reads.
        image_size: Height and width that latency is promised for, in pixels.
        threads: CPU threads a session may use.
        memory_mib: Memory a session may use, in MiB.
        channel_multiple: Channels are rounded to this when a student is pruned.
        unsupported_operators: ONNX operators the device cannot run, ``Pad(reflect)`` for a mode of
            one; where there is an equal graph without them, that one is built.
        slow_operators: Operators that the device runs badly; equal graphs without them are tried
            beside the exported one.
        tensorrt: Set where a board has it.
        refused: Why nothing can be deployed to this device; empty where it can. Such a profile is
            there to be read: it may leave ``backends`` empty.
        software: What the board's own system image ships, for people; empty where there is none.
        power_modes: Rows of the board's power switch, slowest first; empty where it has none.
        budget: The latency promise at ``image_size``, in the fastest power mode.
        source: Where the numbers above come from.
    """

    name: str
    description: str
    architecture: Literal["x86_64", "aarch64"]
    board: str | None = None
    backends: tuple[Backend, ...]
    execution_providers: tuple[str, ...]
    provider_options: dict[str, dict[str, str]] = {}
    precisions: tuple[Precision, ...]
    opset: PositiveInt
    image_size: PositiveInt
    threads: PositiveInt
    memory_mib: PositiveInt
    channel_multiple: PositiveInt
    unsupported_operators: tuple[str, ...] = ()
    slow_operators: tuple[str, ...] = ()
    tensorrt: TensorRt | None = None
    refused: str = ""
    software: str = ""
    power_modes: tuple[PowerMode, ...] = ()
    budget: LatencyBudget
    source: str

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> DeviceProfile:
        wrong = "; ".join(_contradictions(self))
        if wrong:
            raise ValueError(wrong)
        return self

    def budget_in(self, power_mode: str | None) -> LatencyBudget:
        """The latency promise in a power mode; the profile's own where the mode has none."""
        own = [mode.budget for mode in self.power_modes if mode.name == power_mode and mode.budget]
        return own[0] if own else self.budget


def _contradictions(profile: DeviceProfile) -> Iterator[str]:
    """What no file may say of one device, each with what to change."""
    tensorrt = profile.tensorrt
    if not profile.backends and not profile.refused:
        yield "backends = [] leaves nothing to run on; name one, or say why in refused"
    if not profile.precisions:
        yield "precisions = [] leaves nothing to build; name at least 'fp32'"
    if "onnxruntime" in profile.backends and not profile.execution_providers:
        yield "onnxruntime needs execution_providers; the least is ['CPUExecutionProvider']"
    if "tensorrt" in profile.backends and tensorrt is None:
        yield "tensorrt in backends needs the table [tensorrt]"
    if tensorrt is not None and not tensorrt.int8 and "int8" in profile.precisions:
        yield (
            f"precisions has 'int8', and compute capability {tensorrt.compute_capability} "
            "has none; take it out"
        )
    if tensorrt is not None and tensorrt.use_dla and not {"fp16", "int8"} & {*profile.precisions}:
        yield "use_dla = true needs 'fp16' or 'int8' in precisions; a DLA computes in nothing else"
    for name in profile.provider_options:
        if name not in profile.execution_providers:
            yield f"provider_options is for {name}, which is not in execution_providers"
    modes = [mode.name for mode in profile.power_modes]
    for name in sorted({name for name in modes if modes.count(name) > 1}):
        yield f"power_modes has {name!r} twice"


def require_allowed(profile: DeviceProfile) -> None:
    """Let through what can be deployed to.

    Raises:
        ValueError: The profile is listed only to say why not.
    """
    if profile.refused:
        others = ", ".join(allowed_names())
        raise ValueError(f"{profile.name} is refused: {profile.refused}; choose another: {others}")


def profile_names() -> list[str]:
    """Names of the profiles that ship with the package, sorted."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def allowed_names() -> list[str]:
    """Names of the shipped profiles that something can be deployed to, sorted."""
    return [name for name in profile_names() if not load_profile(name).refused]


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
            f"no device profile {str(name_or_path)!r}; there are: {', '.join(allowed_names())} "
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
    if first["type"] == "value_error":  # of a whole table: what it says is enough
        said = str(first["ctx"]["error"])
        return f"{key}: {said}" if first["loc"] else said
    return f"{key} = {first['input']!r}: {first['msg']}"


def _field_names(model: type[BaseModel]) -> set[str]:
    """Every field name of a model and of the models inside it."""
    names = set(model.model_fields)
    for field in model.model_fields.values():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names |= _field_names(inner)
    return names
