"""OpenVINO graphs of a model, with the relative position folded into the dot product of its attention."""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import Any

import torch

from anymask.core.errors import MissingExtraError
from anymask.export.graphs import Decode, EncodeScaled, Prepare, prepared_names
from anymask.model.sam import Sam


def encoder_model(sam: Sam) -> Any:
    """`input_image` uint8 (1, h, w, 3) → `image_embeddings`; see `EncodeScaled`."""
    side = int(sam.image_encoder.img_size)
    pixels = torch.randint(0, 256, (1, side - 8, side - 4, 3), dtype=torch.uint8)
    return _convert(EncodeScaled(sam, 1), (pixels,), [[1, -1, -1, 3]], ["input_image"], ["image_embeddings"])


def prepare_model(sam: Sam) -> Any:
    """`image_embeddings` → the tensors of `prepared_names`."""
    shape = (1, sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)
    return _convert(Prepare(sam), (torch.randn(shape),), [list(shape)], ["image_embeddings"], prepared_names(sam))


def decode_model(sam: Sam, masked: bool) -> Any:
    """Prepared tensors and prompts → `low_res_masks`, `iou_predictions`; with or without a mask prompt."""
    encoder, names = sam.prompt_encoder, prepared_names(sam)
    h, w = encoder.image_embedding_size
    with torch.no_grad():
        image = Prepare(sam)(torch.randn(1, encoder.embed_dim, h, w))
    arguments = [*image, torch.rand(3, 2, 2) * w, torch.ones(3, 2)]
    shapes: list[Any] = [list(t.shape) for t in image] + [[-1, -1, 2], [-1, -1]]
    inputs = [*names, "point_coords", "point_labels"]
    if masked:
        arguments.append(torch.randn(3, 1, *encoder.mask_input_size))
        shapes.append([-1, 1, *encoder.mask_input_size])
        inputs.append("mask_input")
    module = _Spread(Decode(sam, masked, names), len(names))
    return _convert(module, tuple(arguments), shapes, inputs, ["low_res_masks", "iou_predictions"])


class _Spread(torch.nn.Module):
    """`Decode` with the prepared tensors as arguments of their own, which a trace can name."""

    def __init__(self, decode: Decode, num_prepared: int) -> None:
        super().__init__()
        self.decode = decode
        self.num_prepared = num_prepared

    def forward(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n = self.num_prepared
        return self.decode(list(arguments[:n]), *arguments[n:])


def _convert(
    module: torch.nn.Module, arguments: tuple[Any, ...], shapes: list[Any], inputs: list[str], outputs: list[str]
) -> Any:
    """Trace and convert; tracing with gradients on takes attention without eager tiles: folded where there is AMX."""
    openvino = require_openvino()
    logger = logging.getLogger("openvino")
    level = logger.level
    with warnings.catch_warnings(), torch.enable_grad(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        stack.callback(logger.setLevel, level)
        traced = torch.jit.trace(module.eval(), arguments, check_trace=False)  # type: ignore[no-untyped-call]
        sizes = [openvino.PartialShape(shape) for shape in shapes]
        model = openvino.convert_model(traced, example_input=arguments, input=sizes)
    for port, name in zip(model.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    return model


def require_openvino() -> Any:
    """The module. Raises MissingExtraError where it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("OpenVINO comes with: pip install 'anymask[openvino]'") from error
    return openvino
