"""One engine for each backend and precision of a profile: planned, built, loaded and verified."""

from __future__ import annotations

import importlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from deploy import graph, qdq
from deploy.artifacts import GoldenPairs
from deploy.choose import Tried
from deploy.quantize import Quantized
from deploy.verify import EngineError, Fidelity, check_float, verify
from devices.check import noise
from devices.machine import this_machine
from devices.profile import Backend, DeviceProfile, Precision
from devices.session import DeviceError, Session, open_session

log = logging.getLogger(__name__)

COMPILERS: dict[Backend, str] = {
    # module names, so that a runtime that is not installed is only missed when it is wanted
    "onnxruntime": "deploy.backends.ort",
    "openvino": "deploy.backends.openvino",
}


@dataclass(frozen=True)
class Engine:
    """An engine that loads and gives images.

    Attributes:
        file: What the session opened; its folder holds nothing else.
        load_ms: Opening the session.
        first_ms: The first image after that.
    """

    backend: Backend
    precision: Precision
    file: Path
    session: Session
    fidelity: Fidelity
    load_ms: float
    first_ms: float

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.backend} {self.precision}"

    @property
    def files(self) -> list[Path]:
        """Its files; what a runtime cached in folders beside them can be made again."""
        return sorted(path for path in self.file.parent.iterdir() if path.is_file())


def plan(profile: DeviceProfile, *, compiled: bool) -> list[tuple[Backend, Precision]]:
    """What to build, in the profile's order of preference; float always, as the yardstick."""
    precisions = dict.fromkeys((*profile.precisions, "fp32"))
    if not compiled:
        # ONNX files for the device's first choice, checked here by ONNX Runtime, which has no bf16
        return [(profile.backends[0], p) for p in precisions if p != "bf16"]
    cpu = profile.execution_providers == ("CPUExecutionProvider",)
    makes: dict[Backend, tuple[Precision, ...]] = {
        # ONNX Runtime's CPU provider computes fp16 graphs in fp32
        "onnxruntime": ("fp32", "int8") if cpu else ("fp32", "int8", "fp16"),
        "openvino": ("fp32", "int8", "bf16"),
    }
    return [(b, p) for p in precisions for b in profile.backends if p in makes[b]]


def variant(
    student: onnx.ModelProto,
    int8: Quantized | None,
    backend: Backend,
    precision: Precision,
    profile: DeviceProfile,
) -> onnx.ModelProto:
    """The graph in the form a backend runs fastest."""
    if precision == "fp16":
        return graph.half(student)
    if precision != "int8" or int8 is None:
        return student  # bf16 is the same file, computed otherwise
    if backend == "openvino":
        return int8.model
    if "TensorrtExecutionProvider" in profile.execution_providers:
        return qdq.symmetric_activations(int8.model)
    return qdq.sink_pads(qdq.unsigned_activations(int8.model))


def build(
    one: Tried, model: onnx.ModelProto, profile: DeviceProfile, folder: Path, *, compiled: bool
) -> tuple[Tried, Path | None]:
    """Compile one engine into a folder of its own; a failure is noted, others may do better."""
    folder.mkdir()
    if not compiled:
        file = folder / "engine.onnx"
        file.write_bytes(model.SerializeToString(deterministic=True))
        return one, file
    source = folder.with_suffix(".onnx")
    source.write_bytes(model.SerializeToString(deterministic=True))
    try:
        compiler = importlib.import_module(COMPILERS[one.backend])
        return one, compiler.compile_onnx(source, profile, folder)
    except ModuleNotFoundError as missing:
        if missing.name != one.backend:
            raise
        remedy = f"{one.backend} is not installed: pip install {one.backend}"
        return replace(one, failure=remedy), None
    except DeviceError as error:
        return replace(one, failure=str(error)), None


def load(
    one: Tried, file: Path, host: DeviceProfile, golden: GoldenPairs, *, compiled: bool
) -> tuple[Tried, Engine | None]:
    """Load an engine and verify it; one that fails is noted.

    Raises:
        EngineError: It is a float engine and not the network torch ran.
    """
    backend: Backend = one.backend if compiled else "onnxruntime"
    image = noise(host)
    try:
        start = time.perf_counter()
        session = open_session(file, host, backend=backend, precision=one.precision)
        loaded = time.perf_counter()
        session.run(image)
        first = time.perf_counter()
        fidelity = verify(session, golden)
    except (DeviceError, EngineError) as error:
        log.info("%s: %s", one.name, error)
        return replace(one, failure=str(error)), None
    if one.precision == "fp32":
        check_float(fidelity, one.name)
    engine = Engine(
        one.backend,
        one.precision,
        file,
        session,
        fidelity,
        load_ms=(loaded - start) * 1e3,
        first_ms=(first - loaded) * 1e3,
    )
    size = sum(path.stat().st_size for path in engine.files)
    return replace(one, fidelity=fidelity, engine_bytes=size), engine


def as_host(profile: DeviceProfile) -> DeviceProfile:
    """The profile as this machine's CPU can stand in for it, to verify numbers only."""
    return profile.model_copy(
        update={
            "execution_providers": ("CPUExecutionProvider",),
            "threads": min(profile.threads, this_machine().cores),
        }
    )
