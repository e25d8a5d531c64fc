"""A graph for images of one size."""

from __future__ import annotations

import onnx
from onnx import shape_inference

from deploy.graph import input_name
from deploy.passes.draft import draft
from deploy.passes.folding import fold


def pin_shape(model: onnx.ModelProto, height: int, width: int) -> onnx.ModelProto:
    """The model for one image of ``height`` x ``width`` pixels, its shape arithmetic computed.

    Raises:
        ValueError: The model is made for another size already, or cannot take this one.
    """
    work = draft(model)
    wanted = (1, 3, height, width)
    name = input_name(work.model)
    (image,) = [value for value in work.model.graph.input if value.name == name]
    dims = image.type.tensor_type.shape.dim
    fixed = [int(dim.dim_value) if dim.HasField("dim_value") else None for dim in dims]
    if any(has not in (None, extent) for has, extent in zip(fixed, wanted, strict=True)):
        shown = ", ".join("any" if extent is None else str(extent) for extent in fixed)
        raise ValueError(
            f"the model takes images of ({shown}) and cannot be pinned to {wanted}; "
            "export it with dynamic height and width"
        )
    for dim, extent in zip(dims, wanted, strict=True):
        dim.dim_value = extent
    (result,) = work.model.graph.output
    result.type.tensor_type.ClearField("shape")
    try:
        inferred = shape_inference.infer_shapes(work.model, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(
            f"the model cannot translate images of {height} x {width} ({reason}); "
            "choose a multiple of its size_multiple"
        ) from error
    result.CopyFrom(inferred.graph.output[0])
    return fold(work.model)
