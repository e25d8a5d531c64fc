from __future__ import annotations

import gc
import sys
import threading

import numpy as np
import pytest

from devices.profile import TensorRt, load_profile
from devices.session import DeviceError, open_session
from tests.tensorrt.fake import VERSIONS
from tests.tensorrt.fake_cuda import STREAM
from tests.tensorrt.played import plan_of

IMAGES = np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32) * 2 - 1


@pytest.fixture
def opened(install, tmp_path):
    """Opens a plan of a version in that version, as everybody does, through `open_session`."""

    def run(version, *, plan=None, profile=None):
        install(version)
        engine = tmp_path / "engine.plan"
        engine.write_bytes(plan or plan_of(version))
        device = profile or load_profile("jetson")
        return open_session(engine, device, backend="tensorrt", precision="int8")

    return run


@pytest.mark.parametrize("version", VERSIONS)
def test_images_go_through_the_gpu_and_come_back(opened, world, driver, version):
    session = opened(version)
    np.testing.assert_array_equal(session.run(IMAGES), -IMAGES)
    np.testing.assert_array_equal(session.run(IMAGES / 2), -IMAGES / 2)
    assert world.asked["stream"] == [STREAM, STREAM]
    assert world.asked["deserialized"] == [plan_of(version)]
    assert driver.calls.count("cuMemAlloc_v2") == 2  # the room of the first image serves the second


@pytest.mark.parametrize("version", ["8.2.5", "11.4.0.106"])
def test_sizes_may_alternate(opened, driver, version):
    session = opened(version)
    for side in (8, 32, 16):
        images = np.full((1, 3, side, 32), 0.5, dtype=np.float32)
        np.testing.assert_array_equal(session.run(images), -images)
    assert len(driver.held) == 2


def test_a_view_of_other_pixels_is_read_as_it_looks(opened):
    view = np.random.default_rng(1).random((1, 16, 16, 3), dtype=np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(opened("10.3.0").run(view), -view)


@pytest.mark.parametrize("version", ["8.2.5", "10.3.0"])
def test_an_upscaler_gives_a_larger_image(opened, world, version):
    world.scale = 2
    world.translate = lambda images: images.repeat(2, axis=2).repeat(2, axis=3)
    expected = IMAGES.repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_array_equal(opened(version).run(IMAGES), expected)


@pytest.mark.parametrize("version", ["8.2.5", "8.6.1", "11.4.0.106"])
@pytest.mark.parametrize("shape", [(1, 3, 4, 16), (1, 3, 16, 64), (2, 3, 16, 16), (3, 16, 16)])
def test_a_size_it_was_not_built_for(opened, version, shape):
    with pytest.raises(
        DeviceError,
        match=r"engine\.plan cannot translate images of shape .*: it was built for "
        r"\(1, 3, 8, 8\) to \(1, 3, 32, 32\); try the size",
    ):
        opened(version).run(np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize("version", ["8.2.5", "10.3.0"])
def test_a_plan_of_one_size_only(opened, world, version):
    world.shape = (1, 3, 16, 16)
    session = opened(version)
    np.testing.assert_array_equal(session.run(IMAGES), -IMAGES)
    with pytest.raises(DeviceError, match=r"built for \(1, 3, 16, 16\) to \(1, 3, 16, 16\)"):
        session.run(np.zeros((1, 3, 8, 8), dtype=np.float32))


@pytest.mark.parametrize("version", ["8.2.5", "8.6.1", "11.4.0.106"])
def test_an_engine_that_fails_says_so(opened, world, version):
    world.translate = lambda images: None
    with pytest.raises(DeviceError, match=r"engine\.plan failed on images of shape \(1, 3, 16, 16"):
        opened(version).run(IMAGES)


@pytest.mark.parametrize("version", ["8.2.5", "11.4.0.106"])
def test_tensors_of_another_type_are_refused(opened, world, version):
    world.dtype = "HALF"
    with pytest.raises(DeviceError, match="the plan's 'y' is not float32"):
        opened(version)


def test_a_plan_of_another_tensorrt_is_refused_before_tensorrt_sees_it(opened, world):
    with pytest.raises(
        DeviceError,
        match=r"engine\.plan was built by TensorRT 10\.3\.0\.0 and this machine has 8\.6\.1, "
        r"which cannot run it; make the int8 engine again on this machine with pocketgan deploy",
    ):
        opened("8.6.1", plan=plan_of("10.3.0"))
    assert "deserialized" not in world.asked


def test_versions_are_compared_as_far_as_both_are_known(opened):
    plan = plan_of("10.3.0.30")
    np.testing.assert_array_equal(opened("10.3.0", plan=plan).run(IMAGES), -IMAGES)


def test_a_plan_for_another_gpu(opened, world):
    world.loads, world.says = False, "Expecting compute 7.2 got compute 8.7"
    with pytest.raises(
        DeviceError,
        match=r"tensorrt 10\.3\.0 cannot load .*engine\.plan on Orin \(Expecting compute 7\.2 got "
        r"compute 8\.7\); make the int8 engine again",
    ):
        opened("10.3.0")


def test_a_header_of_an_old_plan_is_left_to_tensorrt(opened):
    np.testing.assert_array_equal(opened("8.2.5", plan=b"ptrt" + bytes(60)).run(IMAGES), -IMAGES)


def test_a_gpu_without_memory_names_what_it_refused(opened, driver):
    session = opened("10.3.0")
    driver.memory = 16
    with pytest.raises(
        DeviceError, match=r"the GPU refused cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY \(2\)"
    ):
        session.run(IMAGES)


def test_no_room_for_the_engine_itself(opened, world):
    world.fits = False
    with pytest.raises(
        DeviceError, match=r"engine\.plan finds no room on Orin .*smaller image_size"
    ):
        opened("10.3.0")


def test_memory_goes_with_the_session(opened, driver):
    session = opened("10.3.0")
    session.run(IMAGES)
    assert len(driver.held) == 2
    del session
    gc.collect()
    assert driver.held == {}


def test_every_thread_enters_the_context(opened, driver):
    session = opened("10.3.0")
    driver.calls.clear()
    thread = threading.Thread(target=session.run, args=(IMAGES,))
    thread.start()
    thread.join()
    assert driver.calls[0] == "cuCtxSetCurrent"


def test_a_session_on_a_dla_says_which_core(opened, world):
    board = TensorRt(
        version="10.3", compute_capability="8.7", workspace_mib=1, dla_cores=1, use_dla=True
    )
    opened("10.3.0", profile=load_profile("jetson").model_copy(update={"tensorrt": board}))
    assert world.asked["runtime_dla"] == [0]
    opened("10.3.0")
    assert world.asked["runtime_dla"] == [0, None]


def test_a_missing_tensorrt_is_named_with_its_cure(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "devices.trt", raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(DeviceError, match=r"engine\.plan needs the tensorrt runtime.*pip install"):
        open_session(
            tmp_path / "engine.plan", load_profile("jetson"), backend="tensorrt", precision="fp16"
        )
