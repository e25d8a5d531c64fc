"""TensorRT sessions: a plan, the GPU it was built on, and nothing in between."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import tensorrt as trt

from devices.cuda import DeviceMemory, Driver, this_gpu
from devices.profile import DeviceProfile, Precision
from devices.session import DeviceError, Images
from devices.trt_bindings import Bindings
from devices.trt_log import Messages
from devices.trt_plan import numbers, plan_version


class Execution(Protocol):
    """An engine's input and output, however this TensorRT names them."""

    smallest: tuple[int, ...]
    largest: tuple[int, ...]

    def resize(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Set the input's shape; the output's for it, or nothing where it is refused."""
        ...

    def enqueue(self, source: int, result: int, stream: int) -> bool:
        """Start the engine; false where it refuses."""
        ...


class NamedTensors:
    """One input and one output of an engine, by name (TensorRT 8.5 and later).

    Attributes:
        smallest: The least shape that the engine takes, (N, C, H, W).
        largest: The greatest one.
    """

    def __init__(self, engine: trt.ICudaEngine, context: trt.IExecutionContext) -> None:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        takes = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        if len(takes) != 1 or len(names) != 2:
            raise DeviceError(f"the plan has tensors {', '.join(names)}, not one in and one out")
        for name in names:
            if engine.get_tensor_dtype(name) != trt.DataType.FLOAT:
                raise DeviceError(f"the plan's {name!r} is not float32")
        self._input = takes[0]
        self._output = next(name for name in names if name != self._input)
        self._context = context
        shape = tuple(engine.get_tensor_shape(self._input)[:])
        self.smallest, self.largest = shape, shape
        if -1 in shape:
            least, _, greatest = engine.get_tensor_profile_shape(self._input, 0)
            self.smallest, self.largest = tuple(least[:]), tuple(greatest[:])

    def resize(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Set the input's shape; the output's for it."""
        if not self._context.set_input_shape(self._input, trt.Dims(list(shape))):
            return ()
        return tuple(self._context.get_tensor_shape(self._output)[:])

    def enqueue(self, source: int, result: int, stream: int) -> bool:
        """Start the engine on images at an address; false where it refuses."""
        self._context.set_tensor_address(self._input, source)
        self._context.set_tensor_address(self._output, result)
        return bool(self._context.execute_async_v3(stream))


class TensorRtSession:
    """A plan on the GPU, for images between the smallest and the largest it was built for.

    Raises:
        DeviceError: There is no GPU, the plan is of another TensorRT or for another GPU, or
            there is too little memory.
    """

    def __init__(self, engine: Path, profile: DeviceProfile, *, precision: Precision) -> None:
        gpu = this_gpu()
        again = f"make the {precision} engine again on this machine with pocketgan deploy"
        refuse_other_version(engine, again)
        self._name = engine.name
        self._messages = Messages()
        self._runtime = trt.Runtime(self._messages)
        if profile.tensorrt is not None and profile.tensorrt.use_dla:
            self._runtime.DLA_core = 0
        self._engine = self._runtime.deserialize_cuda_engine(engine.read_bytes())
        if self._engine is None:
            raise DeviceError(
                f"tensorrt {trt.__version__} cannot load {engine} on {gpu.name} "
                f"({self._messages.said()}); {again}"
            )
        context = self._engine.create_execution_context()
        if context is None:
            raise DeviceError(
                f"{engine.name} finds no room on {gpu.name} ({self._messages.said()}); "
                "stop what else uses the GPU, or make it with a smaller image_size"
            )
        by_name = hasattr(trt.IExecutionContext, "execute_async_v3")
        reach = NamedTensors if by_name else Bindings
        self._execution: Execution = reach(self._engine, context)
        self._driver = Driver()
        self._stream = self._driver.stream()
        self._images: DeviceMemory | None = None
        self._translated: DeviceMemory | None = None

    def run(self, images: Images) -> Images:
        """Translate a batch.

        Raises:
            DeviceError: The plan does not take this shape, or memory ran out.
        """
        self._driver.enter()
        source = np.ascontiguousarray(images, dtype=np.float32)
        translated = np.empty(self._output_shape(source.shape), dtype=np.float32)
        self._images = self._room(self._images, source.nbytes)
        self._translated = self._room(self._translated, translated.nbytes)
        self._driver.upload(source, self._images.address, self._stream)
        if not self._execution.enqueue(
            self._images.address, self._translated.address, self._stream
        ):
            raise DeviceError(
                f"{self._name} failed on images of shape {images.shape} ({self._messages.said()})"
            )
        self._driver.download(self._translated.address, translated, self._stream)
        self._driver.synchronize(self._stream)
        return translated

    def _output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        least, most = self._execution.smallest, self._execution.largest
        fits = len(shape) == len(least) and all(
            low <= extent <= high for low, extent, high in zip(least, shape, most, strict=True)
        )
        result = self._execution.resize(shape) if fits else ()
        if not result:
            raise DeviceError(
                f"{self._name} cannot translate images of shape {shape}: it was built for "
                f"{least} to {most}; try the size it was made for"
            )
        return result

    def _room(self, memory: DeviceMemory | None, size: int) -> DeviceMemory:
        """What is there, where it is enough."""
        if memory is not None and memory.size >= size:
            return memory
        return DeviceMemory(self._driver, size)


def refuse_other_version(plan: Path, again: str) -> None:
    """A plan runs in the TensorRT that built it; say so before TensorRT says it in its own way.

    Raises:
        DeviceError: Another TensorRT built it.
    """
    built, here = plan_version(plan), numbers(trt.__version__)
    if built is not None and any(a != b for a, b in zip(built, here, strict=False)):
        raise DeviceError(
            f"{plan.name} was built by TensorRT {'.'.join(map(str, built))} and this machine has "
            f"{trt.__version__}, which cannot run it; {again}"
        )
