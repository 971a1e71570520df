"""How `anymask everything` is run: alone, in processes, or on Ray; into files or into shards; and what it tells."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from anymask.cli.progress import Bar

if TYPE_CHECKING:
    from anymask.predict.everything import Outcome, Plan
    from anymask.predict.shards import Shard
    from anymask.predict.sources import PhotoSource

SHOWN = 20  # failed photos named at the end


@dataclass(frozen=True)
class Run:
    """Which processes do the work. generator: in this one; None: `load` makes it in others."""

    generator: Any
    load: Any
    engine: str
    workers: int
    threads: int | None
    ray_address: str | None
    on_gpu: bool

    @contextmanager
    def started(self) -> Iterator[None]:
        """Whatever has to be there before photos can be done."""
        if self.engine == "ray":
            from anymask.predict.ray_engine import ray_cluster

            with ray_cluster(self._settings()):
                yield
        else:
            yield

    def outcomes(self, items: list[PhotoSource] | list[Shard], plan: Plan, bar: Bar) -> Iterator[Outcome]:
        """Photos as they are done; shards are listed when their turn comes."""
        if self.engine == "ray":
            from anymask.predict.ray_engine import segment_on_ray

            return segment_on_ray(self.load, items, plan, self._settings())
        from anymask.predict.shards import photos_in

        sources = photos_in(items)
        if self.generator is not None:
            from anymask.predict.everything import segment_here

            return segment_here(self.generator, sources, plan, bar.within)
        from anymask.predict.workers import segment_in_workers

        return segment_in_workers(self.load, sources, plan, self.workers, self.threads)

    def _settings(self) -> Any:
        from anymask.predict.ray_engine import RaySettings

        share = max(1, (os.cpu_count() or 1) // self.workers) if self.ray_address is None else 1
        return RaySettings(self.workers, self.ray_address, self.threads or share, num_gpus=None if self.on_gpu else 0)


@dataclass
class Tally:
    """What a run did. failed: names of photos without a result. shards: finished, and those done before."""

    num_photos: int = 0
    num_before: int = 0
    num_masks: int = 0
    failed: list[str] = field(default_factory=list)
    shards: int = 0
    shards_before: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count a photo."""
        if outcome.error is not None:
            self.failed.append(outcome.source.name)
            return
        self.num_photos += 1
        self.num_before += outcome.skipped
        self.num_masks += outcome.num_masks


def run_files(run: Run, photos: list[str], plan: Plan, every: int) -> Tally:
    """Masks of photos into files of a folder."""
    from anymask.predict.everything import finish, named_for
    from anymask.predict.sources import find_photos

    sources, tally = named_for(plan, find_photos(photos, every)), Tally()
    with Bar(len(sources), each=1) as bar, run.started():
        for outcome in run.outcomes(sources, plan, bar):
            tally.add(outcome)
            bar.step(outcome, 1)
    finish(plan, sources)
    return tally


def run_shards(run: Run, photos: list[str], plan: Plan, every: int) -> Tally:
    """Photos of shards with their masks into shards."""
    from anymask.predict.everything import Outcome
    from anymask.predict.shards import done_before, find_shards, segment_shards

    tally = Tally()
    shards = find_shards(photos, plan, every)
    sizes = {shard.stem: max(1, shard.num_bytes()) for shard in shards}
    with Bar(sum(sizes.values())) as bar:
        todo = []
        for shard in shards:
            before = done_before(shard, plan)
            if before is None:
                todo.append(shard)
                continue
            tally.num_photos += before.num_photos
            tally.num_before += before.num_photos
            tally.num_masks += before.num_masks
            tally.failed += list(before.errors)
            tally.shards += 1
            tally.shards_before += 1
            bar.skip(before.num_photos, sizes[shard.stem])
        if not todo:
            return tally
        with run.started():
            write = None
            if run.engine == "ray":
                from anymask.predict.ray_engine import write_shard_on_ray

                write = write_shard_on_ray
            for answer in segment_shards(todo, plan, run.outcomes(todo, plan, bar), write):
                if isinstance(answer, Outcome):
                    bar.step(answer, sizes[answer.source.group or ""] / answer.source.group_size)
                    if answer.error is None:
                        tally.num_before += answer.skipped
                else:
                    tally.shards += 1
                    tally.num_photos += answer.num_photos
                    tally.num_masks += answer.num_masks
                    tally.failed += list(answer.errors)
    return tally


def report(tally: Tally, plan: Plan, loading_s: float, total_s: float) -> None:
    """What was found, where it is, and which photos failed; leaves with 1 if any did."""
    parts = []
    if tally.shards:
        before = f" ({tally.shards_before} were done before)" if tally.shards_before else ""
        parts.append(f"{tally.shards} shards{before}")
    skipped = f" ({tally.num_before} were done before)" if tally.num_before else ""
    parts.append(f"{tally.num_photos} photos{skipped}")
    print(f"{', '.join(parts)}, {tally.num_masks} masks as {plan.format_name} in {plan.folder}")
    if plan.overlays and tally.num_photos:
        print(f"pictures: {plan.folder / 'overlays'}")
    print(f"model loaded in {loading_s:.2f} s, all done in {total_s:.2f} s")
    if tally.failed:
        total = tally.num_photos + len(tally.failed)
        print(f"anymask: {len(tally.failed)} of {total} photos failed:", file=sys.stderr)
        for name in tally.failed[:SHOWN]:
            print(f"  {name}", file=sys.stderr)
        if len(tally.failed) > SHOWN:
            print(f"  and {len(tally.failed) - SHOWN} more", file=sys.stderr)
        if tally.shards:
            print(f"reasons: {plan.folder}/*.errors.json; remove one to have its photos tried again", file=sys.stderr)
        raise typer.Exit(1)
