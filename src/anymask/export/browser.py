"""The graphs that a page runs: the encoder of `onnx.py`, and the decoder in three parts (`thin.py`).

`positions` once per size of the grid, `prepare` once per image, `decode` for each prompt. The number of cells may vary,
so that half as many give a quick first answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from anymask.export.merge import choose
from anymask.export.onnx import IOU, LOW_RES, model_of, trace
from anymask.export.thin import PREPARED, Positions, Prepare, ThinDecode, position_names
from anymask.model.sam import Sam

if TYPE_CHECKING:
    import onnx

OPSET = 20  # the first with GELU as one operation


def positions_graph(sam: Sam) -> onnx.ModelProto:
    """`rows` (h,) and `columns` (w,) → the tensors of `Positions`."""
    h, w = _dims()
    numbers = [torch.arange(12), torch.arange(8)]
    return trace(Positions(sam), numbers, [{0: h}, {0: w}], ["rows", "columns"], position_names(sam), OPSET)


def prepare_graph(sam: Sam) -> onnx.ModelProto:
    """`image_embeddings` (1, C, h, w) and `pe` (h, w, C) → the tensors of `PREPARED`."""
    h, w = _dims()
    embedding = torch.randn(1, sam.prompt_encoder.embed_dim, 12, 8)
    pe = torch.randn(12, 8, sam.prompt_encoder.embed_dim)
    shapes = [{2: h, 3: w}, {0: h, 1: w}]
    return trace(Prepare(sam), [embedding, pe], shapes, ["image_embeddings", "pe"], list(PREPARED), OPSET)


def decode_graph(sam: Sam) -> onnx.ModelProto:
    """Prepared tensors, positions and one prompt → `low_res_masks` (M, 4·rows, 4·columns), `iou_predictions` (M,)."""
    masked, plain = (_decode_part(sam, m).graph for m in (True, False))
    return model_of(choose("has_mask_input", masked, plain, [LOW_RES, IOU]), OPSET)


def _decode_part(sam: Sam, masked: bool) -> onnx.ModelProto:
    h, w = _dims()
    dims = torch.export.Dim
    with torch.no_grad():
        positions = list(Positions(sam)(torch.arange(12), torch.arange(8)))
        image = list(Prepare(sam)(torch.randn(1, sam.prompt_encoder.embed_dim, 12, 8), positions[0]))
    inputs = [*PREPARED, *position_names(sam)]
    grid: dict[str, dict[int, Any]] = {name: {2: h, 3: w} for name in inputs}
    grid |= {name: {0: h, 1: w} for name in ("cells", "raised", "pe")} | {"token_values": {1: h, 2: w}}
    points = dims("num_points")
    arguments: list[Any] = [
        image,
        positions,
        torch.rand(1, 3, 2) * 8,
        torch.ones(1, 3),
        torch.arange(7),
        torch.arange(5),
        torch.tensor([1, 2, 3]),
    ]
    shapes: list[Any] = [
        [grid[name] for name in PREPARED],
        [grid[name] for name in position_names(sam)],
        {1: points},
        {1: points},
        {0: dims("shown_rows")},
        {0: dims("shown_columns")},
        {0: dims("num_masks")},
    ]
    names = [*inputs, "point_coords", "point_labels", "rows", "columns", "wanted"]
    if masked:
        arguments.append(torch.randn(1, 1, 48, 32))
        shapes.append({2: 4 * h, 3: 4 * w})
        names.append("mask_input")
    return trace(ThinDecode(sam), arguments, shapes, names, [LOW_RES, IOU], OPSET)


def _dims() -> tuple[Any, Any]:
    return torch.export.Dim("h"), torch.export.Dim("w")
