"""All that one running server holds, on one object: the model, its lane, the photos, the bounds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from anymask.core.types import Embedding, MaskBatch, PromptBatch, Segmenter
from anymask.predict.options import AutomaticOptions
from anymask.server import work
from anymask.server.lane import BULK, CLICK, ENCODE, BusyError, Lane
from anymask.server.metrics import Metrics
from anymask.server.schemas import Mask, Prompt
from anymask.server.sessions import Session, Sessions, photo_id_of
from anymask.server.settings import Settings
from anymask.server.words import Words
from anymask.text.choice import TextChoice


@dataclass(frozen=True)
class BrowserModel:
    """The model's copy for browsers: files by role, what a page must know to use them, and a stamp of its weights."""

    files: dict[str, Path] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    stamp: str = ""


class Studio:
    """Answers requests, whoever they come from; every wait is bounded.

    segmenter: the model. name: its name. browser: files for the page. text: what ranks masks by a phrase.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        settings: Settings,
        name: str = "lite",
        browser: BrowserModel | None = None,
        text: TextChoice | None = None,
    ) -> None:
        self.segmenter, self.settings, self.name = segmenter, settings, name
        self.browser = browser or BrowserModel()
        self.metrics = Metrics(lambda: self.lane.waiting, lambda: self.sessions.held_bytes)
        self.words = Words(text)
        self.lane = Lane(settings.waiting_jobs, self.metrics.batch)
        self.sessions = Sessions(settings.cache_bytes, self.metrics.eviction)
        self._bulk = ThreadPoolExecutor(settings.everything_jobs, "anymask-bulk")
        self._bulk_free = threading.Semaphore(settings.everything_jobs)
        self._words_free = threading.Lock()
        self._stopping = threading.Event()
        self.fingerprint = str(getattr(segmenter, "fingerprint", ""))

    @property
    def stamp(self) -> str:
        """Another one for other weights; a page that has loaded another loads the model anew."""
        return self.browser.stamp or self.fingerprint or "0"

    def adopt(self, segmenter: Segmenter, browser: BrowserModel, name: str) -> None:
        """Encode with another model from now on, and let the embeddings of the old one go.

        What is under way with those ends with the old model. Raises BusyError where the line is full.
        """

        def change(payloads: list[Any]) -> list[None]:
            self.segmenter, self.browser, self.name = segmenter, browser, name
            self.fingerprint = str(getattr(segmenter, "fingerprint", ""))
            self.sessions.clear()
            return [None]

        self.lane.submit(change, None, urgency=CLICK).result()

    def stop(self) -> None:
        """End all work, soon: the call that runs is finished, the rest is told."""
        self._stopping.set()
        self.lane.stop()
        self._bulk.shutdown(wait=True, cancel_futures=True)
        self.sessions.clear()

    async def encode(self, encoded: bytes, urgency: int = ENCODE) -> Session:
        """The session of a photo's file, from the cache if it is there."""
        photo_id = photo_id_of(encoded)
        known = self.sessions.find(photo_id)
        if known is not None:
            return known
        pixels = self.settings.upload_pixels

        def run(payloads: list[Any]) -> list[Session]:
            session = self.sessions.find(photo_id)  # a twin may have been encoded while this one waited
            if session is None:
                session = work.encode(self.segmenter, payloads[0], pixels, self.words.is_there)
                self.sessions.put(session)
            return [session] * len(payloads)

        key = ("encode", photo_id)
        return await self._wait(self.lane.submit(run, encoded, urgency=urgency, key=key))

    async def predict(self, session: Session, prompts: list[Prompt], multimask: bool | None) -> list[list[Mask]]:
        """Candidates for each prompt; prompts of all clients on this photo share calls where they are alike."""
        groups: dict[tuple[Any, ...], list[tuple[int, PromptBatch]]] = {}
        for i, prompt in enumerate(prompts):
            batch = work.to_batch(prompt, session.embedding)
            three = multimask if multimask is not None else wants_candidates(prompt)
            groups.setdefault(work.batch_key(batch, three), []).append((i, batch))
        futures: list[Future] = []
        try:
            for key, group in groups.items():
                futures.append(
                    self.lane.submit(
                        partial(self._answer, session, key[-1]),
                        [batch for _, batch in group],
                        urgency=CLICK,
                        key=(id(session), *key),
                    )
                )
        except BusyError:
            for future in futures:
                future.cancel()
            raise
        answers: dict[int, list[Mask]] = {}
        for group, future in zip(groups.values(), futures):
            for (i, _), candidates in zip(group, await self._wait(future)):
                answers[i] = candidates
        return [answers[i] for i in range(len(prompts))]

    def _answer(self, session: Session, three: bool, payloads: list[list[PromptBatch]]) -> list[list[list[Mask]]]:
        """For each payload (prompts of one client) the candidates of each of its prompts; one call for all."""
        prompts = [batch for payload in payloads for batch in payload]
        frame, threshold = session.embedding.frame, session.segmenter.mask_threshold
        answers = iter(work.decode_together(session.segmenter, session.embedding, prompts, three))
        return [[work.to_masks(*next(answers), frame, threshold) for _ in payload] for payload in payloads]

    async def _wait(self, future: Future) -> Any:
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if self._stopping.is_set():
                raise BusyError(10) from None
            raise

    async def everything(
        self, session: Session, options: AutomaticOptions, phrase: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Progress, then the masks, with a phrase the most similar first. Leaving the iteration ends the search.

        BusyError where too many are under way, MissingExtraError for a phrase where its models are not installed.
        """
        if phrase is not None:
            self.words.require()
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        over = threading.Event()

        def tell(event: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def on_points(done: int, total: int) -> bool:
            tell({"type": "progress", "done": done, "total": total})
            return over.is_set() or self._stopping.is_set()

        def search() -> None:
            try:
                through = work.Through(session.segmenter, partial(self._decode_in_lane, session.segmenter))
                masks = work.everything(through, session.embedding, options, on_points)
                if phrase is not None:
                    masks = self.rank(session.picture, masks, phrase, on_points)
                tell({"type": "result", "masks": masks})
            except BaseException as error:
                tell({"type": "error", "error": error})

        self.start_bulk(search)
        try:
            while True:
                event = await events.get()
                if event["type"] == "error":
                    raise event["error"]
                yield event
                if event["type"] == "result":
                    return
        finally:
            over.set()

    def rank(
        self,
        picture: bytes,
        masks: list[dict[str, Any]],
        phrase: str,
        on_masks: Callable[[int, int], bool] | None = None,
    ) -> list[dict[str, Any]]:
        """Masks with their similarity to a phrase, the most similar first; one thread at a time. As `work.by_words`."""
        with self._words_free:
            return work.by_words(self.words, picture, masks, phrase, on_masks or (lambda *_: self._stopping.is_set()))

    def start_bulk(self, run: Callable[[], None]) -> None:
        """Run long work on one of few threads; BusyError if all are taken."""
        if self._stopping.is_set() or not self._bulk_free.acquire(blocking=False):
            raise BusyError(5)

        def released() -> None:
            try:
                run()
            finally:
                self._bulk_free.release()

        self._bulk.submit(released)

    async def in_bulk(self, run: Callable[[], Any]) -> Any:
        """The result of long work on one of few threads; BusyError if all are taken."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def tell(result: Any, error: BaseException | None) -> None:
            if not answer.done():
                if error is None:
                    answer.set_result(result)
                else:
                    answer.set_exception(error)

        def work_on() -> None:
            try:
                result, error = run(), None
            except Exception as caught:
                result, error = None, caught
            loop.call_soon_threadsafe(tell, result, error)

        self.start_bulk(work_on)
        return await answer

    def _decode_in_lane(
        self, segmenter: Segmenter, embedding: Embedding, prompts: PromptBatch, multimask: bool
    ) -> MaskBatch:
        """One block of points, when nobody waits for a click."""

        def run(payloads: list[Any]) -> list[MaskBatch]:
            return [segmenter.decode(embedding, prompts, multimask)]

        while True:
            try:
                future = self.lane.submit(run, urgency=BULK)
                break
            except BusyError:
                if self._stopping.wait(0.2):  # no hurry: wait for a place
                    raise
        return future.result()


def wants_candidates(prompt: Prompt) -> bool:
    """Three candidates for one click or box alone, one mask for more (PAPER app. A)."""
    return len(prompt.points) + (prompt.box is not None) + (prompt.mask is not None) <= 1
