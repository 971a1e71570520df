"""ONNX graphs of a model: its encoder, the official decoder, and the decoder in two steps (prepare, decode).

Names and shapes are in docs/guide/export.md. Nothing is written here; `artefacts.py` checks a graph first.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from anymask.core.errors import MissingExtraError, OptionError
from anymask.export.graphs import (
    Decode,
    EncodeNormalised,
    EncodeScaled,
    Measure,
    Prepare,
    Select,
    prepared_names,
    tanh_gelu,
)
from anymask.export.merge import chain, choose
from anymask.model.sam import Sam

if TYPE_CHECKING:
    import onnx

DEFAULT_OPSET = 18
MOST_BYTES = 1_900_000_000  # of weights inside an ONNX file
OPSETS = range(18, 24)
ENCODER_INPUTS = ("uint8", "float32")
LOW_RES, IOU = "low_res_masks", "iou_predictions"
INSTALL = "exporting needs ONNX: pip install 'anymask[export]'"


@dataclass(frozen=True)
class DecoderOptions:
    """Options of the official decoder file, with the official names.

    return_single_mask: the best mask only, chosen by the number of point slots (PAPER X 7); else all four.
    use_stability_score: stability at the low resolution in place of the predicted IoU. return_extra_metrics: stability
    and area of the full-size masks as well. gelu_approximate: tanh GELU. upsample: full-size masks in the graph.
    """

    return_single_mask: bool = False
    use_stability_score: bool = False
    return_extra_metrics: bool = False
    gelu_approximate: bool = False
    upsample: bool = True
    opset: int = DEFAULT_OPSET

    def __post_init__(self) -> None:
        if self.return_extra_metrics and not self.upsample:
            raise OptionError("the extra metrics are those of full-size masks; leave out --no-upsample.")


def encoder_graph(sam: Sam, input_form: str = "uint8", opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """`input_image` → `image_embeddings`; uint8 (B, h, w, 3) scaled photos, or float32 (B, 3, S, S) normalised."""
    side = int(sam.image_encoder.img_size)
    dims = torch.export.Dim
    batch = dims("batch")
    if input_form == "float32":
        example = torch.randn(2, 3, side, side)
        return trace(EncodeNormalised(sam), [example], [{0: batch}], ["input_image"], ["image_embeddings"], opset)
    if input_form != "uint8":
        raise OptionError(f"the encoder's input is one of {', '.join(ENCODER_INPUTS)}; got {input_form!r}.")
    pixels = torch.randint(0, 256, (2, side - 8, side - 4, 3), dtype=torch.uint8)
    shape = {0: batch, 1: dims("height", max=side), 2: dims("width", max=side)}
    return trace(EncodeScaled(sam), [pixels], [shape], ["input_image"], ["image_embeddings"], opset)


def prepare_graph(sam: Sam, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """`image_embeddings` (1, C, h, w) → the tensors of `prepared_names`; once per photo."""
    embedding = torch.randn(1, sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)
    return trace(Prepare(sam), [embedding], [{}], ["image_embeddings"], prepared_names(sam), opset)


def decode_graph(sam: Sam, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """Prepared tensors and prompts → `low_res_masks` (P, 4, 4h, 4w), `iou_predictions` (P, 4)."""
    names = prepared_names(sam)
    graph = choose(
        "has_mask_input",
        decode_part(sam, True, names, opset).graph,
        decode_part(sam, False, names, opset).graph,
        [LOW_RES, IOU],
    )
    return model_of(graph, opset)


def decoder_graph(sam: Sam, options: DecoderOptions) -> onnx.ModelProto:
    """The official decoder: `image_embeddings … orig_im_size` → `masks, iou_predictions, low_res_masks`."""
    opset = options.opset
    with tanh_gelu(options.gelu_approximate):
        masked, plain = (decode_part(sam, m, None, opset).graph for m in (True, False))
    graph = choose("has_mask_input", masked, plain, [LOW_RES, IOU])
    if options.return_single_mask or options.use_stability_score:
        graph = choose("has_mask_input", masked, plain, ["four_masks", "four_ious"])
        graph = chain(graph, select_graph(sam, options), "select", [LOW_RES, IOU])
    outputs = [IOU, LOW_RES]
    if options.upsample:
        outputs = ["masks", *outputs]
        graph = chain(graph, upsample_graph(int(sam.image_encoder.img_size)), "upsample", outputs)
    if options.return_extra_metrics:
        outputs = ["masks", IOU, "stability_scores", "areas", LOW_RES]
        measure = trace(
            Measure(sam.mask_threshold),
            [torch.randn(3, 2, 6, 5)],
            [{i: torch.export.Dim(name) for i, name in enumerate(("num_prompts", "num_masks", "height", "width"))}],
            ["masks"],
            ["stability_scores", "areas"],
            opset,
        )
        graph = chain(graph, measure.graph, "measure", outputs)
    return model_of(graph, opset)


def select_graph(sam: Sam, options: DecoderOptions) -> onnx.GraphProto:
    """`four_masks`, `four_ious`, `point_labels` → the masks and scores that the options ask for."""
    h, w = sam.prompt_encoder.mask_input_size
    prompts, points = torch.export.Dim("num_prompts"), torch.export.Dim("num_points")
    count = sam.mask_decoder.num_mask_tokens
    return trace(
        Select(options.return_single_mask, options.use_stability_score, sam.mask_threshold),
        [torch.randn(3, count, h, w), torch.rand(3, count), torch.ones(3, 2)],
        [{0: prompts}, {0: prompts}, {0: prompts, 1: points}],
        ["four_masks", "four_ious", "point_labels"],
        [LOW_RES, IOU],
        options.opset,
    ).graph


def upsample_graph(side: int) -> onnx.GraphProto:
    """`low_res_masks` and `orig_im_size` (H, W) to `masks` (P, M, H, W): the rule of `core.geometry`, in float64.

    Written as ONNX, because a traced crop of a size that is only known at run time needs more nodes than this.
    """
    from onnx import parser

    return parser.parse_graph(
        f"""
        upsample (float[num_prompts, num_masks, low_h, low_w] low_res_masks, float[2] orig_im_size)
            => (float[num_prompts, num_masks, height, width] masks)
            <int64[2] zeros = {{0, 0}}, int64[2] last_axes = {{2, 3}}, int64[2] square = {{{side}, {side}}},
             double[1] side = {{{side}}}, double[1] half = {{0.5}}, double[1] one = {{1.0}}>
        {{
            original = Cast <to = 11> (orig_im_size)
            longer = ReduceMax <keepdims = 1> (original)
            scale = Div (side, longer)
            exact = Mul (original, scale)
            raised = Add (exact, half)
            rounded = Floor (raised)
            at_least_one = Max (rounded, one)
            input_hw = Cast <to = 7> (at_least_one)
            lead = Shape <start = 0, end = 2> (low_res_masks)
            padded_size = Concat <axis = 0> (lead, square)
            padded = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
                (low_res_masks, , , padded_size)
            cropped = Slice (padded, zeros, input_hw, last_axes)
            original_hw = Cast <to = 7> (orig_im_size)
            full_size = Concat <axis = 0> (lead, original_hw)
            masks = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (cropped, , , full_size)
        }}
        """
    )


def decode_part(sam: Sam, masked: bool, names: list[str] | None, opset: int) -> onnx.ModelProto:
    """The decoder with or without a mask prompt, from prepared tensors (`names`) or from the embedding."""
    encoder = sam.prompt_encoder
    h, w = encoder.image_embedding_size
    embedding = torch.randn(1, encoder.embed_dim, h, w)
    with torch.no_grad():
        image: Any = list(Prepare(sam)(embedding)) if names else embedding
    prompts, points = torch.export.Dim("num_prompts"), torch.export.Dim("num_points")
    arguments = [image, torch.rand(3, 2, 2) * w, torch.ones(3, 2)]
    shapes: list[Any] = [[{} for _ in names] if names else {}, {0: prompts, 1: points}, {0: prompts, 1: points}]
    inputs = [*(names or ["image_embeddings"]), "point_coords", "point_labels"]
    if masked:
        arguments.append(torch.randn(3, 1, *encoder.mask_input_size))
        shapes.append({0: torch.export.Dim("num_mask_inputs")})
        inputs.append("mask_input")
    return trace(Decode(sam, masked, names), arguments, shapes, inputs, [LOW_RES, IOU], opset)


def trace(
    module: nn.Module, arguments: list[Any], shapes: list[Any], inputs: list[str], outputs: list[str], opset: int
) -> onnx.ModelProto:
    """One module as an ONNX model with named inputs and outputs; `shapes` names the dynamic axes of each argument."""
    require_onnx()
    if opset not in OPSETS:
        raise OptionError(f"opset must be {OPSETS.start} … {OPSETS.stop - 1}, got {opset}.")
    with _quietly():
        program = torch.onnx.export(
            module.eval(),
            tuple(arguments),
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple(shapes),
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def require_onnx() -> None:
    """Raises MissingExtraError where onnx, onnxscript or onnxruntime is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(INSTALL) from error


def num_weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the weights of a model."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; weights beyond ONNX's limit of 2 GB go to `<name>.data` beside it."""
    import onnx

    large = num_weight_bytes(model) > MOST_BYTES
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data" if large else None)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter's own remarks are about its insides; errors still come through."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "torch.export")}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def model_of(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    """A checked model of one graph."""
    from onnx import checker, helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    checker.check_model(model)
    return model
