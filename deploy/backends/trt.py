"""Compile with TensorRT: one builder for 8.2 to 11, weakly or strongly typed.

What the versions share is here. `trt_weak` and `trt_strong` hold what only some of them have, so
that each can be checked against the interfaces of those versions alone.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import onnx
import tensorrt as trt

from deploy.backends import trt_strong, trt_weak
from deploy.backends.trt_dla import use_dla
from deploy.backends.trt_graph import check_precision, sides
from devices.cache_folder import cache_folder
from devices.cuda import this_gpu
from devices.profile import DeviceProfile, Precision
from devices.session import DeviceError
from devices.trt_log import Messages
from devices.trt_plan import strongly_typed

log = logging.getLogger(__name__)

ENGINE = "engine.plan"
OPTIMIZATION_LEVEL = 5
"""The highest: a plan is built once, with a timing cache, and runs for years. TensorRT's is 3."""


def compile_onnx(model: Path, profile: DeviceProfile, out: Path, *, precision: Precision) -> Path:
    """Write ``engine.plan`` into ``out``.

    Raises:
        DeviceError: There is no GPU, TensorRT cannot read the model, the graph is not in
            ``precision``, or the build failed.
    """
    gpu = this_gpu()
    strong = strongly_typed(trt.__version__)
    graph = onnx.load(model, load_external_data=False)
    check_precision(graph, precision, strong=strong)
    messages = Messages()
    builder = trt.Builder(messages)
    network = builder.create_network((trt_strong if strong else trt_weak).network_flags())
    parse(model, network, messages)
    config = builder.create_builder_config()
    if not strong:
        trt_weak.allow(config, network, precision)
    elif precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # as in `trt_weak`: the yardstick is float32
    board = profile.tensorrt
    dla = board is not None and board.use_dla
    if board is not None:
        limit_workspace(config, board.workspace_mib)
    if dla:
        use_dla(builder, config, network, precision)
    if hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = OPTIMIZATION_LEVEL
    choose_tactics(config)
    add_sizes(builder, config, network, sides(graph, profile.image_size), profile, fixed=dla)
    timings = timing_file(cache_folder() / "tensorrt", trt.__version__, gpu.name)
    load_timings(config, timings)
    plan = build(builder, network, config)
    if plan is None:
        raise DeviceError(
            f"tensorrt {trt.__version__} could not build {model.name} in {precision} for "
            f"{gpu.name} ({messages.said()}); stop what else uses the GPU, or give the profile "
            "another workspace_mib"
        )
    save_timings(config, timings)
    engine = out / ENGINE
    engine.write_bytes(bytes(plan))
    return engine


def parse(model: Path, network: trt.INetworkDefinition, messages: Messages) -> None:
    """Read an ONNX file into the network.

    Raises:
        DeviceError: The parser refuses it; the message names the node.
    """
    parser = trt.OnnxParser(network, messages)
    if native_norms():
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    if parser.parse(model.read_bytes()):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = "; ".join(describe(error) for error in errors[:3]) or messages.said()
    raise DeviceError(
        f"tensorrt {trt.__version__} cannot read {model.name}: {told}; "
        "use a student family without it, or another backend"
    )


def describe(error: trt.ParserError) -> str:
    """Which node, which operator, and why; the names are told since TensorRT 10."""
    where = f"node {error.node()}"
    if hasattr(error, "node_name") and hasattr(error, "node_operator"):
        where = f"node {error.node_name()!r} ({error.node_operator()})"
    return f"{where}: {error.desc().strip()}"


def native_norms() -> bool:
    """Whether InstanceNorm can be a layer of TensorRT's own (8.6 and later)."""
    return hasattr(trt, "OnnxParserFlag") and hasattr(trt.LayerType, "NORMALIZATION")


def limit_workspace(config: trt.IBuilderConfig, mib: int) -> None:
    """Cap the scratch memory of every layer."""
    if hasattr(trt, "MemoryPoolType"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, mib << 20)
        return
    before_8_4: Any = config
    before_8_4.max_workspace_size = mib << 20


def choose_tactics(config: trt.IBuilderConfig) -> None:
    """Leave out cuBLAS, which TensorRT 8 loads by default and 10 does not.

    A generator multiplies no matrices, and a small board has no memory to spare for the library.
    """
    sources = config.get_tactic_sources()
    for name, source in trt.TacticSource.__members__.items():
        if name.startswith("CUBLAS"):
            sources &= ~(1 << int(source))
    config.set_tactic_sources(sources)


def add_sizes(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    limits: tuple[int, int],
    profile: DeviceProfile,
    *,
    fixed: bool,
) -> None:
    """Say which heights and widths the plan will see; a DLA takes one size only."""
    image = network.get_input(0)
    batch, channels = image.shape[0], image.shape[1]
    least, most = (profile.image_size, profile.image_size) if fixed else limits
    shapes = [
        trt.Dims([max(batch, 1), channels, side, side])
        for side in (least, profile.image_size, most)
    ]
    sizes = builder.create_optimization_profile()
    sizes.set_shape(image.name, *shapes)
    config.add_optimization_profile(sizes)


def build(builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig) -> Any:
    """The serialized plan, or None; Ctrl-C stops it where TensorRT lets it (10 and later)."""
    if not hasattr(trt, "IProgressMonitor"):
        return builder.build_serialized_network(network, config)
    from deploy.backends import trt_progress  # noqa: PLC0415 # it extends a class of TensorRT 10

    return trt_progress.build(builder, network, config)


def timing_file(folder: Path, version: str, gpu: str) -> Path:
    """Where the times of kernels are kept; they hold for one TensorRT on one kind of GPU."""
    name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return folder / f"timings-{version}-{name}.cache"


def load_timings(config: trt.IBuilderConfig, path: Path) -> None:
    """Give the builder what earlier builds measured; a file of another kind is measured anew."""
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if known and (cache is None or not config.set_timing_cache(cache, ignore_mismatch=False)):
        log.warning("%s does not fit this TensorRT and is made anew", path)
        known = b""
        cache = config.create_timing_cache(known)
    if not known:
        config.set_timing_cache(cache, ignore_mismatch=False)


def save_timings(config: trt.IBuilderConfig, path: Path) -> None:
    """Keep what this build measured; whole or not at all, as two builds may end at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(bytes(config.get_timing_cache().serialize()))
    os.replace(file.name, path)
