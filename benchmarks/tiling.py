"""Is an image in tiles the image as a whole? Run with a bundle, or an ONNX file, and a photo.

Each way runs in a process of its own, so that its peak memory is its own. What is printed: seconds
from a loaded engine to the translation (of tiles: loading the segments included), the peak of
resident memory, and of each two images the largest difference in levels of 255, how many levels
differ at all, and the PSNR. Where the model normalises by the whole image there is a third way,
`exact`: the whole image on ONNX Runtime with means and variances in float64, since runtimes sum
them in float32, which for millions of pixels is not exact.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from deploy.artifacts import Bundle
from deploy.imaging import from_model, pad_to_multiple, to_model
from deploy.tiling.sessions import open_segment
from deploy.tiling.spec import Tiling
from devices.profile import load_profile
from devices.sealed import MANIFEST
from devices.session import open_session
from serving.tiling import TiledSession

WAYS = ("whole", "tiled", "exact")
ANY = 2**40


def main() -> None:
    """Measure both ways and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a bundle of OpenVINO's, or an ONNX file")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--size", help="WIDTHxHEIGHT to resize the photo to")
    parser.add_argument("--backend", choices=("openvino", "onnxruntime"), default="openvino")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--multiple", type=int, default=4, help="of an ONNX file's image sizes")
    parser.add_argument("--whole-pixels", type=int, default=2048 * 2048)
    parser.add_argument("--map-memory-mib", type=int, default=8192)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["whole", "tiled"])
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.into is not None:
        measure(args)
        return
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in args.ways:
            into = Path(folder) / f"{way}.npy"
            subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--ways", way, "--into", str(into)],
                check=True,
            )
            made[way] = np.load(into)
    for one, other in itertools.combinations(made, 2):
        apart = np.abs(made[one].astype(np.int16) - made[other])
        mse = np.mean(apart.astype(np.float64) ** 2)
        print(
            f"{one} and {other}: at most {apart.max()} of 255 apart; "
            f"{np.count_nonzero(apart)} of {apart.size} levels differ "
            f"({10 * np.log10(255**2 / mse) if mse else np.inf:.1f} dB)"
        )


def measure(args: argparse.Namespace) -> None:
    """One way, in this process."""
    (way,) = args.ways
    profile = load_profile("cpu").model_copy(update={"threads": args.threads})
    file, backend, precision, multiple = args.model, args.backend, args.precision, args.multiple
    if (args.model / MANIFEST).exists():
        face = Bundle.read(args.model).manifest
        file, multiple = args.model / face.engine_file, face.model.size_multiple
        backend, precision = face.backend, face.precision
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # the graph is read by another process: what that takes is none of the server's
        subprocess.run([sys.executable, "-c", PREPARE, str(file), name, str(multiple)], check=True)
        tiling = Tiling.model_validate_json((folder / "tiling.json").read_text())
        if way == "exact":
            file, backend, precision = folder / "exact.onnx", "onnxruntime", "fp32"
        session = open_session(file, profile, backend=backend, precision=precision)
        runner = TiledSession(
            session,
            tiling,
            open_segment=lambda part: open_segment(
                (folder / part).read_bytes(), profile, backend=backend, precision=precision
            ),
            whole_pixels=args.whole_pixels if way == "tiled" else ANY,
            map_bytes=args.map_memory_mib * 2**20,
        )
        photo = Image.open(args.photo).convert("RGB")
        if args.size:
            width, height = map(int, args.size.split("x"))
            photo = photo.resize((width, height), Image.Resampling.LANCZOS)
        images = pad_to_multiple(to_model(np.asarray(photo)), multiple)
        at_rest = peak_mib()
        started, worked = time.perf_counter(), time.process_time()
        translated = runner.run(images)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
        peak = peak_mib()
    maps = tiling.map_bytes(*images.shape[2:]) / 2**20
    print(
        f"{way}: {photo.width} x {photo.height}, {backend} {precision}, {profile.threads} threads: "
        f"{seconds:.1f} s ({cpu_seconds:.1f} of the processor), "
        f"peak {peak:.0f} MiB ({at_rest:.0f} before)"
        + (f", maps {maps:.0f} MiB" if way == "tiled" else ""),
        flush=True,
    )
    np.save(args.into, from_model(translated))


PREPARE = """
import sys, onnx
from pathlib import Path
from onnx import TensorProto, helper
from deploy.passes.draft import draft, setting
from deploy.tiling.prepare import write_tiling

model, folder = onnx.load(sys.argv[1]), Path(sys.argv[2])
write_tiling(model, folder, size_multiple=int(sys.argv[3]))
work, nodes = draft(model), []
axes = helper.make_tensor("image_axes", TensorProto.INT64, [2], [2, 3])
for node in work.model.graph.node:
    if node.op_type != "InstanceNormalization":
        nodes.append(node)
        continue
    x, scale, shift = node.input
    y = node.output[0]
    epsilon = helper.make_tensor(y + "_e", TensorProto.DOUBLE, [], [setting(node, "epsilon", 1e-5)])
    for name in (scale, shift):
        work.store(y + "_" + name, work.arrays[name].reshape(1, -1, 1, 1))
    work.model.graph.initializer.append(epsilon)
    for operator, read, made, more in (
        ("Cast", [x], "d", {"to": TensorProto.DOUBLE}),
        ("ReduceMean", [y + "_d", axes.name], "m", {}),
        ("Cast", [y + "_m"], "mean", {"to": TensorProto.FLOAT}),
        ("Sub", [x, y + "_mean"], "c", {}),
        ("Mul", [y + "_c", y + "_c"], "s", {}),
        ("Cast", [y + "_s"], "sd", {"to": TensorProto.DOUBLE}),
        ("ReduceMean", [y + "_sd", axes.name], "v", {}),
        ("Add", [y + "_v", y + "_e"], "ve", {}),
        ("Sqrt", [y + "_ve"], "rd", {}),
        ("Cast", [y + "_rd"], "r", {"to": TensorProto.FLOAT}),
        ("Div", [y + "_c", y + "_r"], "n", {}),
        ("Mul", [y + "_n", y + "_" + scale], "a", {}),
        ("Add", [y + "_a", y + "_" + shift], None, {}),
    ):
        nodes.append(helper.make_node(operator, read, [y + "_" + made if made else y], **more))
work.model.graph.initializer.append(axes)
onnx.save(work.finish(nodes), folder / "exact.onnx")
"""


def peak_mib() -> float:
    """The most that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
