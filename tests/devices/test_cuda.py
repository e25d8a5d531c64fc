import numpy as np
import pytest

from devices.cuda import SIGNATURES, DeviceMemory, Driver, this_gpu
from devices.engine_host import Gpu
from devices.session import DeviceError
from tests.tensorrt.fake_cuda import GPU, FakeCuda

ORIN = """print('{"name": "Orin", "compute_capability": "8.7", "multiprocessors": 8, """
ORIN += """"driver_cuda": "12.6"}')"""


@pytest.fixture
def probe(tmp_path):
    """A script in place of the one that asks the driver."""

    def write(code):
        script = tmp_path / "probe.py"
        script.write_text(code)
        return script

    return write


def test_the_gpu_is_what_the_probe_prints(probe):
    assert this_gpu(probe(ORIN)) == Gpu(**GPU)


def test_a_driver_that_crashes_takes_nobody_with_it(probe):
    crash = probe("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(DeviceError, match=r"driver crashed with signal 11.*install the driver"):
        this_gpu(crash)


def test_no_driver_is_said_with_what_to_do(probe):
    absent = probe("import sys; sys.exit('libcuda.so.1: cannot open shared object file')")
    with pytest.raises(
        DeviceError,
        match=r"needs an NVIDIA GPU and finds none \(libcuda\.so\.1: cannot open.*\); run this on "
        r"the device itself, or choose a profile",
    ):
        this_gpu(absent)


def test_an_answer_that_is_none(probe):
    with pytest.raises(DeviceError, match="gave no answer"):
        this_gpu(probe("print('{}')"))


def test_a_driver_that_hangs(probe, monkeypatch):
    monkeypatch.setattr("devices.cuda.PROBE_SECONDS", 0.2)
    with pytest.raises(DeviceError, match=r"did not answer in 0\.2 s"):
        this_gpu(probe("import time; time.sleep(60)"))


def test_every_function_is_told_the_size_of_its_arguments():
    library = FakeCuda()
    Driver(library)
    for name, arguments in SIGNATURES.items():
        assert tuple(getattr(library, name).argtypes) == arguments


def test_what_goes_up_comes_down():
    driver = Driver(FakeCuda())
    stream = driver.stream()
    images = np.arange(12, dtype=np.float32)
    back = np.zeros_like(images)
    address = driver.allocate(images.nbytes)
    assert address > 2**32  # an address that does not fit an int
    driver.upload(images, address, stream)
    driver.download(address, back, stream)
    driver.synchronize(stream)
    np.testing.assert_array_equal(back, images)


def test_memory_is_given_back_with_its_object():
    library = FakeCuda()
    memory = DeviceMemory(Driver(library), 64)
    assert list(library.held) == [memory.address]
    del memory
    assert library.held == {}


def test_a_call_that_fails_is_named():
    driver = Driver(FakeCuda(memory=10))
    with pytest.raises(DeviceError, match=r"refused cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY \(2\)"):
        driver.allocate(11)
    with pytest.raises(DeviceError, match=r"refused cuMemFree_v2: CUDA_ERROR_UNKNOWN \(1\)"):
        driver.free(7)
