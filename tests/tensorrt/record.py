"""Write down the Python interface of TensorRT's versions: names only, from the real bindings.

    python -m tests.tensorrt.record FOLDER

FOLDER holds one folder per version with an unpacked wheel (`pip download --no-deps
tensorrt_cu12_bindings==10.3.0`, then `python -m zipfile -e`). The bindings load without a GPU when
empty libraries stand in for TensorRT's own; a C compiler and `nm` make those. What is printed goes
into api.json, which `tests.tensorrt.fake` builds its modules from.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")
MISSING = re.compile(r"\bU (\w*_INTERNAL|get\w*(?:Registry|Version)|initLib\w+|_ZN\d+nv\w+)$", re.M)

DESCRIBE = """
import json, tensorrt_bindings as trt
CLASSES = (
    "Builder INetworkDefinition IBuilderConfig OnnxParser ParserError Runtime ICudaEngine "
    "IExecutionContext IOptimizationProfile ITimingCache ITensor ILayer INormalizationLayer "
    "ILogger IProgressMonitor IHostMemory Dims"
).split()
ENUMS = (
    "BuilderFlag NetworkDefinitionCreationFlag LayerType MemoryPoolType OnnxParserFlag "
    "TacticSource TensorIOMode DataType DeviceType"
).split()
public = lambda thing: sorted(name for name in dir(thing) if not name.startswith("_"))
names = public(trt)
print(json.dumps({
    "version": trt.__version__,
    "names": names,
    "enums": {
        name: list(getattr(trt, name).__members__)
        for name in ENUMS if name in names
    },
    "classes": {name: public(getattr(trt, name)) for name in CLASSES if name in names},
}))
"""


def stand_ins(wheel: Path, folder: Path) -> Path:
    """Empty libraries with the entry points that one version of the bindings asks for."""
    module = wheel / "tensorrt_bindings" / "tensorrt.so"
    wanted = subprocess.run(
        ["nm", "-D", "--undefined-only", str(module)], capture_output=True, text=True, check=True
    ).stdout
    major = wheel.name.split(".")[0]
    for library in LIBRARIES:
        entries = MISSING.findall(wanted) if library == "nvinfer" else []
        source = folder / f"{library}.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in entries))
        target = folder / f"lib{library}.so.{major}"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", target, source], check=True)
    return folder


def environment(wheel: Path, libraries: Path) -> dict[str, str]:
    """Variables under which Python loads these bindings."""
    return os.environ | {"PYTHONPATH": str(wheel), "LD_LIBRARY_PATH": str(libraries)}


def describe(wheel: Path) -> dict[str, object]:
    """Names of one version."""
    with tempfile.TemporaryDirectory() as folder:
        told = subprocess.run(
            [sys.executable, "-c", DESCRIBE],
            env=environment(wheel, stand_ins(wheel, Path(folder))),
            capture_output=True,
            text=True,
            check=True,
        )
    api: dict[str, object] = json.loads(told.stdout)
    return api


def main() -> None:
    wheels = sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir())
    lines = [json.dumps(describe(wheel), separators=(",", ":")) for wheel in wheels]
    sys.stdout.write("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
