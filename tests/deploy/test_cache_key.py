"""Every field of the key: that it decides, that it comes from somewhere, and that it is named."""

import pytest

from deploy.cache_key import (
    EngineKey,
    builder_digest,
    change,
    differences,
    engine_key,
    explain,
    on_this_machine,
)
from devices.engine_host import EngineHost, Gpu
from devices.profile import DeviceProfile, TensorRt, load_profile
from devices.session import DeviceError
from tests.deploy.cache_keys import A, B, make_key

KEY = make_key()

CHANGES = {
    # field: another value, and how the difference is told
    "schema_version": (2, "schema_version 1 -> 2"),
    "builder_sha256": (B, "builder_sha256 aaaaaaaaaaaa -> bbbbbbbbbbbb"),
    "model_sha256": (B, "model_sha256 aaaaaaaaaaaa -> bbbbbbbbbbbb"),
    "backend": ("onnxruntime", "backend tensorrt -> onnxruntime"),
    "precision": ("int8", "precision fp16 -> int8"),
    "typing": ("weak", "typing strong -> weak"),
    "quantizer": ("nncf", "quantizer none -> nncf"),
    "calibration_sha256": (None, "calibration_sha256 aaaaaaaaaaaa -> none"),
    "execution_providers": (
        ("CUDAExecutionProvider", "CPUExecutionProvider"),
        "execution_providers -TensorrtExecutionProvider +CUDAExecutionProvider",
    ),
    "flags": ({"level": "5", "tf32": "off"}, "flags level 3 -> 5"),
    "image_size": (512, "image_size 256 -> 512"),
    "workspace_mib": (512, "workspace_mib 1024 -> 512"),
    "memory_mib": (2048, "memory_mib 4096 -> 2048"),
    "threads": (2, "threads 4 -> 2"),
    "dla_core": (0, "dla_core none -> 0"),
    "plugins_sha256": (B, "plugins_sha256 none -> bbbbbbbbbbbb"),
    "runtimes": (
        {"tensorrt": "10.7.0", "onnxruntime-gpu": "1.23.0"},
        "runtimes tensorrt 10.3.0 -> 10.7.0",
    ),
    "cuda_runtime": (None, "cuda_runtime toolkit 12.6.68 -> none"),
    "driver": ("550", "driver 540 -> 550"),
    "compute_capability": ("8.6", "compute_capability 8.7 -> 8.6"),
    "gpu": ("NVIDIA RTX A2000", "gpu Orin -> NVIDIA RTX A2000"),
    "multiprocessors": (16, "multiprocessors 8 -> 16"),
    "l4t": ("36.5", "l4t 36.4.3 -> 36.5"),
    "board": (None, "board NVIDIA Jetson Orin Nano Developer Kit -> none"),
    "system": ("Linux ubuntu 24.04", "system Linux ubuntu 22.04 -> Linux ubuntu 24.04"),
    "architecture": ("x86_64", "architecture aarch64 -> x86_64"),
    "cpu": ("Carmel", "cpu Cortex-A78AE -> Carmel"),
    "instructions": (("asimd", "i8mm"), "instructions -fphp +i8mm"),
}


def test_the_table_of_changes_has_every_field():
    assert set(CHANGES) == set(EngineKey.model_fields)


@pytest.mark.parametrize("field", CHANGES)
def test_one_changed_field_is_another_digest_and_is_named(field):
    value, told = CHANGES[field]
    other = EngineKey.model_validate(dict(KEY) | {field: value})
    assert other.digest != KEY.digest
    assert differences(KEY, other) == [told]
    assert explain(other, [KEY]) == f"the nearest differs in {told}"


def test_the_digest_is_of_the_values_not_of_their_order():
    turned = dict(reversed(KEY.flags.items()))
    assert EngineKey.model_validate(dict(KEY) | {"flags": turned}).digest == KEY.digest


def test_a_key_survives_a_file_with_its_digest():
    assert EngineKey.model_validate_json(KEY.model_dump_json(indent=2)).digest == KEY.digest


def test_the_nearest_entry_is_the_one_with_fewest_differences():
    other = KEY.model_copy(update={"threads": 2})
    far = KEY.model_copy(update={"threads": 8, "gpu": "x", "l4t": "x"})
    assert explain(other, [far, KEY, far]) == "the nearest differs in threads 4 -> 2"
    assert explain(far, [KEY]).count(";") == 2
    assert explain(KEY, []) == "there is no engine yet"
    assert explain(KEY, [far, KEY]) == f"there is one: {KEY.digest[:12]}"


