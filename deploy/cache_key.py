"""All that an engine depends on, as one digest; two engines may be swapped only if it is equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from devices.engine_host import EngineHost
from devices.profile import Backend, DeviceProfile, Frozen, Precision
from devices.session import DeviceError
from devices.trt_plan import strongly_typed

SCHEMA_VERSION = 1
"""Of the key; raised when a field is added or its meaning changes, which rebuilds every engine."""

Typing = Literal["weak", "strong"]
"""How TensorRT chooses the type of a layer: by builder flags, or by the graph alone."""

RUNTIMES_OF_PROVIDERS: tuple[Backend, ...] = ("tensorrt", "openvino")

GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")

BACKENDS = Path(__file__).with_name("backends")

SHORT = 12
"""Hex digits of a digest that people are shown."""


class EngineKey(Frozen):
    """What an engine is a function of. A field too many costs a build, one too few a wrong image.

    Attributes:
        schema_version: Of this key.
        builder_sha256: Of our own code that calls the compilers.
        model_sha256: Of the bytes that are compiled; graphs with external data are refused before.
        backend: Runtime that the engine is for.
        precision: What it computes in.
        typing: TensorRT's network typing, or None for other runtimes.
        quantizer: What made the graph INT8, or None.
        calibration_sha256: Of the calibration set, or None where none was used.
        execution_providers: Of ONNX Runtime, in order of preference.
        flags: Options of builder and providers, by name.
        image_size: What optimisation profiles are made for, in pixels.
        workspace_mib: Scratch memory that tactics may take, or None where nothing limits it.
        memory_mib: Memory a session may use, in MiB.
        threads: CPU threads a session may use.
        dla_core: Deep-learning accelerator it is built for, or None.
        plugins_sha256: Of the plugin libraries that are loaded, or None; we load none.
        runtimes: Runtimes that build or load it, and their full versions.
        cuda_runtime: Versions of the CUDA runtime, or None.
        driver: Major version of NVIDIA's driver, or None.
        compute_capability: Of the GPU, or None where there is none.
        gpu: Name of the GPU; one compute capability has many.
        multiprocessors: Of the GPU; one name can have several.
        l4t: Release of Jetson's Linux, or None.
        board: What a board calls itself; one GPU name can have several memories.
        system: Operating system and release.
        architecture: Of the CPU.
        cpu: Model of the CPU.
        instructions: Its vector and matrix extensions.
    """

    schema_version: PositiveInt = SCHEMA_VERSION
    builder_sha256: str
    model_sha256: str
    backend: Backend
    precision: Precision
    typing: Typing | None
    quantizer: str | None
    calibration_sha256: str | None
    execution_providers: tuple[str, ...]
    flags: dict[str, str]
    image_size: PositiveInt
    workspace_mib: PositiveInt | None
    memory_mib: PositiveInt
    threads: PositiveInt
    dla_core: NonNegativeInt | None
    plugins_sha256: str | None
    runtimes: dict[str, str]
    cuda_runtime: str | None
    driver: str | None
    compute_capability: str | None
    gpu: str | None
    multiprocessors: PositiveInt | None
    l4t: str | None
    board: str | None
    system: str
    architecture: str
    cpu: str
    instructions: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the key as canonical JSON, in hex."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def engine_key(
    model: Path | bytes,
    profile: DeviceProfile,
    *,
    backend: Backend,
    precision: Precision,
    quantizer: str | None,
    calibration_sha256: str | None,
    host: EngineHost,
    flags: Mapping[str, str] | None = None,
) -> EngineKey:
    """The key of the engine that a compiler would make of a model, here and now.

    Args:
        model: The ONNX file that is compiled, or its bytes.
        profile: The device.
        backend: Runtime to compile for.
        precision: What it computes in.
        quantizer: What made the graph INT8, or None.
        calibration_sha256: Of the calibration set, or None where none was used.
        host: The machine that compiles, from `devices.engine_host.this_engine_host`.
        flags: What the builder is told beside the profile, by name.

    Raises:
        DeviceError: The engine is for a GPU and this machine names none: a key without it would
            hand one GPU's engine to another.
    """
    on_gpu = backend == "tensorrt" or (
        backend == "onnxruntime"
        and any(name in GPU_PROVIDERS for name in profile.execution_providers)
    )
    if on_gpu and host.gpu is None:
        raise DeviceError(
            f"an engine of {backend} for {profile.name} depends on the GPU, and the CUDA driver of "
            "this machine names none: does nvidia-smi or tegrastats see one?"
        )
    data = model if isinstance(model, bytes) else model.read_bytes()
    trt = profile.tensorrt
    options = {
        f"{provider}.{name}": value
        for provider, named in profile.provider_options.items()
        for name, value in named.items()
    }
    if trt is not None:
        options["tensorrt.version"] = trt.version
        options["tensorrt.compute_capability"] = trt.compute_capability
    return EngineKey(
        model_sha256=hashlib.sha256(data).hexdigest(),
        backend=backend,
        precision=precision,
        quantizer=quantizer,
        calibration_sha256=calibration_sha256,
        execution_providers=profile.execution_providers,
        flags=options | dict(flags or {}),
        image_size=profile.image_size,
        workspace_mib=trt.workspace_mib if trt else None,
        memory_mib=profile.memory_mib,
        threads=profile.threads,
        dla_core=0 if trt and trt.use_dla else None,
        plugins_sha256=None,
        **_of_host(backend, profile.execution_providers, host),
    )


def on_this_machine(key: EngineKey, host: EngineHost) -> EngineKey:
    """The key of the same engine if it were built on ``host`` by this pocketgan."""
    return key.model_copy(update=_of_host(key.backend, key.execution_providers, host))


def _of_host(
    backend: Backend, execution_providers: Sequence[str], host: EngineHost
) -> dict[str, Any]:
    """The fields that the machine and this pocketgan decide; the others are the caller's."""
    prefixes = [backend]
    if backend == "onnxruntime":
        # its providers bring other runtimes in: OpenVINOExecutionProvider, say
        named = " ".join(execution_providers).lower()
        prefixes += [name for name in RUNTIMES_OF_PROVIDERS if name in named]
    runtimes = {
        name: version for name, version in host.runtimes.items() if name.startswith(tuple(prefixes))
    }
    gpu = host.gpu
    driver = host.driver.partition(".")[0] if host.driver else None
    if driver is None and gpu is not None:
        driver = f"CUDA {gpu.driver_cuda}"  # where the kernel does not tell its module's version
    return {
        "schema_version": SCHEMA_VERSION,
        "builder_sha256": builder_digest(),
        "typing": _typing(runtimes) if backend == "tensorrt" else None,
        "runtimes": runtimes,
        "cuda_runtime": host.cuda_runtime,
        "driver": driver,
        "compute_capability": gpu.compute_capability if gpu else None,
        "gpu": gpu.name if gpu else None,
        "multiprocessors": gpu.multiprocessors if gpu else None,
        "l4t": host.l4t,
        "board": host.board,
        "system": host.system,
        "architecture": host.architecture,
        "cpu": host.cpu,
        "instructions": host.instructions,
    }


