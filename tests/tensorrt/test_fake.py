"""The fake is as strict as the real module of its version; nothing else in these tests counts."""

from __future__ import annotations

import pytest

from tests.tensorrt.fake import API, VERSIONS, fake_tensorrt
from tests.tensorrt.played import World as FakeWorld

WEAK_FLAGS = ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_flag_that_was_removed_raises_as_in_life(version):
    trt = fake_tensorrt(version, FakeWorld())
    for flag in WEAK_FLAGS:
        if version.startswith("11"):
            with pytest.raises(AttributeError, match=flag):
                getattr(trt.BuilderFlag, flag)
        else:
            assert getattr(trt.BuilderFlag, flag).name == flag


@pytest.mark.parametrize(
    ("since", "path"),
    [
        ((8, 4), "MemoryPoolType"),
        ((8, 5), "IExecutionContext.execute_async_v3"),
        ((8, 6), "LayerType.NORMALIZATION"),
        ((8, 6), "IBuilderConfig.builder_optimization_level"),
        ((10, 0), "IProgressMonitor"),
        ((10, 0), "NetworkDefinitionCreationFlag.STRONGLY_TYPED"),
        ((10, 0), "BuilderFlag.BF16"),
        ((10, 0), "ParserError.node_name"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_came_later_is_absent_before(version, since, path):
    thing = fake_tensorrt(version, FakeWorld())
    *owners, last = path.split(".")
    for name in owners:
        thing = getattr(thing, name)
    there = tuple(int(part) for part in version.split(".")[:2]) >= since
    if "BF16" in path:
        there = there and not version.startswith("11")
    assert hasattr(thing, last) is there


@pytest.mark.parametrize(
    ("until", "path"),
    [
        (10, "ICudaEngine.num_bindings"),
        (10, "IExecutionContext.execute_async_v2"),
        (10, "IBuilderConfig.max_workspace_size"),
        (11, "ILayer.precision"),
        (11, "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"),
        (11, "TacticSource.CUDNN"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_removed_is_absent_after(version, until, path):
    owner, last = path.split(".")
    thing = getattr(fake_tensorrt(version, FakeWorld()), owner)
    assert hasattr(thing, last) is (int(version.split(".")[0]) < until)


def test_an_object_takes_no_attribute_that_its_class_lacks():
    trt = fake_tensorrt("11.4.0.106", FakeWorld())
    config = trt.Builder(None).create_builder_config()
    config.builder_optimization_level = 3
    with pytest.raises(AttributeError, match="max_workspace_size"):
        config.max_workspace_size = 1


def test_the_versions_recorded_are_those_of_the_page():
    assert [".".join(version.split(".")[:2]) for version in API] == [
        "10.11",
        "10.12",
        "10.13",
        "10.3",
        "11.4",
        "8.6",
    ]