def test_a_change_of_order_only_is_told_in_full():
    assert change(("a", "b"), ("b", "a")) == "a b -> b a"


HOST = EngineHost(
    cpu="Cortex-A78AE",
    architecture="aarch64",
    instructions=("asimd",),
    system="Linux ubuntu 22.04",
    board="NVIDIA Jetson Orin Nano Developer Kit",
    l4t="36.4.3",
    runtimes={"onnxruntime-gpu": "1.23.0", "tensorrt": "10.3.0", "openvino": "2026.4.1"},
    cuda_runtime="toolkit 12.6.68",
    driver="540.4.0",
    gpu=Gpu(name="Orin", compute_capability="8.7", multiprocessors=8, driver_cuda="12.6"),
)
TRT = TensorRt(version="10.3", compute_capability="8.7", workspace_mib=1024)


@pytest.fixture
def profile() -> DeviceProfile:
    options = {"TensorrtExecutionProvider": {"trt_dla_enable": "False"}}
    return load_profile("jetson").model_copy(update={"provider_options": options, "tensorrt": TRT})


@pytest.fixture
def key_of(profile):
    """The key as it is, but for what is named."""

    def key_of(model=b"model", profile=profile, host=HOST, **others):
        made_by = {
            "backend": "tensorrt",
            "precision": "int8",
            "quantizer": "nncf",
            "calibration_sha256": A,
        }
        return engine_key(model, profile, host=host, **(made_by | others))

    return key_of


@pytest.mark.parametrize(
    ("argument", "value", "field"),
    [
        ("model", b"another", "model_sha256"),
        ("precision", "fp16", "precision"),
        ("quantizer", "nncf, 2 layers in float", "quantizer"),
        ("calibration_sha256", None, "calibration_sha256"),
        ("flags", {"tf32": "off"}, "flags"),
    ],
)
def test_each_argument_reaches_its_field(key_of, argument, value, field):
    (told,) = differences(key_of(), key_of(**{argument: value}))
    assert told.startswith(f"{field} ")


def test_a_model_is_the_same_as_a_file_and_as_bytes(key_of, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"model")
    assert key_of(tmp_path / "model.onnx") == key_of(b"model")


DECIDES = {
    "execution_providers": (("CUDAExecutionProvider",), "execution_providers"),
    "provider_options": ({}, "flags TensorrtExecutionProvider.trt_dla_enable False -> none"),
    "image_size": (512, "image_size"),
    "threads": (1, "threads"),
    "memory_mib": (512, "memory_mib"),
    "tensorrt": (TRT.model_copy(update={"workspace_mib": 512}), "workspace_mib 1024 -> 512"),
}
DECIDES_NOT = {
    # names, promises, and what has its say before there is a graph to compile
    "name",
    "description",
    "architecture",
    "board",
    "backends",
    "precisions",
    "opset",
    "channel_multiple",
    "unsupported_operators",
    "slow_operators",
    "refused",
    "power_modes",
    "budget",
    "software",
    "source",
}


def test_every_key_of_a_profile_decides_or_does_not():
    """A new key of a profile fails here until somebody says on which side it is."""
    assert set(DECIDES) | DECIDES_NOT == set(DeviceProfile.model_fields)
    assert not set(DECIDES) & DECIDES_NOT


@pytest.mark.parametrize("name", DECIDES)
def test_what_a_compiler_reads_of_a_profile_is_in_the_key(key_of, profile, name):
    value, told = DECIDES[name]
    other = key_of(profile=profile.model_copy(update={name: value}))
    (difference,) = differences(key_of(), other)
    assert difference.startswith(told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": "10.13"}, "flags tensorrt.version 10.3 -> 10.13"),
        ({"compute_capability": "8.6"}, "flags tensorrt.compute_capability 8.7 -> 8.6"),
        ({"use_dla": True}, "dla_core none -> 0"),
    ],
)
def test_what_a_board_says_of_tensorrt_is_in_the_key(key_of, profile, change, told):
    board = profile.model_copy(update={"tensorrt": TRT.model_copy(update=change)})
    assert differences(key_of(), key_of(profile=board)) == [told]


