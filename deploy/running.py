"""Run a graph for its numbers: on this machine's CPU, whatever device it is meant for."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from deploy.graph import input_name
from devices.session import Images


def outputs(model: onnx.ModelProto, images: Images, *, threads: int = 0) -> Images:
    """What ONNX Runtime makes of some images, one at a time: (N, 3, H', W').

    Args:
        model: In standard operators, or Q/DQ form.
        images: (N, 3, H, W) as the model sees them.
        threads: Of ONNX Runtime; as many as there are cores if 0.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = input_name(model)
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])
