"""Candidates become engines: compiled through the cache, loaded and verified."""

from __future__ import annotations

import importlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from deploy.cache import EngineCache
from deploy.cache_key import engine_key
from deploy.choose import AS_EXPORTED, Tried
from deploy.golden import GoldenPairs
from deploy.imaging import PixelSpec
from deploy.kernels import integer_kernels
from deploy.verify import Distance, EngineError, Fidelity, check_float, verify
from devices.check import noise
from devices.engine_host import this_engine_host
from devices.machine import this_machine
from devices.profile import Backend, DeviceProfile, Precision
from devices.session import DeviceError, Session, open_session
from devices.trt_plan import strongly_typed

log = logging.getLogger(__name__)

COMPILERS: dict[Backend, str] = {
    # module names, so that a runtime that is not installed is only missed when it is wanted
    "onnxruntime": "deploy.backends.ort",
    "openvino": "deploy.backends.openvino",
    "tensorrt": "deploy.backends.trt",
}

HALF_PROVIDERS = {
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
    "QNNExecutionProvider",
    "CoreMLExecutionProvider",
}
"""ONNX Runtime's providers that compute in fp16; its CPU provider computes fp16 graphs in fp32."""


@dataclass(frozen=True)
class Making:
    """One engine to be made.

    Attributes:
        model: The graph in the form that the backend runs fastest.
        quantizer: What made it INT8, or None.
        variant: Which of the equal graphs it is.
        calibration_sha256: Of the images that its ranges were taken from, or None for float.
        reverted: Layers that quality control put back in float.
        failure: Why there is no such graph; empty where there is.
    """

    backend: Backend
    precision: Precision
    model: onnx.ModelProto
    quantizer: str | None = None
    variant: str = AS_EXPORTED
    calibration_sha256: str | None = None
    reverted: tuple[str, ...] = ()
    failure: str = ""

    @property
    def tried(self) -> Tried:
        """What is known of it before it is made."""
        return Tried(
            self.backend, self.precision, self.quantizer, self.variant, failure=self.failure
        )


@dataclass(frozen=True)
class Engine:
    """An engine that loads and gives images.

    Attributes:
        file: What the session opened; its folder holds nothing else.
        load_ms: Opening the session.
        first_ms: The first image after that.
    """

    making: Making
    file: Path
    session: Session
    fidelity: Fidelity
    load_ms: float
    first_ms: float

    @property
    def name(self) -> str:
        """What people call it."""
        return self.making.tried.name

    @property
    def files(self) -> list[Path]:
        """Its files; what a runtime cached in folders beside them can be made again."""
        return sorted(path for path in self.file.parent.iterdir() if path.is_file())


def precisions_of(backend: Backend, profile: DeviceProfile) -> tuple[Precision, ...]:
    """What a backend computes in on a device, whatever the profile asks for."""
    if backend == "openvino":
        return ("fp32", "int8", "bf16")
    if backend == "onnxruntime" and not HALF_PROVIDERS.intersection(profile.execution_providers):
        return ("fp32", "int8")
    return ("fp32", "int8", "fp16")


def wants_half(backend: Backend, profile: DeviceProfile) -> bool:
    """Whether an INT8 graph must say itself that what is not integer runs in fp16 there.

    A weakly typed TensorRT, its builder or as ONNX Runtime's provider, is told by a flag.
    """
    trt = profile.tensorrt
    return backend == "tensorrt" and trt is not None and strongly_typed(trt.version)


def runs_on_cpu(backend: Backend, profile: DeviceProfile) -> bool:
    """Whether the CPU's kernels are the ones that count."""
    cpu = profile.execution_providers == ("CPUExecutionProvider",)
    return backend == "openvino" or (backend == "onnxruntime" and cpu)


