"""Photos a second of a training step of the paper's 11 rounds: ours, and a plain loop on `segment_anything`'s modules.

    python benchmarks/train_step.py [--model lite] [--photos 2] [--masks 8] [--repeats 3] [--threads 2] [--data TAR]

Photos and masks are, unless given, those of `lite`'s recipes with half of the photos, and for `vit_b` those of
`sam_vit_b`, the paper's one photo and 64 masks a GPU.

The plain loop encodes the batch, decodes round after round with the official prompt encoder and mask decoder, adds up
the losses and runs backward to the embedding, for a few masks of a photo at a time (--at-once; four take no longer than
eight, and half of the memory), and at last once through the encoder. It gets the same photos in the same layout, masks,
first points, click sampler, losses, AdamW and clipping as ours, bf16 autocast or float32 (--peer-dtypes; the faster
counts), and memory that stays in the process. For `lite`, which the official package lacks, it gets our encoder. Ours
is `Trainer.train_step` with everything it does: averaging, logging, checks. Each runs in a process of its own, one
after the other, so that none works among what another left in memory; beside the wall clock stand the CPU seconds of
all threads, which say more on a machine that is busy (then with --threads 1), and the peak of memory. With --data the
share of a step spent waiting for the loader is measured as well, on real photos.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from anymask.core.allocator import keep_freed_memory
from anymask.core.rle import encode_one
from anymask.data.loader import Batch
from anymask.data.readers import Photo, open_dataset
from anymask.model.presets import build_sam
from anymask.model.sam import Sam
from anymask.train.clicks import Draws, corrective_clicks, first_prompts
from anymask.train.config import Losses, Phase, TrainConfig
from anymask.train.loop import Trainer
from anymask.train.losses import LossWeights, round_loss

OURS = "anymask"
SIDES = {"lite": 512, "vit_b": 1024}
SIZES = {"lite": (2, 8), "vit_b": (1, 64)}  # photos, masks
WARM_UP = 2  # steps in which memory still grows
PLAN = [True] * 4 + [False] + [True] * 4 + [False]  # ten rounds after the first


def make_batch(side: int, num_photos: int, num_masks: int) -> Batch:
    """Noise with bright ellipses, which are the masks."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    images, masks = rng.uniform(0, 90, (num_photos, 3, side, side)).astype(np.float32), []
    for image in images:
        for _ in range(num_masks):
            cy, cx, ry, rx = rng.uniform(0.2, 0.8, 2).tolist() + rng.uniform(0.05, 0.2, 2).tolist()
            masks.append(((y / side - cy) / ry) ** 2 + ((x / side - cx) / rx) ** 2 < 1)
            image[:, masks[-1]] += rng.uniform(50, 150)
    stacked = torch.from_numpy(np.stack(masks).astype(np.uint8)).reshape(num_photos, num_masks, side, side)
    return Batch(torch.from_numpy(images), stacked, [str(i) for i in range(num_photos)], list(range(num_photos)))


