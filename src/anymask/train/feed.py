"""The batches of a run from any step on. Which photos a step sees follows from its number alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice

from torch import Tensor
from torch.utils.data import DataLoader, Subset

from anymask.core.errors import AnymaskError
from anymask.data.augment import Augmentation
from anymask.data.loader import Batch, PromptDataset, collate, set_up_worker
from anymask.data.readers import Photo
from anymask.train.config import Phase, TrainConfig


@dataclass(frozen=True)
class Feed:
    """Batches for one of `num_processes` processes.

    A step of a phase takes photos × accumulate × num_processes consecutive sample numbers: first `photos` for each
    process, then the same for the next of its batches. embed: stored embedding of a photo at a side in pixels.
    """

    photos: Sequence[Photo]
    config: TrainConfig
    model_side: int
    rank: int = 0
    num_processes: int = 1
    embed: Callable[[Photo, int], Tensor] | None = None

    def steps(self, first: int, end: int) -> Generator[tuple[list[Batch], Phase], None, None]:
        """The batches of each step in first … end - 1, and the step's phase. Close it to end the loader's processes."""
        phase_start, sample_start = 0, 0
        for phase in self.config.phases:
            per_step = phase.photos * self.config.accumulate * self.num_processes
            begin, until = max(phase_start, first), min(phase.until_step, end)
            if begin < until:
                start = sample_start + (begin - phase_start) * per_step
                with closing(self._load(phase, start, until - begin)) as batches:
                    for _ in range(until - begin):
                        yield list(islice(batches, self.config.accumulate)), phase
            sample_start += (phase.until_step - phase_start) * per_step
            phase_start = phase.until_step

    def _load(self, phase: Phase, start: int, num_steps: int) -> Generator[Batch, None, None]:
        """This process's share of `num_steps` steps from sample `start` on."""
        config = self.config
        side = phase.image_size or self.model_side
        low, high = phase.scale or config.scale
        at_once = phase.photos * self.num_processes
        stop = start + num_steps * config.accumulate * at_once
        dataset = PromptDataset(
            self.photos,
            side=side,
            masks_per_photo=max(phase.masks, config.affinity_masks if config.affinity else 0),
            length=stop,
            augmentation=Augmentation((low, high), config.flip, config.color, config.zoom, config.camera),
            seed=config.seed,
            balance=config.balance,
            min_area_px=phase.min_area_px,
            embed=partial(self.embed, side=side) if self.embed else None,  # type: ignore[call-arg]
        )
        own = [
            first + j
            for first in range(start + self.rank * phase.photos, stop, at_once)
            for j in range(phase.photos)
        ]
        loader = DataLoader(
            Subset(dataset, own),
            batch_size=phase.photos,
            num_workers=config.loader_workers,
            collate_fn=collate,
            worker_init_fn=set_up_worker,
            prefetch_factor=4 if config.loader_workers else None,
        )
        failure = None
        try:
            yield from loader
        except Exception as error:
            failure = as_raised(error)
        if failure is not None:  # here, where nothing holds the loader any more, so that its processes end
            raise failure


def as_raised(error: Exception) -> Exception:
    """An error of a loader process as it was raised there: torch puts the whole traceback before its message.

    Without its traceback here, whose frames hold the loader.
    """
    error = error.with_traceback(None)
    if isinstance(error, AnymaskError):
        return type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip())
    return error
