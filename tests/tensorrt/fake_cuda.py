"""The CUDA driver's library over memory of this process."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any


class FakeCuda:
    """The CUDA driver's library with memory of this process; counts what is held and called."""

    def __init__(self, memory: int = 1 << 30) -> None:
        self.held: dict[int, Any] = {}
        self.calls: list[str] = []
        self.memory = memory
        address = ctypes.c_uint64
        pointer = ctypes.c_void_p
        self._add("cuInit", lambda flags: 0, ctypes.c_uint)
        self._add("cuDeviceGet", lambda out, n: 0, ctypes.POINTER(ctypes.c_int), ctypes.c_int)
        self._add("cuDevicePrimaryCtxRetain", self._retain, ctypes.POINTER(pointer), ctypes.c_int)
        self._add("cuCtxSetCurrent", lambda context: 0 if context == CONTEXT else 201, pointer)
        self._add("cuMemAlloc_v2", self._allocate, ctypes.POINTER(address), ctypes.c_size_t)
        self._add("cuMemFree_v2", self._free, address)
        self._add("cuMemcpyHtoDAsync_v2", self._copy, address, pointer, ctypes.c_size_t, pointer)
        self._add("cuMemcpyDtoHAsync_v2", self._copy, pointer, address, ctypes.c_size_t, pointer)
        self._add("cuStreamCreate", self._stream, ctypes.POINTER(pointer), ctypes.c_uint)
        self._add("cuStreamSynchronize", lambda stream: 0 if stream == STREAM else 400, pointer)
        self._add("cuGetErrorName", self._name, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))

    def _add(self, name: str, behaviour: Callable[..., int], *arguments: Any) -> None:
        def noted(*values: Any) -> int:
            self.calls.append(name)
            return behaviour(*values)

        setattr(self, name, ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(noted))

    def _retain(self, out: Any, device: int) -> int:
        out[0] = CONTEXT
        return 0

    def _stream(self, out: Any, flags: int) -> int:
        out[0] = STREAM
        return 0

    def _allocate(self, out: Any, size: int) -> int:
        if size > self.memory:
            return 2
        memory = ctypes.create_string_buffer(size)
        out[0] = ctypes.addressof(memory)
        self.held[out[0]] = memory
        return 0

    def _free(self, address: int) -> int:
        return 0 if self.held.pop(address, None) is not None else 1

    def _copy(self, to: int, from_: int, size: int, stream: int) -> int:
        ctypes.memmove(to, from_, size)
        return 0

    def _name(self, status: int, out: Any) -> int:
        out[0] = {2: b"CUDA_ERROR_OUT_OF_MEMORY"}.get(status, b"CUDA_ERROR_UNKNOWN")
        return 0


CONTEXT = 0x7F00_0000_1000
STREAM = 0x7F00_0000_2000
"""Addresses beyond 32 bits: an argument cut to an int would be noticed."""

GPU = {"name": "Orin", "compute_capability": "8.7", "multiprocessors": 8, "driver_cuda": "12.6"}
"""What its probe would print."""
