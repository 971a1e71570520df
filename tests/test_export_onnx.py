"""Proves: exported ONNX graphs compute what the eager model does, for every prompt kind and label; the decoder file
answers as the official export does; a wrong file is refused with numbers and leaves nothing behind; --runtime onnx
gives the masks of torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import anymask.export.artefacts as artefacts
from anymask.core.errors import ExportError, OptionError
from anymask.core.types import PromptBatch
from anymask.export.merge import chain
from anymask.export.onnx import DecoderOptions, select_graph, upsample_graph
from anymask.export.parity import compare, mask_ious, plain_photos
from anymask.model.presets import build_sam
from anymask.model.sam import Sam
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.predictor import SamPredictor
from anymask.predict.segmenter import TorchSegmenter
from anymask.runtime.segmenter import ExportedSegmenter, load_segmenter, point_slots

GOLDEN = json.loads((Path(__file__).parent / "golden" / "geometry.json").read_text())


@pytest.fixture(scope="module")
def sam() -> Sam:
    """A lite of 64 pixels with random weights and one decoder layer, as tracing takes its time."""
    torch.manual_seed(5)
    sam = build_sam("lite", image_size=64, decoder_depth=1)
    for parameter in sam.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return sam


@pytest.fixture(scope="module")
def folder(sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    artefacts.export_folder(sam, "lite", folder)
    return folder


@pytest.fixture(scope="module")
def exported(folder: Path) -> ExportedSegmenter:
    return load_segmenter(folder)


PROMPTS = {
    "click": dict(points_xy=[[[20, 30]]], labels=[[1]]),
    "background": dict(points_xy=[[[20, 30]]], labels=[[0]]),
    "padding": dict(points_xy=[[[20, 30], [0, 0]]], labels=[[1, -1]]),
    "corners as points": dict(points_xy=[[[8, 8], [40, 44]]], labels=[[2, 3]]),
    "box": dict(boxes_xyxy=[[5, 6, 50, 40]]),
    "click and box": dict(points_xy=[[[20, 30], [3, 4]]], labels=[[1, 0]], boxes_xyxy=[[5, 6, 50, 40]]),
    "three boxes": dict(boxes_xyxy=[[5, 6, 50, 40], [1, 1, 9, 9], [30, 2, 60, 60]]),
    "twenty clicks": dict(points_xy=[[[3 * i, 40 - i]] for i in range(20)], labels=[[1]] * 20),
}


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "with mask"])
@pytest.mark.parametrize("multimask", [True, False], ids=["three", "one"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_export_equals_eager(sam: Sam, exported: ExportedSegmenter, kind: str, multimask: bool, masked: bool) -> None:
    given = {k: np.array(v, np.float32) for k, v in PROMPTS[kind].items()}
    count = len(next(iter(given.values())))
    rng = np.random.default_rng(1)
    logits = 5 * rng.standard_normal((count, 1, *exported.low_res_hw)).astype(np.float32) if masked else None
    eager = TorchSegmenter(sam)
    embedding = eager.encode([plain_photos()[0]])[0]
    a, b = (s.decode(embedding, PromptBatch(**given, mask_logits=logits), multimask) for s in (eager, exported))
    assert a.low_res.shape == b.low_res.shape == (count, 3 if multimask else 1, *exported.low_res_hw)
    np.testing.assert_allclose(b.low_res, a.low_res, atol=1e-5 * float(a.low_res.abs().max()) + 1e-6)
    np.testing.assert_allclose(b.predicted_iou, a.predicted_iou, atol=1e-5)


def test_mask_alone_and_one_mask_for_many_prompts(sam: Sam, exported: ExportedSegmenter) -> None:
    eager = TorchSegmenter(sam)
    embedding = eager.encode([plain_photos()[0]])[0]
    mask = 5 * torch.randn(1, 1, *exported.low_res_hw)
    boxes = np.float32([[5, 6, 50, 40], [1, 1, 30, 30]])
    alone = [s.decode(embedding, PromptBatch(mask_logits=mask), False).low_res for s in (eager, exported)]
    both = PromptBatch(boxes_xyxy=boxes, mask_logits=mask)
    many = [s.decode(embedding, both, False).low_res for s in (eager, exported)]
    for a, b in (alone, many):
        np.testing.assert_allclose(b, a, atol=1e-5 * float(a.abs().max()) + 1e-6)
    plain = exported.decode(embedding, PromptBatch(boxes_xyxy=boxes), False).low_res
    assert not np.allclose(plain, many[1]), "the mask made no difference"


def test_embeddings_of_all_shapes_are_the_models(sam: Sam, exported: ExportedSegmenter) -> None:
    rng = np.random.default_rng(2)
    photos = [rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for hw in ((64, 64), (30, 90), (200, 9))]
    for a, b in zip(TorchSegmenter(sam).encode(photos), exported.encode(photos), strict=True):
        assert a.frame == b.frame and a.model == b.model
        np.testing.assert_allclose(b.features, a.features, atol=1e-4)


def test_predictor_and_automatic_masks_agree(sam: Sam, exported: ExportedSegmenter, photo: np.ndarray) -> None:
    answers = []
    for model in (sam, exported):
        predictor = SamPredictor(model)
        predictor.set_image(photo)
        first = predictor.predict(np.array([[80, 60]]), np.array([1]))
        again = predictor.predict(np.array([[80, 60]]), np.array([1]), mask_input=first[2][:1], multimask_output=False)
        generator = SamAutomaticMaskGenerator(
            model, points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=0.99
        )
        answers.append((first[0], again[0], [r["bbox"] for r in generator.generate(photo)]))
    for a, b in zip(*(x[:2] for x in answers)):
        assert (a != b).mean() < 1e-3
    assert answers[0][2] and answers[0][2] == answers[1][2]


def test_slots_come_in_the_order_of_the_prompt_encoder(sam: Sam) -> None:
    points, labels = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[1]])
    boxes = torch.tensor([[1.0, 2.0, 9.0, 8.0]])
    for given in ((points, None), (points, boxes), (None, boxes)):
        pair = None if given[0] is None else (points, labels)
        expected = sam.prompt_encoder.embed_sparse(pair, given[1])
        coords, ids = point_slots(PromptBatch(given[0], None if pair is None else labels, given[1]))
        assert torch.equal(sam.prompt_encoder.embed_tokens(torch.tensor(coords), torch.tensor(ids)), expected)


# --- the folder -----------------------------------------------------------------------------------------------------


def test_a_folder_says_what_it_holds(sam: Sam, folder: Path) -> None:
    about = json.loads((folder / "model.json").read_text())
    assert (about["form"], about["model"], about["side"]) == ("onnx", "lite", 64)
    assert about["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert about["parity"]["mask_iou"] >= 0.999 and about["weights_sha256"] == artefacts.weights_sha256(sam)
    assert sorted(p.name for p in folder.iterdir()) == ["decode.onnx", "encoder.onnx", "model.json", "prepare.onnx"]


def test_a_changed_file_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = bytearray((tmp_path / "decode.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "decode.onnx").write_bytes(data)
    with pytest.raises(ExportError, match="SHA-256"):
        load_segmenter(tmp_path)
    (tmp_path / "decode.onnx").unlink()
    with pytest.raises(ExportError, match=r"lacks decode\.onnx"):
        load_segmenter(tmp_path)
    with pytest.raises(ExportError, match="anymask export"):
        load_segmenter(tmp_path / "nowhere")


def test_an_export_of_another_model_is_refused_with_numbers(
    sam: Sam, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(sam: Sam, made: Path, *_: object) -> None:
        for name in ("encoder", "prepare", "decode"):
            (made / f"{name}.onnx").write_bytes((folder / f"{name}.onnx").read_bytes())

    monkeypatch.setattr(artefacts, "_write_onnx", wrong)
    torch.manual_seed(9)
    other = build_sam("lite", image_size=64, decoder_depth=1)
    with pytest.raises(ExportError, match=r"not written.*mask IoU 0\.\d+.*Expected mask IoU at least 0\.999"):
        artefacts.export_folder(other, "lite", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_int8_without_photos_says_what_to_give(sam: Sam, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--photos"):
        artefacts.export_folder(sam, "lite", tmp_path / "x", "onnx", "int8")
    assert not (tmp_path / "x").exists()


def test_int8_encoder_runs_and_is_smaller(sam: Sam, folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = artefacts.calibration_inputs([rng.integers(0, 256, (50, 64, 3), dtype=np.uint8)] * 8, 64)
    artefacts.quantize_onnx_encoder(folder / "encoder.onnx", tmp_path / "int8.onnx", inputs)
    small, large = ((p / n).stat().st_size for p, n in ((tmp_path, "int8.onnx"), (folder, "encoder.onnx")))
    assert small < 0.45 * large
    exact, rough = (
        onnxruntime.InferenceSession(p).run(None, {"input_image": inputs[0]})[0]
        for p in (folder / "encoder.onnx", tmp_path / "int8.onnx")
    )
    assert np.corrcoef(exact.ravel(), rough.ravel())[0, 1] > 0.9
    assert [p.name for p in tmp_path.iterdir()] == ["int8.onnx"]


def test_parity_sees_a_difference(sam: Sam) -> None:
    torch.manual_seed(11)
    other = build_sam("lite", image_size=64)
    same, different = (compare(TorchSegmenter(sam), TorchSegmenter(m), plain_photos()[:1]) for m in (sam, other))
    assert same.mask_iou == 1.0 and same.logit_error == 0
    assert different.mask_iou < 0.95 and different.logit_error > 0.1
    batch = TorchSegmenter(sam).decode(
        TorchSegmenter(sam).encode(plain_photos()[:1])[0], PromptBatch(boxes_xyxy=np.float32([[1, 1, 40, 40]])), True
    )
    assert mask_ious(batch, batch, 0.0, (32, 32)).tolist() == [1.0]


# --- the official decoder file --------------------------------------------------------------------------------------


class Official(torch.nn.Module):
    """`segment_anything`'s prompt encoder and decoder with our weights, around no encoder."""

    mask_threshold = 0.0

    def __init__(self, sam: Sam) -> None:
        from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

        super().__init__()
        self.prompt_encoder = PromptEncoder(256, (8, 8), (64, 64), 16)
        transformer = TwoWayTransformer(depth=1, embedding_dim=256, mlp_dim=2048, num_heads=8)
        self.mask_decoder = MaskDecoder(transformer_dim=256, transformer=transformer)
        self.image_encoder = type("Encoder", (torch.nn.Module,), {"img_size": 64})()
        self.prompt_encoder.load_state_dict(sam.prompt_encoder.state_dict())
        self.mask_decoder.load_state_dict(sam.mask_decoder.state_dict())


