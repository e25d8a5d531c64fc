"""What the fake does with what it is asked, as far as this project asks it."""

from __future__ import annotations

import ctypes
import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np


@dataclass
class Error:
    """What a parser complains about."""

    node: int
    name: str
    operator: str
    text: str


@dataclass
class World:
    """What the fake meets and what was asked of it.

    Attributes:
        shape: Of the network's input.
        layers: Type of every layer of the parsed network.
        errors: Of the parser; empty where it reads the model.
        says: What it logs as an error while it builds.
        builds: Whether a build gives a plan.
        loads: Whether a plan can be loaded.
        dla_cores: Accelerators.
        dla_runs: Types of layer that a DLA can run.
        known_timings: Whether a timing cache from elsewhere fits.
        translate: What an engine computes; None for a run that fails.
        scale: How much larger the translated image is.
        fits: Whether there is memory for an engine's context.
        dtype: Type of an engine's tensors.
        while_building: Called with the progress monitor.
        asked: What was done to it, by a short name.
        made: Every object it handed out.
    """

    shape: tuple[int, ...] = (1, 3, -1, -1)
    layers: tuple[str, ...] = ("CONVOLUTION", "ACTIVATION")
    errors: tuple[Error, ...] = ()
    says: str = ""
    builds: bool = True
    loads: bool = True
    dla_cores: int = 0
    dla_runs: tuple[str, ...] = ("CONVOLUTION",)
    known_timings: bool = True
    translate: Callable[[np.ndarray], np.ndarray | None] = lambda images: -images
    scale: int = 1
    fits: bool = True
    dtype: str = "FLOAT"
    while_building: Callable[[Any], None] = lambda monitor: None
    asked: dict[str, Any] = field(default_factory=dict)
    made: list[Any] = field(default_factory=list)

    def note(self, name: str, value: Any) -> None:
        self.asked.setdefault(name, []).append(value)


def plan_of(version: str) -> bytes:
    """The first bytes of a plan as ``trtexec --getPlanVersionOnly`` reads them."""
    numbers = [int(part) for part in version.split(".")][:4]
    built = bytes(numbers + [0] * (4 - len(numbers)))
    return struct.pack("<4sI16x", b"ftrt", 0) + built + b"the rest"


def _play(cls: type, **behaviour: Any) -> None:
    """Give attributes their behaviour, those that this version has."""
    for name, value in behaviour.items():
        if name in cls.MEMBERS or name.startswith("__"):  # type: ignore[attr-defined]
            setattr(cls, name, value)


