"""A TensorRT without a GPU: each version has the attributes it has in life, and no other.

What is asked for and is not in that version raises AttributeError, as the real module does. The
names come from api.json, which `tests.tensorrt.record` takes from the real bindings. Versions
before 8.6 have no wheel to take them from: theirs are those of 8.6 without what two older versions
of NVIDIA's open source of those bindings (python/src in NVIDIA/TensorRT) lack, one with the tensors
by name of 8.5 and one that is older than that; the flags of precision constraints are in 8.2
according to its changelog.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.tensorrt.played import World, behave

API = {
    entry["version"]: entry
    for entry in json.loads(Path(__file__).with_name("api.json").read_text())
}

NEW_IN_8_6 = {
    "names": ["OnnxParserFlag", "INormalizationLayer", "HardwareCompatibilityLevel"],
    "enums": {
        "BuilderFlag": ["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "FP8"],
        "LayerType": ["CAST", "NORMALIZATION", "REVERSE_SEQUENCE"],
    },
    "classes": {
        "IBuilderConfig": [
            "builder_optimization_level",
            "hardware_compatibility_level",
            "max_aux_streams",
            "plugins_to_serialize",
        ],
        "OnnxParser": ["set_flag", "get_flag", "clear_flag", "flags"],
    },
}
NEW_AFTER_8_2 = {
    "names": ["MemoryPoolType", "PreviewFeature", "TensorIOMode", "IOutputAllocator"],
    "enums": {
        "BuilderFlag": ["ENABLE_TACTIC_HEURISTIC"],
        "TacticSource": ["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"],
    },
    "classes": {
        "IBuilderConfig": [
            "set_memory_pool_limit",
            "get_memory_pool_limit",
            "set_preview_feature",
            "get_preview_feature",
        ],
        "ICudaEngine": [
            "num_io_tensors",
            "get_tensor_name",
            "get_tensor_mode",
            "get_tensor_dtype",
            "get_tensor_shape",
            "get_tensor_profile_shape",
        ],
        "IExecutionContext": [
            "execute_async_v3",
            "get_tensor_address",
            "set_tensor_address",
            "get_tensor_shape",
            "get_tensor_strides",
            "set_input_shape",
            "infer_shapes",
        ],
    },
}
OLDER: dict[str, list[dict[str, Any]]] = {
    "8.5.3": [NEW_IN_8_6],
    "8.2.5": [NEW_IN_8_6, NEW_AFTER_8_2],
}
VERSIONS = (*OLDER, *API)


def api_of(version: str) -> dict[str, Any]:
    """Names of a version: recorded, or derived from the oldest recorded one."""
    if version in API:
        return API[version]
    api = json.loads(json.dumps(API["8.6.1"])) | {"version": version}
    for gone in OLDER[version]:
        api["names"] = [name for name in api["names"] if name not in gone["names"]]
        for kind in ("enums", "classes"):
            for name in gone["names"]:
                api[kind].pop(name, None)
            for name, members in gone[kind].items():
                if name in api[kind]:
                    api[kind][name] = [item for item in api[kind][name] if item not in members]
    return api


def fake_tensorrt(version: str, world: World) -> ModuleType:
    """The module ``tensorrt`` of one version."""
    api = api_of(version)
    module = ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    for name, members in api["enums"].items():
        setattr(module, name, enum.IntEnum(name, {m: i for i, m in enumerate(members)}))
    for name, members in api["classes"].items():
        setattr(module, name, strict_class(name, members))
    for name in set(api["names"]) - set(vars(module)):
        setattr(module, name, SimpleNamespace())  # there, and nothing this project uses
    behave(module, world)
    return module


def strict_class(name: str, members: list[str]) -> type:
    """A class with these attributes; one it lacks can be neither read nor set, as in pybind11."""

    def absent(self: Any, attribute: str) -> Any:
        if attribute in members:
            raise NotImplementedError(f"the fake does not play {name}.{attribute}")
        raise AttributeError(f"{name!r} object has no attribute {attribute!r}")

    def assign(self: Any, attribute: str, value: Any) -> None:
        # what Python code adds in a class of its own is allowed there, as in life
        if type(self).__name__ == name and attribute not in members and attribute[0] != "_":
            raise AttributeError(f"{name!r} object has no attribute {attribute!r}")
        self.__dict__[attribute] = value

    body: dict[str, Any] = {"__getattr__": absent, "__setattr__": assign}
    body |= {member: _Unplayed(name, member) for member in members}
    return type(name, (), body | {"MEMBERS": tuple(members)})


class _Unplayed:
    """An attribute that is there and that no test needs yet; setting it on an object is fine."""

    def __init__(self, owner: str, name: str) -> None:
        self.told = f"the fake does not play {owner}.{name}"

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError(self.told)
