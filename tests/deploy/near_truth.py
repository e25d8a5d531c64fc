"""Bundles of the tiny student, or of a spoilt one, beside a truth that is near its images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from deploy.golden import GoldenPairs
from deploy.imaging import from_model, to_model
from tests.deploy.conftest import photos, run_onnx, student
from tests.deploy.report_bundle import make_bundle


def near_truth(out, *, spoil=0.0, engine=None, truth=True, teacher=True, **changes):
    """The folder of a sealed bundle.

    ``spoil`` is the noise on the engine's last weights; ``changes`` are to its golden pairs.
    """
    float_student = student()
    source = photos(3, seed=1)
    outputs = run_onnx(float_student, to_model(source))
    near = np.clip(from_model(outputs).astype(np.int16) + 6, 0, 255).astype(np.uint8)
    golden = GoldenPairs(source, outputs, near if truth else None, near if teacher else None)
    golden = replace(golden, **changes)
    return make_bundle(out, engine=engine or spoilt(float_student, spoil), golden=golden).path


def spoilt(model, noise):
    """The same network with noise on its last weights."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    (weight,) = [one for one in model.graph.initializer if one.name == "w3"]
    values = numpy_helper.to_array(weight)
    random = np.random.default_rng(0).normal(0, noise, values.shape) if noise else 0.0
    changed = (values + random).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    return model
