"""Print what the CUDA driver says of the first GPU; run as a script, in a process of its own.

A process of its own, because a broken driver can end the process that asks it. The driver's
library alone is needed, neither a toolkit nor nvidia-smi, which boards of JetPack 4 and 5 have
not and which does not tell the count of multiprocessors.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

MULTIPROCESSORS = 16
CAPABILITY_MAJOR = 75
CAPABILITY_MINOR = 76
"""``CUdevice_attribute`` in cuda.h."""


def look(cuda: Any) -> dict[str, str | int]:
    """Ask the driver for its first GPU.

    Args:
        cuda: The driver's library, as ``ctypes`` opens it.

    Raises:
        RuntimeError: A call failed, or there is no GPU.
    """
    _check("cuInit", cuda.cuInit(0))
    version = ctypes.c_int()
    _check("cuDriverGetVersion", cuda.cuDriverGetVersion(ctypes.byref(version)))
    device = ctypes.c_int()
    _check("cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), 0))
    name = ctypes.create_string_buffer(256)
    _check("cuDeviceGetName", cuda.cuDeviceGetName(name, len(name), device))

    def attribute(which: int) -> int:
        value = ctypes.c_int()
        code = cuda.cuDeviceGetAttribute(ctypes.byref(value), which, device)
        _check("cuDeviceGetAttribute", code)
        return value.value

    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": f"{attribute(CAPABILITY_MAJOR)}.{attribute(CAPABILITY_MINOR)}",
        "multiprocessors": attribute(MULTIPROCESSORS),
        # 12060 is 12.6
        "driver_cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
    }


def _check(call: str, code: int) -> None:
    if code != 0:
        raise RuntimeError(f"{call} failed with CUDA error {code}")


def main() -> int:
    """Print the facts as JSON, or why there are none; return the exit status."""
    try:
        found = look(ctypes.CDLL(LIBRARY))
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
