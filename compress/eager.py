"""Time a teacher in PyTorch eager, on request: ``python -m compress.eager EXPORT ...``.

``deploy`` has no torch, so it runs this beside its engines and asks for samples in turn. Prints
``ready``; then each line on standard input is a count, answered by one line of JSON: that many
latencies in milliseconds, after two that are not counted. Ends when its input does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from compress.checkpoints import load_network

WARM_UP = 2


def main() -> None:
    """Answer counts with samples until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m compress.eager")
    parser.add_argument("export", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--image-size", type=int, required=True)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    teacher = load_network(args.export / "teacher.safetensors").eval()
    image = torch.zeros(1, 3, args.image_size, args.image_size)
    with torch.inference_mode():
        teacher(image)
        print("ready", flush=True)
        for line in sys.stdin:
            samples = []
            for _ in range(WARM_UP + int(line)):
                start = time.perf_counter()
                teacher(image)
                samples.append((time.perf_counter() - start) * 1e3)
            print(json.dumps(samples[WARM_UP:]), flush=True)


if __name__ == "__main__":
    main()