def test_decoder_file_equals_the_official_export(sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segment_anything.utils.onnx import SamOnnxModel

    for extra in ("smooth", "rates_stability"):  # no model that the official code knows has them
        monkeypatch.setattr(sam.mask_decoder, extra, False)
    peer = SamOnnxModel(Official(sam).eval(), False, return_extra_metrics=True)  # type: ignore[arg-type]
    path = tmp_path / "decoder.onnx"
    artefacts.export_decoder(sam, "lite", path, DecoderOptions(return_extra_metrics=True))
    session = onnxruntime.InferenceSession(path)
    assert [i.name for i in session.get_inputs()] == [
        "image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size",
    ]  # fmt: skip
    names = ["masks", "iou_predictions", "stability_scores", "areas", "low_res_masks"]
    assert [o.name for o in session.get_outputs()] == names
    assert {p.key for p in onnx.load(path).metadata_props} >= {"model", "image_size", "mean", "std", "weights_sha256"}
    generator = torch.Generator().manual_seed(0)
    for num_slots, has_mask, size in ((1, 0, (30, 41)), (2, 1, (64, 64)), (3, 0, (90, 57)), (5, 1, (200, 20))):
        feeds = {
            "image_embeddings": torch.randn(1, 256, 8, 8, generator=generator),
            "point_coords": 64 * torch.rand(1, num_slots, 2, generator=generator),
            "point_labels": torch.randint(-1, 4, (1, num_slots), generator=generator).float(),
            "mask_input": 4 * torch.randn(1, 1, 32, 32, generator=generator),
            "has_mask_input": torch.tensor([float(has_mask)]),
            "orig_im_size": torch.tensor(size).float(),
        }
        with torch.no_grad():
            expected = peer(**feeds)
        answers = session.run(None, {name: value.numpy() for name, value in feeds.items()})
        for name, theirs, ours in zip(names, expected, answers, strict=True):
            assert tuple(theirs.shape) == ours.shape
            # a logit within rounding of the threshold may fall on either side
            loose = {"areas": 3.0, "stability_scores": 0.01}.get(name, 0.0)
            np.testing.assert_allclose(ours, theirs, atol=loose + 1e-4 * float(theirs.abs().nan_to_num().max()) + 1e-6)


@pytest.mark.parametrize("stability", [False, True], ids=["predicted IoU", "stability"])
def test_the_best_mask_is_the_officials(sam: Sam, stability: bool) -> None:
    """Also for a batch of prompts, and for one slot, two, three, and many."""
    from segment_anything.utils.amg import calculate_stability_score
    from segment_anything.utils.onnx import SamOnnxModel

    model = onnx.helper.make_model(
        select_graph(sam, DecoderOptions(True, stability)),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    peer = SamOnnxModel(Official(sam), True)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(2)
    for num_prompts, num_slots in ((1, 1), (5, 2), (5, 3), (2, 9)):
        masks = 2 * torch.randn(num_prompts, 4, 32, 32, generator=generator)
        ious = torch.rand(num_prompts, 4, generator=generator)
        scores = calculate_stability_score(masks, 0.0, 1.0) if stability else ious
        expected = peer.select_masks(masks, scores, num_slots)
        feeds = {"four_masks": masks, "four_ious": ious, "point_labels": torch.ones(num_prompts, num_slots)}
        known = {i.name for i in session.get_inputs()}
        answers = session.run(None, {name: value.numpy() for name, value in feeds.items() if name in known})
        for theirs, ours in zip(expected, answers, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("side", sorted({case["side"] for case in GOLDEN["cases"]}))
def test_full_size_follows_the_golden_geometry(side: int) -> None:
    """A plane that is 1 on the photo and -1 on the padding comes out as 1 everywhere: the crop is right."""
    model = onnx.helper.make_model(
        upsample_graph(side), opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    tried = 0
    for case in GOLDEN["cases"]:
        if case["side"] != side or np.prod(case["original_hw"]) > 4e6:
            continue
        height, width = case["input_hw"]
        plane = np.full((1, 1, side, side), -1, np.float32)
        plane[..., :height, :width] = 1
        masks = session.run(None, {"low_res_masks": plane, "orig_im_size": np.float32(case["original_hw"])})[0]
        assert masks.shape == (1, 1, *case["original_hw"]) and np.allclose(masks, 1, atol=1e-5), case["original_hw"]
        tried += 1
    assert tried


def test_graphs_meet_by_name_and_share_weights() -> None:
    from onnx import TensorProto, helper, numpy_helper

    two = numpy_helper.from_array(np.float32([2]), "two")
    x, y, z = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xyz")
    first = helper.make_graph([helper.make_node("Mul", ["x", "two"], ["y"])], "a", [x], [y], [two])
    second = helper.make_graph([helper.make_node("Add", ["y", "two"], ["z"])], "b", [y], [z], [two])
    graph = chain(first, second, "second", ["z", "y"])
    assert len(graph.initializer) == 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    answers = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": np.float32([5])})
    assert [a.item() for a in answers] == [12, 10]
