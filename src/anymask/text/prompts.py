"""A phrase as a prompt of a model that was trained for it: the CLIP vector becomes a sparse token (PAPER §7.6).

The token goes first; clicks, where a phrase alone is not enough, follow it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from anymask.core.errors import CheckpointError
from anymask.core.geometry import to_model_xy
from anymask.core.types import Embedding, MaskBatch
from anymask.model.sam import Sam


@torch.no_grad()
def decode_text(
    sam: Sam,
    embedding: Embedding,
    vector: np.ndarray,
    points_xy: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    previous: Any = None,
) -> MaskBatch:
    """Masks for one phrase, vector (D,) of length 1, on a photo: three candidates, or one where clicks or logits help.

    points_xy: (N, 2) in pixels of the photo, labels: (N,) 1 or 0. previous: logits (1, 1, 4h, 4w) of a round before.
    Raises CheckpointError for a model without a text prompt, or for vectors of another CLIP.
    """
    encoder = sam.prompt_encoder
    if encoder.text_embed is None:
        raise CheckpointError(
            "these weights know no text prompts. Train them with the recipe `text`, or leave out the CLIP: the phrase "
            "then ranks automatic masks."
        )
    if encoder.text_embed.in_features != len(vector):
        raise CheckpointError(
            f"the model was trained with CLIP vectors of {encoder.text_embed.in_features} numbers, these have "
            f"{len(vector)}."
        )
    text = encoder.embed_text(torch.as_tensor(vector, device=sam.device).float()[None])
    if points_xy is not None and len(points_xy):
        in_frame = torch.as_tensor(to_model_xy(points_xy, embedding.frame), device=sam.device).float()[None]
        clicks = encoder.embed_tokens(in_frame, torch.as_tensor(labels, device=sam.device)[None])
        text = torch.cat([text, clicks], dim=1)
    features = torch.as_tensor(embedding.features, device=sam.device).to(sam.dtype)
    dense = (
        encoder.embed_no_mask()
        if previous is None
        else encoder.embed_masks(torch.as_tensor(previous, device=sam.device))
    )
    multimask = text.shape[1] == 1 and previous is None
    low_res, iou = sam.mask_decoder(features, encoder.get_dense_pe(), text, dense.to(features.dtype), multimask)
    low_res = low_res.float()
    return MaskBatch(low_res, sam.mask_decoder.rated(low_res, iou.float()))