def plan(profile: DeviceProfile, *, compiled: bool) -> list[tuple[Backend, Precision]]:
    """What to build, in the profile's order of preference; float always, as the yardstick."""
    wanted = dict.fromkeys((*profile.precisions, "fp32"))
    if not compiled:
        # ONNX files for the device's first choice, checked here by ONNX Runtime, which has no bf16
        return [(profile.backends[0], p) for p in wanted if p != "bf16"]
    return [(b, p) for p in wanted for b in profile.backends if p in precisions_of(b, profile)]


def build(
    making: Making,
    profile: DeviceProfile,
    folder: Path,
    cache: EngineCache | None,
    *,
    name: str,
    compiled: bool,
) -> tuple[Tried, Path | None]:
    """Compile one engine into a folder of its own; a failure is noted, others may do better.

    Args:
        making: What to make.
        profile: The device.
        folder: Made and filled; nothing else may be in it, lest a runtime's own cache mix engines.
        cache: Where an engine of the very same inputs may lie already, or None to compile anew.
        name: What the model is called, for people who look into the cache.
        compiled: Whether this machine is the device; the graph is kept as it is where it is not.
    """
    if making.failure:
        return making.tried, None
    data = making.model.SerializeToString(deterministic=True)
    if not compiled:
        folder.mkdir()
        file = folder / "engine.onnx"
        file.write_bytes(data)
        return making.tried, file
    source = folder.with_suffix(".onnx")
    source.write_bytes(data)

    def fill(target: Path) -> Path:
        compiler = importlib.import_module(COMPILERS[making.backend])
        engine: Path = compiler.compile_onnx(source, profile, target, precision=making.precision)
        return engine

    try:
        if cache is None:
            folder.mkdir()
            return making.tried, fill(folder)
        key = engine_key(
            source,
            profile,
            backend=making.backend,
            precision=making.precision,
            quantizer=making.quantizer,
            calibration_sha256=making.calibration_sha256,
            host=this_engine_host(),
        )
        return making.tried, cache.build(key, fill, folder, name=name)
    except ModuleNotFoundError as missing:
        if missing.name != making.backend:
            raise
        remedy = f"{making.backend} is not installed: pip install {making.backend}"
        return replace(making.tried, failure=remedy), None
    except DeviceError as error:
        return replace(making.tried, failure=str(error)), None


def load(
    making: Making,
    file: Path,
    host: DeviceProfile,
    golden: GoldenPairs,
    lpips: Distance | None,
    *,
    spec: PixelSpec,
    compiled: bool,
) -> tuple[Tried, Engine | None]:
    """Load an engine and verify it; one that fails is noted.

    Raises:
        EngineError: It is a float engine of the exported graph and not the network torch ran.
    """
    backend: Backend = making.backend if compiled else "onnxruntime"
    image = noise(host)
    try:
        start = time.perf_counter()
        session = open_session(file, host, backend=backend, precision=making.precision)
        loaded = time.perf_counter()
        session.run(image)
        first = time.perf_counter()
        fidelity = verify(session, golden, lpips, spec=spec)
    except (DeviceError, EngineError) as error:
        log.info("%s: %s", making.tried.name, error)
        return replace(making.tried, failure=str(error)), None
    if making.precision == "fp32" and making.variant == AS_EXPORTED:
        check_float(fidelity, making.tried.name)
    engine = Engine(
        making,
        file,
        session,
        fidelity,
        load_ms=(loaded - start) * 1e3,
        first_ms=(first - loaded) * 1e3,
    )
    size = sum(path.stat().st_size for path in engine.files)
    kernels = None
    if making.precision == "int8" and compiled and runs_on_cpu(making.backend, host):
        kernels = integer_kernels(file, making.backend)
    return replace(making.tried, fidelity=fidelity, engine_bytes=size, kernels=kernels), engine


def as_host(profile: DeviceProfile) -> DeviceProfile:
    """The profile as this machine's CPU can stand in for it, to verify numbers only."""
    return profile.model_copy(
        update={
            "execution_providers": ("CPUExecutionProvider",),
            "provider_options": {},
            "threads": min(profile.threads, this_machine().cores),
        }
    )