class PlainLoop:
    """What one writes on top of the official modules."""

    def __init__(self, model: str, side: int, dtype: torch.dtype, at_once: int) -> None:
        from segment_anything import sam_model_registry
        from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

        self.side, self.dtype, self.at_once = side, dtype, at_once
        if model == "lite":
            cells = side // 8
            self.sam = Sam(
                build_sam("lite").image_encoder.to(memory_format=torch.channels_last),
                PromptEncoder(
                    embed_dim=256,
                    image_embedding_size=(cells, cells),
                    input_image_size=(side, side),
                    mask_in_chans=16,
                ),
                MaskDecoder(
                    transformer_dim=256,
                    transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
                ),
            ).train()
        else:
            self.sam = sam_model_registry[model]().train()
        self.parameters = [p for p in self.sam.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6, weight_decay=0.1)

    def step(self, batch: Batch) -> None:
        sam = self.sam
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            images = (batch.images - sam.pixel_mean) / sam.pixel_std
            embeddings = sam.image_encoder(images.contiguous(memory_format=torch.channels_last))
            leaf = embeddings.detach().requires_grad_()
            for i, masks in enumerate(batch.masks):
                for some in masks.split(self.at_once):
                    loss = self.loss(leaf[i : i + 1], some)
                    (loss * (len(some) / len(masks) / len(images))).backward()
            embeddings.backward(leaf.grad)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def loss(self, embedding: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        encoder, weights = self.sam.prompt_encoder, LossWeights()
        target = F.interpolate(masks[None].float(), size=encoder.mask_input_size, mode="area")[0]
        solid = target > 0.5
        draws = Draws.make(len(masks), len(PLAN) + 1, masks.device)
        prompts = first_prompts(solid, self.side, draws, box_chance=0.0)
        coords, labels = prompts.coords_xy[:, :1], prompts.labels[:, :1]  # the official encoder pads by itself
        previous, losses = None, []
        for i, new_click in enumerate([False, *PLAN]):
            if new_click:
                click, label = corrective_clicks(previous[:, 0], solid, self.side, draws.pixels[:, i])
                coords, labels = torch.cat([coords, click[:, None]], 1), torch.cat([labels, label[:, None]], 1)
            sparse, dense = encoder(points=(coords, labels), boxes=None, masks=previous)
            logits, iou = self.sam.mask_decoder(
                image_embeddings=embedding,
                image_pe=encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=i == 0,
            )
            logits, iou = logits.float(), iou.float()
            losses.append(round_loss(logits, iou, target, weights).total)
            previous = logits[torch.arange(len(logits)), iou.argmax(dim=1)].unsqueeze(1).detach()
        return torch.stack(losses).mean()


def our_step(model: str, side: int, batch: Batch, out: Path) -> tuple[Callable[[], Any], Trainer]:
    """`Trainer.train_step` on the batch, with the rounds of PLAN."""
    b, m = batch.masks.shape[:2]
    phase = Phase(until_step=10**6, image_size=side, photos=b, masks=m, num_clicks=8, num_empty=2)
    config = TrainConfig(
        model=model,
        lr=1e-6,
        encoder_lr=1e-6,
        backbone_lr=1e-6,
        box_chance=0.0,
        losses=Losses(),
        phases=[phase],
        init="lite" if model == "lite" else None,
        device="cpu",
    )
    photo = Photo("-", "-", b"", (8, 8), [encode_one(np.ones((8, 8), bool))])
    trainer = Trainer(config, [photo], out)
    return (lambda: trainer.train_step([batch], phase)), trainer


def loading_share(data: Path, trainer: Trainer, steps: int = 4) -> tuple[float, float]:
    """Seconds of waiting for the loader and seconds of work in a step on the photos of `data`."""
    trainer.photos, waits, works = list(open_dataset(data)), [], []
    began = time.perf_counter()
    for batches, phase in trainer.feed().steps(trainer.step, trainer.step + steps):
        loaded = time.perf_counter()
        trainer.train_step(batches, phase)
        waits.append(loaded - began)
        works.append(time.perf_counter() - loaded)
        began = time.perf_counter()
    return float(np.mean(waits[1:])), float(np.mean(works[1:]))  # the first waits for the workers to start


def measured(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Median seconds and CPU seconds of a step, and the peak of memory in GiB, of one of those that are compared."""
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    side = SIDES[args.model]
    batch = make_batch(side, args.photos, args.masks)
    with tempfile.TemporaryDirectory() as folder:
        trainer = None
        if name == OURS:
            step, trainer = our_step(args.model, side, batch, Path(folder))
        else:
            loop = PlainLoop(args.model, side, {"bf16": torch.bfloat16, "fp32": torch.float32}[name], args.at_once)
            step = lambda: loop.step(batch)  # noqa: E731
        times = []
        for i in range(args.repeats + WARM_UP):
            torch.manual_seed(i)
            started, cpu = time.perf_counter(), time.process_time()
            step()
            if i >= WARM_UP:
                times.append((time.perf_counter() - started, time.process_time() - cpu))
        wall, cpu = np.median(times, axis=0)
        gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        found = {"wall": wall, "cpu": cpu, "gib": gib, "threads": torch.get_num_threads()}
        if args.data and trainer:
            found["wait"], found["work"] = loading_share(args.data, trainer)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite", choices=list(SIDES))
    parser.add_argument("--photos", type=int)
    parser.add_argument("--masks", type=int)
    parser.add_argument("--at-once", type=int, default=4, help="masks that the plain loop goes through together")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peer-dtypes", default="bf16,fp32")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)  # what a process of its own measures
    args = parser.parse_args()
    photos, masks = SIZES[args.model]
    args.photos, args.masks = args.photos or photos, args.masks or masks
    if args.only:
        print(json.dumps(measured(args.only, args)))
        return
    ours: dict[str, float] = {}
    for name in [OURS, *filter(None, args.peer_dtypes.split(","))]:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        if not ours:
            ours = found
            print(f"{args.model}, {args.photos} photos of {SIDES[args.model]} px, {args.masks} masks each, 11 rounds, "
                  f"{found['threads']} threads, median of {args.repeats}")
            print(f"{'':20}{'photos/s':>10}{'s a step':>10}{'ratio':>8}{'CPU s':>9}{'ratio':>8}{'GiB':>7}")
        wall, cpu = found["wall"], found["cpu"]
        title = name if name == OURS else f"plain loop, {name}"
        print(f"{title:20}{args.photos / wall:10.3f}{wall:10.2f}{wall / ours['wall']:8.2f}{cpu:9.2f}"
              f"{cpu / ours['cpu']:8.2f}{found['gib']:7.1f}", flush=True)  # fmt: skip
    if "wait" in ours:
        wait, work = ours["wait"], ours["work"]
        print(f"waiting for data: {wait:.3f} s of {wait + work:.2f} s a step, {100 * wait / (wait + work):.1f} %")


if __name__ == "__main__":
    main()
