"""The mask decoder as `segment_anything` exports it, with our weights: the peer of `browser.py`."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.onnx import SamOnnxModel
from torch import nn

from anymask.model.sam import Sam as OurSam


class NoEncoder(nn.Module):
    """All that the export asks of an encoder."""

    def __init__(self, img_size: int) -> None:
        super().__init__()
        self.img_size = img_size


def export_official(ours: OurSam, path: Path) -> None:
    """Write the official decoder graph, as `scripts/export_onnx_model.py` makes it."""
    cells, side = ours.prompt_encoder.image_embedding_size, int(ours.image_encoder.img_size)
    prompts = PromptEncoder(256, cells, (side, side), mask_in_chans=16)
    decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        transformer_dim=256,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    prompts.load_state_dict(ours.prompt_encoder.state_dict())
    decoder.load_state_dict(ours.mask_decoder.state_dict())
    sam = Sam(NoEncoder(side), prompts, decoder, [0.0] * 3, [1.0] * 3)  # type: ignore[arg-type]
    example = {
        "image_embeddings": torch.randn(1, 256, *cells),
        "point_coords": torch.rand(1, 5, 2) * side,
        "point_labels": torch.randint(0, 4, (1, 5)).float(),
        "mask_input": torch.randn(1, 1, 4 * cells[0], 4 * cells[1]),
        "has_mask_input": torch.ones(1),
        "orig_im_size": torch.tensor([768.0, 1024.0]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            SamOnnxModel(sam, return_single_mask=False).eval(),
            tuple(example.values()),
            path,
            opset_version=17,
            dynamo=False,
            input_names=list(example),
            output_names=["masks", "iou_predictions", "low_res_masks"],
            dynamic_axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
        )
