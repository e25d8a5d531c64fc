"""Both rooms' TensorRT modules, imported anew with a fake of a given version underneath."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace

import pytest

from devices import cuda
from devices.engine_host import Gpu
from tests.tensorrt.fake import fake_tensorrt
from tests.tensorrt.fake_cuda import GPU, FakeCuda
from tests.tensorrt.played import World

ROOMS = (
    "devices.trt_log",
    "devices.trt_bindings",
    "devices.trt",
    "deploy.backends.trt_strong",
    "deploy.backends.trt_weak",
    "deploy.backends.trt_dla",
    "deploy.backends.trt_progress",
    "deploy.backends.trt",
)
Install = Callable[..., SimpleNamespace]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def driver() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def install(monkeypatch, world, driver, tmp_path) -> Iterator[Install]:
    """Installs a version of TensorRT, a GPU and its driver; gives the modules that use them."""

    def make(version: str) -> SimpleNamespace:
        forget()
        trt: ModuleType = fake_tensorrt(version, world)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        monkeypatch.setenv("POCKETGAN_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: driver)
        monkeypatch.setattr(cuda, "this_gpu", lambda: Gpu(**GPU))
        return SimpleNamespace(
            trt=trt,
            builder=importlib.import_module("deploy.backends.trt"),
            runner=importlib.import_module("devices.trt"),
        )

    yield make
    forget()


def forget() -> None:
    """They hold the module they were imported with, and their packages hold them."""
    for name in ROOMS:
        if sys.modules.pop(name, None) is not None:
            package, _, last = name.rpartition(".")
            vars(sys.modules[package]).pop(last, None)