def behave(trt: Any, world: World) -> None:
    """Build, parse and run, as far as this project asks."""
    severity = enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
    trt.ILogger.Severity = severity
    trt.ILogger.__init__ = lambda self: None

    def new(cls: type, **values: Any) -> Any:
        thing = cls.__new__(cls)
        thing.__dict__.update(values)
        world.made.append(thing)
        return thing

    def logs(self: Any, logger: Any) -> None:
        self.__dict__["_logger"] = logger

    # -- shapes ------------------------------------------------------------------------------
    _play(
        trt.Dims,
        __init__=lambda self, shape: self.__dict__.update(_shape=tuple(shape)),
        __len__=lambda self: len(self._shape),
        __getitem__=lambda self, index: self._shape[index],
    )

    # -- building ----------------------------------------------------------------------------
    def create_network(self: Any, flags: int = 0) -> Any:
        world.asked["network_flags"] = [
            flag.name for flag in trt.NetworkDefinitionCreationFlag if flags >> flag & 1
        ]
        return new(trt.INetworkDefinition, _layers=[], num_layers=0)

    def build(self: Any, network: Any, config: Any) -> Any:
        if monitor := config.__dict__.get("progress_monitor"):
            world.while_building(monitor)
            if not monitor.step_complete("build", 0):
                return None
        if world.says:
            self._logger.log(severity.ERROR, world.says)
        cache = config.__dict__["_cache"]
        cache.data += b"+measured"
        return new(trt.IHostMemory, _data=plan_of(trt.__version__)) if world.builds else None

    _play(
        trt.Builder,
        __init__=logs,
        create_network=create_network,
        create_builder_config=lambda self: new(trt.IBuilderConfig),
        create_optimization_profile=lambda self: new(trt.IOptimizationProfile),
        build_serialized_network=build,
        num_DLA_cores=world.dla_cores,
    )
    trt.IHostMemory.__bytes__ = lambda self: self._data
    _play(
        trt.INetworkDefinition,
        get_layer=lambda self, index: self._layers[index],
        get_input=lambda self, index: new(trt.ITensor, name="x", shape=trt.Dims(world.shape)),
    )

    def create_timing_cache(self: Any, data: bytes) -> Any:
        return SimpleNamespace(data=bytes(data), serialize=lambda: None)

    def set_timing_cache(self: Any, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.data and not world.known_timings:
            return False
        world.note("timings", cache.data)
        cache.serialize = lambda: new(trt.IHostMemory, _data=cache.data)
        self.__dict__["_cache"] = cache
        return True

    _play(
        trt.IBuilderConfig,
        set_flag=lambda self, flag: world.note("flags", flag.name),
        clear_flag=lambda self, flag: world.note("cleared", flag.name),
        set_memory_pool_limit=lambda self, pool, size: world.note(pool.name, size),
        # cuBLAS and cuDNN are sources by default until 10, which deprecates them
        get_tactic_sources=lambda self: sum(
            1 << source
            for source in trt.TacticSource
            if trt.__version__.startswith("8.") or not source.name.startswith("CU")
        ),
        set_tactic_sources=lambda self, mask: world.note(
            "tactics", [source.name for source in trt.TacticSource if mask >> source & 1]
        ),
        add_optimization_profile=lambda self, profile: 0,
        create_timing_cache=create_timing_cache,
        set_timing_cache=set_timing_cache,
        get_timing_cache=lambda self: self.__dict__["_cache"],
        can_run_on_DLA=lambda self, layer: layer.type.name in world.dla_runs,
    )
    _play(
        trt.IOptimizationProfile,
        set_shape=lambda self, name, least, usual, most: world.note(
            "sizes", [tuple(least[:]), tuple(usual[:]), tuple(most[:])]
        ),
    )

    # -- parsing -----------------------------------------------------------------------------
    def start_parser(self: Any, network: Any, logger: Any) -> None:
        self.__dict__.update(_network=network, num_errors=len(world.errors))

    def parse(self: Any, model: bytes) -> bool:
        world.asked["parsed"] = model
        layers = [new(trt.ILayer, type=trt.LayerType[kind]) for kind in world.layers]
        self._network.__dict__.update(_layers=layers, num_layers=len(layers))
        return not world.errors

    def get_error(self: Any, index: int) -> Any:
        wrong = world.errors[index]
        error = new(trt.ParserError)
        played = {
            "node": lambda: wrong.node,
            "node_name": lambda: wrong.name,
            "node_operator": lambda: wrong.operator,
            "desc": lambda: wrong.text,
        }
        members = trt.ParserError.MEMBERS
        error.__dict__.update({name: f for name, f in played.items() if name in members})
        return error

    _play(
        trt.OnnxParser,
        __init__=start_parser,
        parse=parse,
        get_error=get_error,
        set_flag=lambda self, flag: world.note("parser_flags", flag.name),
    )
    if hasattr(trt, "IProgressMonitor"):
        trt.IProgressMonitor.__init__ = lambda self: None

    # -- running -----------------------------------------------------------------------------
    def deserialize(self: Any, data: bytes) -> Any:
        world.note("deserialized", bytes(data))
        world.note("runtime_dla", vars(self).get("DLA_core"))
        if not world.loads:
            self._logger.log(severity.ERROR, world.says)
            return None
        return new(trt.ICudaEngine, num_io_tensors=2, num_bindings=2)

    _play(trt.Runtime, __init__=logs, deserialize_cuda_engine=deserialize)
    limits = [trt.Dims((1, 3, side, side)) for side in (8, 16, 32)]
    dtype = trt.DataType[world.dtype]
    tensor = ("y", "x")  # the output first: nothing may rely on an order
    _play(
        trt.ICudaEngine,
        create_execution_context=lambda self: (
            new(trt.IExecutionContext, _at={}, _shape=()) if world.fits else None
        ),
        get_tensor_name=lambda self, index: tensor[index],
        get_tensor_mode=lambda self, name: trt.TensorIOMode["INPUT" if name == "x" else "OUTPUT"],
        get_tensor_dtype=lambda self, name: dtype,
        get_tensor_shape=lambda self, name: trt.Dims(world.shape),
        get_tensor_profile_shape=lambda self, name, index: limits,
        get_binding_name=lambda self, index: tensor[index],
        binding_is_input=lambda self, index: tensor[index] == "x",
        get_binding_dtype=lambda self, index: dtype,
        get_binding_shape=lambda self, index: trt.Dims(world.shape),
        get_profile_shape=lambda self, profile, binding: limits,
    )

    def set_shape(self: Any, which: Any, shape: Any) -> bool:
        assert which in ("x", 1)
        self.__dict__["_shape"] = tuple(shape[:])
        return True

    def output_shape(self: Any, which: Any) -> Any:
        assert which in ("y", 0)
        batch, channels, height, width = self._shape
        return trt.Dims((batch, channels, height * world.scale, width * world.scale))

    def run(source: int, result: int, shape: tuple[int, ...]) -> bool:
        count = int(np.prod(shape))
        images = np.ctypeslib.as_array((ctypes.c_float * count).from_address(source))
        translated = world.translate(images.reshape(shape).copy())
        if translated is None:
            return False
        ctypes.memmove(result, np.ascontiguousarray(translated).ctypes.data, translated.nbytes)
        return True

    def execute_v3(self: Any, stream: int) -> bool:
        world.note("stream", stream)
        return run(self._at["x"], self._at["y"], self._shape)

    def execute_v2(self: Any, addresses: list[int], stream: int) -> bool:
        world.note("stream", stream)
        return run(addresses[1], addresses[0], self._shape)

    _play(
        trt.IExecutionContext,
        set_input_shape=set_shape,
        set_binding_shape=set_shape,
        get_tensor_shape=output_shape,
        get_binding_shape=output_shape,
        set_tensor_address=lambda self, name, at: bool(self._at.update({name: at})) or True,
        execute_async_v3=execute_v3,
        execute_async_v2=execute_v2,
    )
