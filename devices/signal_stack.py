"""Keep the stack that signals are handled on, around a library that puts another in its place.

OpenVINO's CPU plugin gives the thread that loads it a signal stack of its own, and frees it with
its last engine, in whatever thread that ends. A signal that the first thread gets after that ends
the process: Ctrl-C, for one.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> tuple[int | None, int, int]:
    """Address, flags and size of this thread's signal stack; elsewhere than on Linux none."""
    if sys.platform != "linux":
        return (None, 0, 0)
    now = _Stack()
    _call(None, now)
    return now.sp, now.flags, now.size


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Whatever happens meanwhile, this thread then has the signal stack that it had before."""
    if sys.platform != "linux":
        yield
        return
    before = _Stack()
    _call(None, before)
    try:
        yield
    finally:
        _call(before, None)


def _call(new: _Stack | None, old: _Stack | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sigaltstack(
        None if new is None else ctypes.byref(new), None if old is None else ctypes.byref(old)
    ):
        raise OSError(ctypes.get_errno(), "sigaltstack failed")
