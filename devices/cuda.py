"""Memory and streams of an NVIDIA GPU, by the driver's own library.

The driver's library has one name on every board and keeps its functions, while the CUDA runtime
is another file with every version. TensorRT computes in the device's primary context, and so does
this, so that addresses and streams are worth the same on both sides.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from devices.engine_host import PROBE, Gpu
from devices.gpu_probe import LIBRARY
from devices.session import DeviceError

PROBE_SECONDS = 60
REMEDY = "run this on the device itself, or choose a profile with another backend"

Pointer = ctypes.c_void_p
Address = ctypes.c_uint64
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (ctypes.POINTER(ctypes.c_int), ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(Pointer), ctypes.c_int),
    "cuCtxSetCurrent": (Pointer,),
    "cuMemAlloc_v2": (ctypes.POINTER(Address), ctypes.c_size_t),
    "cuMemFree_v2": (Address,),
    "cuMemcpyHtoDAsync_v2": (Address, Pointer, ctypes.c_size_t, Pointer),
    "cuMemcpyDtoHAsync_v2": (Pointer, Address, ctypes.c_size_t, Pointer),
    "cuStreamCreate": (ctypes.POINTER(Pointer), ctypes.c_uint),
    "cuStreamSynchronize": (Pointer,),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}
"""What is called, and with what: ctypes would pass a 64-bit address as an int of 32."""

NON_BLOCKING = 1


def this_gpu(probe: Path = PROBE) -> Gpu:
    """The GPU of this machine, looked for in another process.

    TensorRT without a working driver ends the process by a segmentation fault, so whoever
    loads it asks here first.

    Raises:
        DeviceError: There is no GPU, or looking for one crashed.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(probe)],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise DeviceError(
            f"the NVIDIA driver did not answer in {PROBE_SECONDS} s; restart the machine"
        ) from late
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode < 0:
        raise DeviceError(
            f"the NVIDIA driver crashed with signal {-done.returncode} while it looked for a GPU; "
            f"install the driver again, or {REMEDY}"
        )
    if done.returncode:
        raise DeviceError(f"TensorRT needs an NVIDIA GPU and finds none ({said}); {REMEDY}")
    try:
        return Gpu.model_validate_json(done.stdout)
    except ValidationError as error:
        raise DeviceError(f"looking for a GPU gave no answer ({said}); {REMEDY}") from error


class Driver:
    """The first GPU's memory and streams.

    Raises:
        DeviceError: From every method, when the driver refuses.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = ctypes.CDLL(LIBRARY) if library is None else library
        for name, arguments in SIGNATURES.items():
            getattr(self._library, name).argtypes = arguments
        self._call("cuInit", 0)
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        # never released: TensorRT holds the same context for as long as the process lives
        self._context = Pointer()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.enter()

    def enter(self) -> None:
        """Make the context the calling thread's own; a server runs a session in any thread."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """The address of ``size`` bytes on the GPU."""
        address = Address()
        self._call("cuMemAlloc_v2", ctypes.byref(address), size)
        return int(address.value)

    def free(self, address: int) -> None:
        """Give memory back."""
        self.enter()  # called when a session is collected, in whatever thread that happens
        self._call("cuMemFree_v2", address)

    def stream(self) -> int:
        """A stream of its own, which waits for no other."""
        stream = Pointer()
        self._call("cuStreamCreate", ctypes.byref(stream), NON_BLOCKING)
        return int(stream.value or 0)

    def upload(self, array: NDArray[np.float32], address: int, stream: int) -> None:
        """Copy a contiguous array to the GPU."""
        self._call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, stream)

    def download(self, address: int, array: NDArray[np.float32], stream: int) -> None:
        """Fill a contiguous array from the GPU; whole after `synchronize`."""
        self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, stream)

    def synchronize(self, stream: int) -> None:
        """Wait for what is in the stream."""
        self._call("cuStreamSynchronize", stream)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            error = ctypes.c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(error))
            said = (error.value or b"unknown").decode(errors="replace")
            raise DeviceError(f"the GPU refused {name}: {said} ({status})")


class DeviceMemory:
    """Bytes on the GPU, given back when nobody holds this object any more."""

    def __init__(self, driver: Driver, size: int) -> None:
        self.size = size
        self.address = driver.allocate(size)
        # not at exit: the driver is gone by then, and the memory with it
        weakref.finalize(self, driver.free, self.address).atexit = False
