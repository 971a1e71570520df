"""Proves: the browser's decoder gives the model's masks and scores, for every prompt kind, any depth, each choice of
masks and a part of the cells; the graphs that a page loads do the same, on the full grid and on half of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from anymask.export.browser import PREPARED
from anymask.export.thin import Positions, Prepare, ThinDecode, position_names
from anymask.model.presets import build_sam
from anymask.model.sam import Sam
from anymask.server.browser_model import browser_model
from anymask.weights.load import load_model

PROMPTS = {
    "click": ([[20.0, 30.0], [0.0, 0.0]], [1, -1]),
    "two clicks": ([[20.0, 30.0], [50.0, 8.0], [0.0, 0.0]], [1, 0, -1]),
    "box": ([[5.0, 6.0], [50.0, 40.0]], [2, 3]),
}
TANH = 4e-3  # what the tanh form of GELU may change in a logit, in deviations of the logits


def expected(sam: Sam, embedding: Tensor, coords: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """All four masks and scores."""
    encoder, decoder = sam.prompt_encoder, sam.mask_decoder
    dense = encoder.embed_no_mask() if mask is None else encoder.embed_masks(mask)
    image = decoder.prepare(embedding, encoder.get_dense_pe(), dense)
    sparse = encoder.embed_tokens(coords, labels)
    masks, iou = decoder.decode_chosen(image, encoder.image_embedding_size, sparse, slice(0, 4))
    return masks[0], iou[0]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_thin_decoder_is_the_models(depth: int, kind: str, masked: bool) -> None:
    torch.manual_seed(depth)
    sam = build_sam("lite", image_size=64, decoder_depth=depth)
    for parameter in sam.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    embedding = torch.randn(1, 256, 8, 8)
    mask = 5 * torch.randn(1, 1, 32, 32) if masked else None
    coords, labels = (torch.tensor([values]).float() for values in PROMPTS[kind])
    positions = Positions(sam)(torch.arange(8), torch.arange(8))
    image = Prepare(sam)(embedding, positions[0])
    want_masks, want_iou = expected(sam, embedding, coords, labels, mask)
    for wanted, rows, columns in ([1, 2, 3], 8, 8), ([0], 6, 5):
        masks, iou = ThinDecode(sam)(
            list(image),
            list(positions),
            coords,
            labels,
            torch.arange(rows),
            torch.arange(columns),
            torch.tensor(wanted),
            mask,
        )
        seen = slice(0, 4 * rows - 2), slice(0, 4 * columns - 2)  # the low-pass reaches over the edge by two
        want = want_masks[wanted][:, *seen] if rows < 8 else want_masks[wanted]
        got = masks[:, *seen] if rows < 8 else masks
        assert (got - want).abs().max() < TANH * want.std()
        rated = sam.mask_decoder.rated(masks, want_iou[wanted])
        torch.testing.assert_close(iou, rated, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def graphs(browser_home: Path) -> dict[str, onnxruntime.InferenceSession]:
    files = browser_model(load_model("lite"), "lite", browser_home).files
    cpu = ["CPUExecutionProvider"]
    return {role: onnxruntime.InferenceSession(path, providers=cpu) for role, path in files.items()}


@pytest.mark.parametrize("cells", [64, 32])
@torch.no_grad()
def test_the_pages_graphs_are_the_models(graphs: dict[str, onnxruntime.InferenceSession], cells: int) -> None:
    sam = load_model("lite").at_side(8 * cells)
    sam.prompt_encoder.input_image_size = (512, 512)  # a prompt is in the model's frame on any grid
    torch.manual_seed(1)
    embedding = torch.randn(1, 256, cells, cells)
    count = np.arange(cells)
    positions = dict(zip(position_names(sam), graphs["positions"].run(None, {"rows": count, "columns": count})))
    fed = {"image_embeddings": embedding.numpy(), "pe": positions["pe"]}
    image = dict(zip(PREPARED, graphs["prepare"].run(None, fed)))
    coords, labels = (torch.tensor([values]).float() for values in PROMPTS["two clicks"])
    for mask in (None, 5 * torch.randn(1, 1, 4 * cells, 4 * cells)):
        masks, iou = graphs["decode"].run(
            None,
            {
                **image,
                **positions,
                "point_coords": coords.numpy(),
                "point_labels": labels.numpy(),
                "rows": count,
                "columns": count,
                "wanted": np.array([0, 2]),
                "has_mask_input": np.array([float(mask is not None)], np.float32),
                "mask_input": np.zeros((1, 1, 4, 4), np.float32) if mask is None else mask.numpy(),
            },
        )
        want_masks, want_iou = (found[[0, 2]] for found in expected(sam, embedding, coords, labels, mask))
        assert np.abs(masks - want_masks.numpy()).max() < TANH * want_masks.std()
        rated = sam.mask_decoder.rated(torch.from_numpy(masks), want_iou)  # a pixel near a threshold may change sides
        assert iou == pytest.approx(rated.numpy(), abs=1e-4)
