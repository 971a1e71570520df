"""Proves: boxes become masks in two passes, everything becomes proposals, and both are scored photo by photo.

The segmenter here answers a box with the box, and a point with a square around it, so that scores are known.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core import rle
from anymask.core.geometry import Frame
from anymask.core.types import Embedding, MaskBatch, PromptBatch
from anymask.evaluate.instances import Instances
from anymask.evaluate.models import ModelChoice
from anymask.evaluate.proposals import ProposalProtocol, Proposals
from anymask.evaluate.runner import run_task

SIDE = 128


class Squares:
    """A box gives itself; the first pass gives two worse candidates with lower predicted IoU besides."""

    side = SIDE
    mask_threshold = 0.0
    asked: list[tuple[bool, bool]] = []  # noqa: RUF012 (shared on purpose: models are made by name)

    def encode(self, images: list[np.ndarray]) -> list[Embedding]:
        return [Embedding(None, Frame.of(image.shape[:2], SIDE)) for image in images]

    def decode(self, embedding: Embedding, prompts: PromptBatch, multimask: bool) -> MaskBatch:
        boxes = prompts.boxes_xyxy
        if boxes is None:
            boxes = np.concatenate([prompts.points_xy[:, 0] - 16, prompts.points_xy[:, 0] + 16], axis=1)
        self.asked.append((prompts.mask_logits is not None, multimask))
        logits = np.full((len(boxes), 3 if multimask else 1, SIDE, SIDE), -10, np.float32)
        for i, box in enumerate(boxes):
            x0, y0, x1, y1 = np.round(box).astype(int).clip(0, SIDE)
            for k in range(logits.shape[1]):
                logits[i, k, y0 : y1 - 4 * k, x0:x1] = 10
        return MaskBatch(logits, np.tile([0.9, 0.5, 0.2][: logits.shape[1]], (len(boxes), 1)).astype(np.float32))


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photos of 128×128 with a square each, a third one that is missing, and boxes."""
    module = types.ModuleType("squares")
    module.make = Squares  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "squares", module)
    Squares.asked.clear()
    images, annotations, boxes = [], [], []
    for i in range(3):
        mask = np.zeros((SIDE, SIDE), bool)
        mask[20 : 60 + 8 * i, 30:70] = True
        if i < 2:
            Image.fromarray(np.full((SIDE, SIDE, 3), 99, np.uint8)).save(tmp_path / f"{i}.jpg")
        images.append({"id": i, "file_name": f"{i}.jpg", "height": SIDE, "width": SIDE})
        box = [30, 20, 40, 40 + 8 * i]
        one = {"id": i + 1, "image_id": i, "category_id": 1, "iscrowd": 0, "area": int(mask.sum()), "bbox": box}
        annotations.append({**one, "segmentation": rle.encode_one(mask)})
        boxes.append({"image_id": i, "category_id": 1, "bbox": box, "score": 0.9})
    boxes.append({"image_id": 0, "category_id": 1, "bbox": [500, 500, 5, 5], "score": 0.3})
    boxes.append({"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": float("nan")})
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a", "frequency": "r"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return tmp_path


def test_boxes_become_masks_in_two_passes(coco: Path) -> None:
    task = Instances(coco / "truth.json", coco / "boxes.json", model=ModelChoice("squares:make"))
    outcome = run_task(task, coco / "out")
    assert Squares.asked == [(False, True), (True, False)] * 2  # three candidates; then its mask and the box, one mask
    summary = outcome.summary
    assert summary["mask"]["AP"] == summary["box"]["AP"] == summary["boundary"]["AP"] == pytest.approx(100)
    assert (summary["photos"], summary["boxes"], summary["boxes_outside"]) == (2, 2, 1)
    assert any("2.jpg: the photo is not in" in p for p in outcome.problems)
    assert any("score nan is not a number" in p for p in outcome.problems)
    assert "ViTDet-H, COCO" in (coco / "out" / "table.md").read_text()


def test_proposals_by_command(coco: Path) -> None:
    words = ["evaluate", "proposals", "--truth", str(coco / "truth.json"), "--model", "squares:make"]
    words += ["--set", "points_per_side=8", "--json", str(coco / "o.json")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads((coco / "o.json").read_text())
    assert result["photos"] == 2 and 10 < result["proposals"] <= 192
    assert result["AR@10"] <= result["AR@100"] <= result["AR@1000"] and result["ARr@1000"] == result["AR@1000"]
    assert result["AR@1000"] > 5 and result["ARf@1000"] is None  # 32 px squares near a 40 px one; no frequent class
    assert result["protocol"]["box_nms_thresh"] == 0.9 and "2.jpg" in done.output


def test_proposals_of_another_tool(coco: Path) -> None:
    truth = json.loads((coco / "truth.json").read_text())
    results = [
        {"image_id": a["image_id"], "segmentation": a["segmentation"], "score": 0.5} for a in truth["annotations"]
    ]
    results.append({"image_id": 77, "segmentation": results[0]["segmentation"], "score": 1})
    (coco / "found.json").write_text(json.dumps(results))
    task = Proposals(coco / "truth.json", None, f"results:{coco / 'found.json'}", ProposalProtocol())
    outcome = run_task(task)
    assert outcome.summary["AR@10"] == pytest.approx(100) and outcome.summary["photos"] == 3
    assert outcome.problems == ["result 3: image_id 77 is not in the ground truth"]
