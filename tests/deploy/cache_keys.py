"""A key for tests of the engine cache; it costs no look at a machine."""

from typing import Any

from deploy.cache_key import EngineKey

A, B = "a" * 64, "b" * 64


def make_key(**changes: Any) -> EngineKey:
    """The key of an engine on a Jetson, but for what is named."""
    key = EngineKey(
        builder_sha256=A,
        model_sha256=A,
        backend="tensorrt",
        precision="fp16",
        typing="strong",
        quantizer=None,
        calibration_sha256=A,
        execution_providers=("TensorrtExecutionProvider", "CPUExecutionProvider"),
        flags={"tf32": "off", "level": "3"},
        image_size=256,
        workspace_mib=1024,
        memory_mib=4096,
        threads=4,
        dla_core=None,
        plugins_sha256=None,
        runtimes={"tensorrt": "10.3.0", "onnxruntime-gpu": "1.23.0"},
        cuda_runtime="toolkit 12.6.68",
        driver="540",
        compute_capability="8.7",
        gpu="Orin",
        multiprocessors=8,
        l4t="36.4.3",
        board="NVIDIA Jetson Orin Nano Developer Kit",
        system="Linux ubuntu 22.04",
        architecture="aarch64",
        cpu="Cortex-A78AE",
        instructions=("asimd", "fphp"),
    )
    return EngineKey.model_validate(dict(key) | changes)