def _typing(runtimes: Mapping[str, str]) -> Typing | None:
    """What the TensorRT that is installed asks for; None where none is."""
    versions = [version for name, version in runtimes.items() if name.startswith("tensorrt")]
    if not versions:
        return None
    return "strong" if strongly_typed(versions[0]) else "weak"


def builder_digest(folder: Path = BACKENDS) -> str:
    """SHA-256 of the modules that call the compilers: an edit of them is another builder."""
    hasher = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        hasher.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return hasher.hexdigest()


def differences(before: EngineKey, after: EngineKey) -> list[str]:
    """The fields in which two keys differ, one phrase each, in the key's order."""
    return [
        f"{name} {change(getattr(before, name), getattr(after, name))}"
        for name in EngineKey.model_fields
        if getattr(before, name) != getattr(after, name)
    ]


def explain(key: EngineKey, entries: Sequence[EngineKey]) -> str:
    """Why none of the engines there are is the one asked for: what sets the nearest apart.

    Args:
        key: What is asked for.
        entries: What there is, the most recently used first; of equally near ones the first counts.
    """
    if not entries:
        return "there is no engine yet"
    if key in entries:
        return f"there is one: {key.digest[:SHORT]}"
    apart = min(map(partial(differences, after=key), entries), key=len)
    return f"the nearest differs in {'; '.join(apart)}"


def change(before: object, after: object) -> str:
    """``2 -> 4``; of mappings and lists only what changed; of digests the first digits."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return ", ".join(
            f"{name} {shown(before.get(name))} -> {shown(after.get(name))}"
            for name in sorted(before.keys() | after.keys())
            if before.get(name) != after.get(name)
        )
    if isinstance(before, tuple) and isinstance(after, tuple) and set(before) != set(after):
        lost = [f"-{name}" for name in before if name not in after]
        return " ".join([*lost, *(f"+{name}" for name in after if name not in before)])
    return f"{shown(before)} -> {shown(after)}"


def shown(value: object) -> str:
    """A field's value for people."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(one)}" for name, one in value.items()) or "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:SHORT] if is_digest else text
