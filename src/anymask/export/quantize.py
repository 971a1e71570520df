"""Int8 encoders, calibrated on photos: ONNX by onnxruntime, OpenVINO by NNCF."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.errors import MissingExtraError, OptionError
from anymask.core.geometry import scaled_hw
from anymask.core.images import resize_image

LEAST_PHOTOS = 8


def calibration_inputs(photos: Sequence[np.ndarray], side: int) -> list[np.ndarray]:
    """Photos as the encoder's `input_image` (1, h, w, 3) uint8. Raises OptionError for too few."""
    if len(photos) < LEAST_PHOTOS:
        raise OptionError(
            f"int8 is calibrated on photos, at least {LEAST_PHOTOS} of the kind it will see; got {len(photos)}. "
            "Give a folder of them: --photos FOLDER."
        )
    return [resize_image(photo, scaled_hw((photo.shape[0], photo.shape[1]), side))[None] for photo in photos]


def quantize_onnx_encoder(source: Path, target: Path, inputs: Sequence[np.ndarray]) -> None:
    """Static int8 (QDQ, a scale for each output channel) of the convolutions and products with weights in `source`."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            following = next(self.left, None)
            return None if following is None else {"input_image": following}

    inferred = target.with_suffix(".inferred.onnx")
    try:
        with _without_advice():
            quant_pre_process(source, inferred, skip_symbolic_shape=True)
            skipped = _sensitive_nodes(onnx.load(inferred).graph)
            quantize_static(
                inferred,
                target,
                Reader(),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "MatMul", "Gemm"],
                nodes_to_exclude=skipped,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"CalibMovingAverage": True},
            )
    finally:
        inferred.unlink(missing_ok=True)


def _sensitive_nodes(graph: Any) -> list[str]:
    """Nodes that stay in float: products of two activations."""
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if not any(name in weights for name in node.input)]


@contextmanager
def _without_advice() -> Iterator[None]:
    """The quantiser advises its caller through the root logger; its user need not read that."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def quantize_weights(source: Path, target: Path) -> None:
    """Dynamic int8: weights of the products stored as uint8, activations at run time (the official --quantize-out)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _without_advice():
        quantize_dynamic(
            source,
            target,
            weight_type=QuantType.QUInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            extra_options={"EnableSubgraph": True},
        )


def quantize_openvino_encoder(model: Any, inputs: Sequence[np.ndarray], is_transformer: bool) -> Any:
    """Static int8 of an OpenVINO encoder; a model in which the sensitive parts stay as they were."""
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("int8 for OpenVINO needs NNCF: pip install 'anymask[openvino]'") from error
    return nncf.quantize(
        model,
        nncf.Dataset(list(inputs)),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
        subset_size=len(inputs),
        fast_bias_correction=True,
    )
