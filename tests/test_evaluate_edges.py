"""Proves: the boundary benchmark counts what its definition says, on maps whose answer is known or brute force finds.

Against the reference implementation's outputs it is compared by `benchmarks/edges.py`, as its photos may not be
copied here.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from skimage.morphology import thin as skimage_thin
from test_evaluate_clicks import Scripted, square
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core.errors import InputError, OptionError
from anymask.core.types import PromptBatch
from anymask.evaluate.boundaries import boundary_of_labels, match_boundaries, thin
from anymask.evaluate.edge_methods import (
    LITE_EDGES,
    _low_res_slopes,
    canny_edges,
    felzenszwalb_edges,
    mask_edges,
    outline_slope,
    read_edge_map,
    sobel_edges,
    thin_edges,
)
from anymask.evaluate.edge_scores import EdgeProtocol, count_edges, edge_scores
from anymask.evaluate.edges import Edges, read_label_maps


@pytest.mark.parametrize("level", [0.4, 0.5, 0.6])
def test_thinning_is_that_of_skimage(level: float) -> None:
    noise = np.random.default_rng(1).random((90, 110)).astype(np.float32)
    blobs = cv2.GaussianBlur(noise, (0, 0), 2) > np.quantile(cv2.GaussianBlur(noise, (0, 0), 2), level)
    assert blobs.any() and (thin(blobs) == skimage_thin(blobs)).all()


@pytest.mark.parametrize("seed", range(6))
def test_matching_is_the_best_assignment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random((24, 30)) < 0.12, rng.random((24, 30)) < (0.05, 0.2)[seed % 2]
    ours, theirs = match_boundaries(a, b, 2.5)
    pa, pb = np.argwhere(a), np.argwhere(b)
    far = np.linalg.norm(pa[:, None] - pb, axis=2)
    rows, columns = linear_sum_assignment(np.where(far <= 2.5, far, 1e6))
    assert ours.sum() == theirs.sum() == (far[rows, columns] <= 2.5).sum() > 0
    assert not (ours & ~a).any() and not (theirs & ~b).any()


def test_large_and_empty_matchings() -> None:
    line = np.zeros((300, 300), bool)
    line[::3] = True
    ours, theirs = match_boundaries(line, np.roll(line, 1, axis=0), 1.5)
    assert ours.sum() == theirs.sum() == line.sum()
    assert not match_boundaries(line, np.zeros_like(line), 1.5)[0].any()
    with pytest.raises(InputError, match="one size"):
        match_boundaries(line, line[:10], 1.5)


def test_boundary_of_labels_is_the_upper_left_side() -> None:
    labels = np.zeros((5, 6), int)
    labels[2:, 3:] = 7
    expected = np.zeros((5, 6), bool)
    expected[1, 2:] = expected[1:, 2] = True
    assert (boundary_of_labels(labels) == expected).all()


def test_counts_by_hand() -> None:
    truth = np.zeros((40, 40), bool)
    truth[20] = True
    second = np.zeros((40, 40), bool)
    second[20, :20] = True
    edges = np.zeros((40, 40))
    edges[20, :30], edges[5, :10] = 1, 0.4
    protocol = EdgeProtocol(num_thresholds=3, max_distance=0.9 / np.hypot(40, 40), thin=False)
    counts = count_edges(edges, [truth, second], protocol)
    assert counts == [[30 + 20, 60, 30, 40], [50, 60, 30, 30], [50, 60, 30, 30]]
    scores = edge_scores([counts], protocol.thresholds)
    assert scores["ods"] == pytest.approx(2 * 5 / 6 / (1 + 5 / 6)) and scores["ods_precision"] == 1
    assert scores["ois"] == scores["ods"] and scores["r50"] == pytest.approx(5 / 6)


def test_scores_of_a_known_curve() -> None:
    """Recall 0.2 and 0.8 at precision 1 and 0.4; the photos have different best thresholds."""
    counts = [[[16, 20, 16, 40], [4, 20, 4, 4]]]
    scores = edge_scores(counts, np.array([0.25, 0.75]))
    grid = np.linspace(0, 1, 101)
    inside = grid[(grid >= 0.2) & (grid <= 0.8)]
    assert scores["ap"] == pytest.approx(np.sum(1 - (inside - 0.2)) * 0.01, abs=0.011)
    assert scores["r50"] == pytest.approx(0.7)
    f = [2 * r * p / (r + p) for r, p in zip(np.linspace(0.2, 0.8, 100), np.linspace(1, 0.4, 100))]
    assert scores["ods"] == pytest.approx(max(f), abs=1e-6) and 0.25 < scores["ods_threshold"] < 0.75
    two = edge_scores([[[10, 10, 10, 10], [0, 10, 0, 10]], [[0, 10, 0, 10], [10, 10, 10, 10]]], np.array([0.3, 0.6]))
    assert two["ois"] == 1 and two["ods"] == pytest.approx(0.5)


def test_hostile_maps_are_named() -> None:
    truth = np.eye(20, dtype=bool)
    with pytest.raises(InputError, match=r"\(10, 20\).*\(20, 20\)"):
        count_edges(np.zeros((10, 20)), [truth], EdgeProtocol())
    with pytest.raises(InputError, match="NaN"):
        count_edges(np.full((20, 20), np.nan), [truth], EdgeProtocol())
    with pytest.raises(InputError, match="no annotator"):
        count_edges(np.zeros((20, 20)), [np.zeros((20, 20), bool)], EdgeProtocol())


def test_classical_edges_find_the_disc(photo: np.ndarray) -> None:
    y, x = np.mgrid[:120, :160]
    ring = np.abs(np.hypot(x - 90, y - 60) - 30)
    for method in (canny_edges, sobel_edges, felzenszwalb_edges):
        edges = method(photo)
        assert edges.shape == (120, 160) and edges.dtype == np.float32 and 0 <= edges.min() < edges.max() <= 1
        assert edges[ring < 2].mean() > 5 * edges[ring > 8].mean(), method.__name__
    assert not canny_edges(np.zeros((20, 20, 3), np.uint8)).any()


def test_mask_edges_lie_on_the_outer_boundary_only() -> None:
    disc = np.zeros((64, 64), np.float32)
    cv2.circle(disc, (32, 32), 20, 1, -1)
    cv2.circle(disc, (32, 32), 6, 0, -1)
    logits = 8 * cv2.GaussianBlur(disc, (0, 0), 1) - 4
    slope = outline_slope(logits, 0.0)
    y, x = np.nonzero(slope > 0.3)
    radius = np.hypot(x - 32, y - 32)
    assert len(radius) > 80 and radius.min() > 17 and radius.max() < 23  # the hole's rim is not there


def test_pipeline_of_masks() -> None:
    whole = square(8, 8, 40, 40)
    segmenter = Scripted([[whole, square(50, 50, 60, 60), whole]], [0.5, 0.6, 0.9])
    segmenter.script *= 1
    answer = segmenter.decode

    def same_for_all(embedding, prompts, multimask):
        segmenter.asked.clear()
        one = answer(embedding, prompts, multimask)
        count = len(prompts.points_xy)
        return type(one)(np.repeat(one.low_res, count, 0), np.repeat(one.predicted_iou, count, 0))

    segmenter.decode = same_for_all
    edges = mask_edges(segmenter, np.zeros((64, 64, 3), np.uint8))
    assert edges.max() == 1
    rows, columns = np.nonzero(edges > 0.5)
    assert {7, 8} & set(rows) and {39, 40} & set(rows) and 20 not in rows[columns == 20]
    assert edges[49:51, 52:58].max() > 0.5  # the other square too
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[:, 24:] = 255  # a step of colour that crosses the upper side of the larger square, and runs beside no mask
    lite = mask_edges(segmenter, photo, replace(LITE_EDGES, thin_radius_px=0))
    plain = mask_edges(segmenter, photo, replace(LITE_EDGES, thin_radius_px=0, photo_share=0))
    assert lite.max() == plain.max() == 1
    assert lite[7:9, 23:26].max() > 3 * lite[7:9, 12:16].max() and plain[7:9, 12:16].max() > 0.7
    assert lite[60:, 23:26].max() < 0.1  # a step of colour alone is no edge
    with pytest.raises(OptionError, match="max or sum"):
        mask_edges(segmenter, photo, replace(LITE_EDGES, aggregate="mean"))


def test_summed_slopes_count_every_mask() -> None:
    """Two masks share a side: there the sum is twice what it is elsewhere, the maximum is not."""
    left, both = square(8, 8, 30, 40), square(8, 8, 50, 40)
    segmenter = Scripted([[left, both, both]], [0.9, 0.9, 0.1])
    embedding = segmenter.encode([np.zeros((64, 64, 3), np.uint8)])[0]
    answer = segmenter.decode(embedding, PromptBatch(np.zeros((1, 1, 2)), np.ones((1, 1))), True)
    low_res = np.asarray(answer.low_res, np.float32).reshape(-1, *answer.low_res.shape[-2:])[:2]
    weights = np.ones(2, np.float32)
    summed = _low_res_slopes(segmenter, embedding, low_res, weights, (64, 64), np.add)
    largest = _low_res_slopes(segmenter, embedding, low_res, weights, (64, 64), np.maximum)
    assert summed[20, 6:10].max() == pytest.approx(2 * largest[20, 6:10].max(), rel=1e-4)
    assert largest[20, 48:52].max() > 0.1
    assert summed[20, 48:52].max() == pytest.approx(largest[20, 48:52].max(), rel=1e-4)


def test_thinning_of_soft_edges_keeps_the_ridge() -> None:
    y = np.arange(60)[:, None] * np.ones((1, 50))
    ridge = np.exp(-((y - 30) ** 2) / 18).astype(np.float32)
    kept = thin_edges(ridge) > 0
    assert kept[30, 5:-5].all() and not kept[[26, 34]].any()


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Three photos with two annotators; maps: a perfect 16-bit one, a plain 8-bit one, and one that is missing."""
    (tmp_path / "maps").mkdir()
    with tarfile.open(tmp_path / "truth.tar", "w") as tar:
        for i, name in enumerate(("bsds_1", "bsds_2", "bsds_3")):
            labels = np.zeros((60, 80), np.uint16)
            labels[10 * i + 10 :] = 300
            for person in range(2):
                data = cv2.imencode(".png", labels)[1].tobytes()
                member = tarfile.TarInfo(f"{name}.{person}.png")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            edges = boundary_of_labels(labels)
            if i == 0:
                cv2.imwrite(str(tmp_path / "maps" / "1.png"), edges.astype(np.uint16) * 65535)
            if i == 1:
                cv2.imwrite(str(tmp_path / "maps" / "bsds_2.png"), np.roll(edges, 20, 0).astype(np.uint8) * 255)
    return tmp_path


