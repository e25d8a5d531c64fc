"""Run a bundle's engine on its golden inputs, with nothing but NumPy and ONNX Runtime.

usage: translate.py BUNDLE COUNT OUT.npz

Runs where nothing of pocketgan is installed, so it reads the bundle as anybody could: JSON, SHA-256
and an array file. Prints one line of JSON: what it ran on, and how long each image took.
"""

import hashlib
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

bundle, count, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
manifest = json.loads((bundle / "manifest.json").read_text())
for name, expected in manifest["sha256"].items():
    found = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    if found != expected:
        raise SystemExit(f"{name} has the digest {found}, its manifest says {expected}")

options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
options.log_severity_level = 3
session = ort.InferenceSession(
    str(bundle / manifest["engine_file"]), options, providers=["CPUExecutionProvider"]
)
(entrance,) = session.get_inputs()
source = np.load(bundle / "golden.npz")["source"][:count]
spec = manifest["model"].get("pixels", {"order": "rgb", "mean": [127.5] * 3, "std": [127.5] * 3})
mean, std = (np.array(spec[name], dtype=np.float32) for name in ("mean", "std"))
images = source.astype(np.float32) / std - mean / std
if spec["order"] == "bgr":
    images = images[..., ::-1]

outputs, seconds = [], []
for image in np.ascontiguousarray(images.transpose(0, 3, 1, 2)):
    start = time.perf_counter()
    outputs.append(session.run(None, {entrance.name: image[None]})[0])
    seconds.append(round(time.perf_counter() - start, 2))
np.savez(out, images=np.concatenate(outputs))
facts = {
    "architecture": platform.machine(),
    "onnxruntime": ort.__version__,
    "numpy": np.__version__,
    "seconds": seconds,
}
print(json.dumps(facts))
