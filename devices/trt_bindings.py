"""How a TensorRT older than 8.5 takes images: bindings by number, all addresses at once."""

from __future__ import annotations

import tensorrt as trt

from devices.session import DeviceError


class Bindings:
    """One input and one output of an engine, by index.

    Attributes:
        smallest: The least shape that the engine takes, (N, C, H, W).
        largest: The greatest one.
    """

    def __init__(self, engine: trt.ICudaEngine, context: trt.IExecutionContext) -> None:
        inputs = [index for index in range(engine.num_bindings) if engine.binding_is_input(index)]
        if len(inputs) != 1 or engine.num_bindings != 2:
            raise DeviceError(f"the plan has {engine.num_bindings} tensors, not one in and one out")
        self._input = inputs[0]
        for index in range(engine.num_bindings):
            if engine.get_binding_dtype(index) != trt.DataType.FLOAT:
                raise DeviceError(f"the plan's {engine.get_binding_name(index)!r} is not float32")
        self._context = context
        shape = tuple(engine.get_binding_shape(self._input)[:])
        self.smallest, self.largest = shape, shape
        if -1 in shape:
            least, _, greatest = engine.get_profile_shape(0, self._input)
            self.smallest, self.largest = tuple(least[:]), tuple(greatest[:])

    def resize(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Set the input's shape; the output's for it."""
        if not self._context.set_binding_shape(self._input, trt.Dims(list(shape))):
            return ()
        return tuple(self._context.get_binding_shape(1 - self._input)[:])

    def enqueue(self, source: int, result: int, stream: int) -> bool:
        """Start the engine on images at an address; false where it refuses."""
        addresses = [result, result]
        addresses[self._input] = source
        return bool(self._context.execute_async_v2(addresses, stream))