HOST_CHANGES = {
    "cpu": ("Carmel", "cpu Cortex-A78AE -> Carmel"),
    "architecture": ("x86_64", "architecture aarch64 -> x86_64"),
    "instructions": (("asimd", "i8mm"), "instructions +i8mm"),
    "system": ("Linux ubuntu 24.04", "system Linux ubuntu 22.04 -> Linux ubuntu 24.04"),
    "board": (None, "board NVIDIA Jetson Orin Nano Developer Kit -> none"),
    "l4t": ("36.5", "l4t 36.4.3 -> 36.5"),
    "runtimes": (HOST.runtimes | {"tensorrt": "10.7.0"}, "runtimes tensorrt 10.3.0 -> 10.7.0"),
    "cuda_runtime": ("toolkit 13.0", "cuda_runtime toolkit 12.6.68 -> toolkit 13.0"),
    "driver": ("550.1", "driver 540 -> 550"),
    "gpu": (
        HOST.gpu.model_copy(update={"multiprocessors": 16}),
        "multiprocessors 8 -> 16",
    ),
}


def test_the_table_of_hosts_has_every_fact():
    assert set(HOST_CHANGES) == set(EngineHost.model_fields)


@pytest.mark.parametrize("fact", HOST_CHANGES)
def test_every_fact_of_the_machine_is_in_the_key(key_of, fact):
    value, told = HOST_CHANGES[fact]
    host = HOST.model_copy(update={fact: value})
    assert differences(key_of(), key_of(host=host)) == [told]
    assert on_this_machine(key_of(), host) == key_of(host=host)


@pytest.mark.parametrize(
    ("fact", "told"),
    [("name", "gpu Orin -> other"), ("compute_capability", "compute_capability 8.7 -> other")],
)
def test_the_gpu_is_told_by_name_and_capability(key_of, fact, told):
    host = HOST.model_copy(update={"gpu": HOST.gpu.model_copy(update={fact: "other"})})
    assert differences(key_of(), key_of(host=host)) == [told]


def test_a_patch_of_the_driver_builds_nothing_again(key_of):
    assert key_of(host=HOST.model_copy(update={"driver": "540.9.9"})) == key_of()


def test_where_the_driver_is_not_told_what_it_can_run_stands_for_it(key_of):
    assert key_of(host=HOST.model_copy(update={"driver": None})).driver == "CUDA 12.6"


@pytest.mark.parametrize(
    ("backend", "providers", "runtimes"),
    [
        ("openvino", ("CPUExecutionProvider",), {"openvino"}),
        ("onnxruntime", ("CPUExecutionProvider",), {"onnxruntime-gpu"}),
        ("onnxruntime", ("TensorrtExecutionProvider",), {"onnxruntime-gpu", "tensorrt"}),
        ("onnxruntime", ("OpenVINOExecutionProvider",), {"onnxruntime-gpu", "openvino"}),
        ("tensorrt", ("TensorrtExecutionProvider",), {"tensorrt"}),
    ],
)
def test_only_runtimes_that_build_or_load_an_engine_count(
    key_of, profile, backend, providers, runtimes
):
    where = profile.model_copy(update={"execution_providers": providers})
    assert set(key_of(profile=where, backend=backend).runtimes) == runtimes


@pytest.mark.parametrize(
    ("backend", "version", "typing"),
    [
        ("tensorrt", "10.3.0", "weak"),
        ("tensorrt", "10.12.0", "strong"),
        ("tensorrt", "11.4.0.106", "strong"),
        ("onnxruntime", "11.4.0.106", None),
    ],
)
def test_the_typing_is_that_of_the_tensorrt_installed(key_of, backend, version, typing):
    host = HOST.model_copy(update={"runtimes": {"tensorrt": version}})
    assert key_of(backend=backend, host=host).typing == typing


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime"])
def test_an_engine_for_a_gpu_without_its_name_is_refused(key_of, backend):
    blind = HOST.model_copy(update={"gpu": None})
    with pytest.raises(DeviceError, match="CUDA driver of this machine names none"):
        key_of(host=blind, backend=backend)
    assert key_of(host=blind, backend="openvino").gpu is None


def test_an_edit_of_our_own_builders_is_in_the_key(key_of, tmp_path):
    assert key_of().builder_sha256 == builder_digest()
    (tmp_path / "trt.py").write_text("one")
    before = builder_digest(tmp_path)
    (tmp_path / "trt.py").write_text("two")
    assert builder_digest(tmp_path) != before
