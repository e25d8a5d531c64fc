import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from devices import check, latency
from devices.latency import UNWATCHED, LatencyReport
from devices.machine import Machine
from devices.percentiles import percentile
from devices.profile import DeviceProfile, load_profile
from devices.sealed import MANIFEST, digest, seal_text


@pytest.fixture
def profile() -> DeviceProfile:
    """The cpu profile for the machine of these tests, at a size that takes no time."""
    here = {"architecture": platform.machine(), "image_size": 16, "threads": 1}
    return load_profile("cpu").model_copy(update=here)


@pytest.fixture
def machine() -> Machine:
    return Machine(
        cpu="Test CPU",
        architecture="x86_64",
        cores=2,
        memory_mib=8000,
        system="Linux 6.1",
        runtimes={"onnxruntime": "1.0"},
    )


@pytest.fixture(autouse=True)
def short_warmup(monkeypatch):
    """What is checked in this process warms up for a blink."""
    monkeypatch.setattr(check, "measure", partial(latency.measure, warmup_seconds=0.01))


@pytest.fixture(scope="session")
def engine(tmp_path_factory) -> Path:
    """An ONNX file with one 3x3 convolution that halves every pixel; any height and width."""
    weight = np.zeros((3, 3, 3, 3), dtype=np.float32)
    for channel in range(3):
        weight[channel, channel, 1, 1] = 0.5
    shape = [1, 3, "height", "width"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1])],
        "halve",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path_factory.mktemp("engine") / "engine.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def make_bundle(tmp_path, engine, profile) -> Callable[..., Path]:
    """Writes a sealed bundle with as much in it as a stopwatch reads."""

    def make(name="bundle", *, profile=profile, compiled=True, backend="onnxruntime"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "engine.onnx").write_bytes(engine.read_bytes())
        (folder / "golden.npz").write_bytes(b"golden")
        manifest = {
            "schema_version": 1,
            "engine_file": "engine.onnx",
            "compiled": compiled,
            "backend": backend,
            "precision": "fp32",
            "profile": json.loads(profile.model_dump_json()),
            "sha256": {path.name: digest(path) for path in sorted(folder.iterdir())},
            "what other rooms add": 1,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest))
        seal = seal_text(digest(folder / MANIFEST), MANIFEST)
        (folder / f"{MANIFEST}.sha256").write_text(seal)
        return folder

    return make


@pytest.fixture
def make_report(machine) -> Callable[..., LatencyReport]:
    """Makes the report of such latencies, in milliseconds, on a machine that nobody looked at."""

    def make(samples_ms=(8.0,) * 500, *, power_mode=None, conditions=UNWATCHED):
        here = machine.model_copy(update={"power_mode": power_mode})
        p50, p90, p95, p99 = (percentile(samples_ms, percent) for percent in (50, 90, 95, 99))
        return LatencyReport(
            machine=here,
            fingerprint=here.fingerprint(),
            engine_sha256="0" * 64,
            profile="cpu",
            backend="onnxruntime",
            precision="fp32",
            image_size=16,
            mode="fast",
            cold_ms=(700.0, 640.0, 655.0),
            load_ms=120.0,
            first_ms=11.0,
            samples_ms=tuple(samples_ms),
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            peak_rss_mib=100.0,
            conditions=conditions,
            started_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        )

    return make


class FakeClock:
    """A clock that a session moves: `takes` builds a session whose runs last so many seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, *seconds: float):
        """A session; run i lasts seconds[i], and the last of them goes on for ever."""
        clock = self

        class Slow:
            runs = 0

            def run(self, images):
                clock.now += seconds[min(self.runs, len(seconds) - 1)]
                self.runs += 1
                return images

        return Slow()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
