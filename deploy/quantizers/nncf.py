"""INT8 by NNCF: ranges from calibration images, biases corrected for what rounding adds."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx

from deploy.graph import input_name
from deploy.imaging import RGB, Pixels, PixelSpec, to_model
from devices.session import Images
from devices.unreported import unreported


def by_nncf(
    model: onnx.ModelProto,
    calibration: Pixels,
    *,
    extremes: bool,
    sums: bool = False,
    keep: Sequence[str] = (),
    spec: PixelSpec = RGB,
) -> onnx.ModelProto:
    """Quantize a float student with NNCF; the same inputs give the same bytes.

    Quality of a generator hangs on how ranges are taken. NNCF's default averages each image's
    extremes, which clips rare bright spots; the true extremes clip nothing and are coarser.
    OpenVINO runs a ConvTranspose on integers only where activations are symmetric.

    Args:
        model: Float ONNX whose nodes have names (`deploy.quantize.named`); not changed.
        calibration: Inputs as the student will see them, (N, H, W, 3).
        extremes: The preset MIXED (asymmetric activations) with the extremes of all images, instead
            of PERFORMANCE (symmetric activations) with their means.
        sums: Round what an Add reads as well. A residual stream is rounded once for every block
            then; left alone it is rounded only for the convolutions that read it.
        keep: Names of nodes left in float.
        spec: How the student sees pixels.

    Raises:
        ModuleNotFoundError: NNCF is not installed.
    """
    with _quiet():
        # here, because importing NNCF takes a second and brings torch along where there is one
        import nncf  # noqa: PLC0415
        from nncf.quantization import advanced_parameters, range_estimator  # noqa: PLC0415

        logging.getLogger("nncf").setLevel(logging.ERROR)
        name = input_name(model)

        def item(image: Pixels) -> dict[str, Images]:
            return {name: to_model(image, spec)}

        options: Any = advanced_parameters.AdvancedQuantizationParameters()
        preset = nncf.QuantizationPreset.PERFORMANCE
        if extremes:
            preset = nncf.QuantizationPreset.MIXED
            minmax = range_estimator.RangeEstimatorParametersSet.MINMAX
            options.activations_range_estimator_params = minmax
        # NNCF refuses a type that the graph has not
        kinds = {"Add"}.intersection(node.op_type for node in model.graph.node if not sums)
        scope = nncf.IgnoredScope(names=list(keep), types=sorted(kinds)) if keep or kinds else None
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        quantized: onnx.ModelProto = nncf.quantize(
            copy,
            nncf.Dataset(list(calibration), item),
            preset=preset,
            fast_bias_correction=True,
            subset_size=len(calibration),
            advanced_parameters=options,
            ignored_scope=scope,
        )
    del quantized.metadata_props[:]
    return quantized


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's progress bars, warnings and telemetry away from whoever runs us."""
    with unreported(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # deprecations inside NNCF and what it imports, which nobody here can mend
        warnings.simplefilter("ignore")
        yield