def test_command_scores_a_folder_and_names_what_is_missing(bench: Path) -> None:
    words = ["evaluate", "edges", "--method", f"folder:{bench / 'maps'}", "--truth", str(bench / "truth.tar")]
    words += ["--json", str(bench / "o.json"), "--out", str(bench / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    result = json.loads((bench / "o.json").read_text())
    assert {"ods", "ois", "ap", "r50", "thresholds"} <= result.keys() and len(result["thresholds"]) == 99
    assert result["ods"] == pytest.approx(0.5) and result["images"] == 2
    assert result["problems"] == ["bsds_3: no edge map of that name"] and "bsds_3" in done.output
    assert result["protocol"]["max_distance"] == 0.0075
    assert {"results.jsonl", "table.md", "table.tex", "worst"} <= {p.name for p in (bench / "out").iterdir()}
    assert sorted((bench / "out" / "worst").iterdir())[0].name == "01-bsds_2.png"
    assert CliRunner().invoke(app, [*words, "--strict"]).exit_code == 1


def test_bad_folders_and_maps_are_refused(bench: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        Edges(bench / "truth.tar", f"folder:{bench / 'nowhere'}").cases()
    with pytest.raises(InputError, match="--data"):
        Edges(bench / "truth.tar", "canny").cases()
    (bench / "other").mkdir()
    cv2.imwrite(str(bench / "other" / "x.png"), np.zeros((5, 5), np.uint8))
    with pytest.raises(InputError, match="named like"):
        Edges(bench / "truth.tar", f"folder:{bench / 'other'}").cases()
    cv2.imwrite(str(bench / "colour.png"), np.random.default_rng(0).integers(0, 255, (5, 5, 3), np.uint8))
    with pytest.raises(InputError, match="in colour"):
        read_edge_map(bench / "colour.png")
    (bench / "half.tar").write_bytes((bench / "truth.tar").read_bytes()[:700])
    with pytest.raises(InputError, match=r"not a complete tar|no label map"):
        read_label_maps(bench / "half.tar")
    from anymask.evaluate.overrides import with_overrides

    with pytest.raises(OptionError, match="max_distance"):
        with_overrides(EdgeProtocol(), ["max_distanze=1"])
    assert with_overrides(EdgeProtocol(), ["num_thresholds=7"]).num_thresholds == 7
