"""Int8 encoders, calibrated on photos: ONNX by onnxruntime, OpenVINO by NNCF."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.errors import MissingExtraError, OptionError
from anymask.core.geometry import scaled_hw
from anymask.core.images import resize_image

LEAST_PHOTOS = 8
FEW_WEIGHTS = 10_000  # a convolution with fewer stays in float


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
            graph = onnx.load(inferred).graph
            skipped = _products_of_activations(graph) + _sensitive_convolutions(graph)
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


def _products_of_activations(graph: Any) -> list[str]:
    """Nodes without weights, such as the two products of an attention; they stay in float."""
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if not any(name in weights for name in node.input)]


def _sensitive_convolutions(graph: Any) -> list[str]:
    """Convolutions that stay in float: depthwise ones, those with few weights, and the last.

    In `lite` they are the first blocks, at the full resolution, where rounding costs most: with all in int8 its masks
    agree with the float ones by 0.67 (mean IoU), without these by 0.97, and the file is a third instead of a quarter
    (docs/log.md).
    """
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    convolutions = [(node.name, sizes[node.input[1]]) for node in graph.node if node.op_type == "Conv"]
    return _sensitive([(name, shape, shape[1] == 1) for name, shape in convolutions])


def _sensitive(convolutions: list[tuple[str, list[int], bool]]) -> list[str]:
    """Names among (name, shape of the weights, is depthwise), in the order of the graph."""
    names = [name for name, shape, depthwise in convolutions if depthwise or math.prod(shape) < FEW_WEIGHTS]
    return sorted({*names, *(name for name, *_ in convolutions[-1:])})


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
    convolutions = [
        (op.get_friendly_name(), list(op.input(1).get_shape()), op.get_type_name() == "GroupConvolution")
        for op in model.get_ordered_ops()
        if op.get_type_name() in ("Convolution", "GroupConvolution")
    ]
    return nncf.quantize(
        model,
        nncf.Dataset(list(inputs)),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
        subset_size=len(inputs),
        fast_bias_correction=True,
        ignored_scope=None if is_transformer else nncf.IgnoredScope(names=_sensitive(convolutions)),
    )
