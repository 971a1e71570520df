// The object being made: clicks, a box, strokes, candidates, until it is kept.

import type { Xy, Xyxy } from "../core/geometry";
import { outlineRings, type Stroke, toPrompt } from "../core/shape";
import type { Decoded, Prompt, Replies } from "../model/protocol";
import { announce, sleep, toast } from "./progress";
import { type Draft, draftOf, type Item, type Mark, NEW_DRAFT, type Photo, promptCount, shapeOf, toCandidate } from "./state";
import type { Studio } from "./studio";
import { nextColour } from "./painter";

export class Drafting {
  editedMark: Mark | undefined; // of an object that was edited
  restMs: number | null = 350; // without a new prompt, before a closer look; null for never

  constructor(private readonly studio: Studio) {}

  click(xy: Xy, adds: boolean): Promise<void> {
    this.studio.view.set({ pending: { xy, adds }, hover: null });
    return this.studio.edits.run(async (photo) => {
      const draft = photo.scene.draft ?? NEW_DRAFT;
      await this.decodeInto(photo, { ...draft, clicks: [...draft.clicks, { xy, adds }] });
    });
  }

  box(box: Xyxy): Promise<void> {
    return this.studio.edits.run(async (photo) => {
      const draft = photo.scene.draft ?? NEW_DRAFT;
      // a new box starts the object anew, but for what was said by clicks
      await this.decodeInto(photo, { ...draft, box, candidates: [], strokes: draft.strokes });
    });
  }

  stroke(stroke: Stroke): Promise<void> {
    return this.studio.edits.run(async (photo) => {
      let draft = photo.scene.draft;
      const selected = photo.scene.items.find((item) => item.id === photo.scene.selected);
      if (!draft && selected) draft = draftOf(selected);
      draft ??= NEW_DRAFT;
      const strokes = [...draft.strokes, stroke];
      this.commitDraft(photo, { ...draft, strokes });
    });
  }

  choose(index: number): void {
    const photo = this.studio.photo;
    const draft = photo?.scene.draft;
    if (!photo || !draft?.candidates[index] || draft.chosen === index) return;
    this.commitDraft(photo, { ...draft, chosen: index });
    announce(this.studio.describe(draft.candidates[index], index, draft.candidates.length));
  }

  /** A draft that did not come from a click. */
  begin(photo: Photo, draft: Draft): void {
    this.commitDraft(photo, draft);
    announce(this.studio.describe(draft.candidates[0], 0, draft.candidates.length));
  }

  /** Keep the object and start the next. */
  accept(): Promise<void> {
    return this.studio.edits.run(async (photo) => {
      const { draft, items } = photo.scene;
      if (!draft?.rings || !draft.rings.ends.length) {
        if (draft) toast("The mask is empty. Click on an object first.");
        return;
      }
      const chosen = draft.candidates[draft.chosen];
      const edited = items.find((item) => item.id === draft.edits);
      const item: Item = {
        ...edited,
        mark: edited ? this.editedMark : undefined,
        id: edited?.id ?? photo.nextId++,
        name: edited?.name ?? draft.name ?? `Object ${photo.nextId - 1}`,
        colour: edited?.colour ?? nextColour(items),
        hidden: false,
        shape: shapeOf(draft),
        rings: draft.rings,
        predictedIou: chosen?.predictedIou ?? null,
        made: { clicks: draft.clicks, box: draft.box, numStrokes: draft.strokes.length },
        pointXy: draft.clicks.find((click) => click.adds)?.xy ?? edited?.pointXy ?? null,
      };
      const next = edited ? items.map((old) => (old.id === item.id ? item : old)) : [...items, item];
      this.studio.edits.commit(photo, { items: next, draft: null, selected: null });
      announce(`${item.name} kept. ${next.length} objects.`);
    });
  }

  discard(): void {
    const photo = this.studio.photo;
    this.studio.search.stop();
    if (!photo) return;
    if (photo.scene.draft) this.studio.edits.commit(photo, { ...photo.scene, draft: null });
    else if (photo.scene.selected !== null) this.studio.objects.select(null);
    this.studio.view.set({ hover: null, pending: null, cross: null });
  }

  private async decodeInto(photo: Photo, draft: Draft): Promise<void> {
    const started = performance.now();
    const previous = photo.scene.draft;
    const startsAnew = !draft.candidates.length && !draft.strokes.length;
    await this.studio.machine.encoded(photo);
    const mask = startsAnew ? null : toPrompt(shapeOf(previous ?? draft), photo.frame, this.studio.machine.cells);
    const prompt: Prompt = {
      points: draft.clicks.map((click) => click.xy),
      labels: draft.clicks.map((click) => (click.adds ? 1 : 0)),
      box: draft.box,
      mask,
    };
    const multimask = promptCount(draft) <= 1 && !mask;
    const task = this.studio.progress.start("Finding the object");
    try {
      const { masks, ms } = await this.answer(photo, prompt, multimask, started);
      this.studio.decodeMs = ms;
      this.studio.view.set({ quick: null });
      const candidates = masks.map(toCandidate);
      const shown = this.commitDraft(photo, { ...draft, candidates, chosen: 0 });
      await this.studio.view.painted();
      this.studio.drawnMs = performance.now() - started;
      performance.measure("anymask:prompt", { start: started, end: performance.now(), detail: { decodeMs: ms } });
      announce(this.studio.describe(candidates[0], 0, candidates.length));
      if (!draft.strokes.length) void this.sharpen(photo, shown, prompt, multimask, masks);
    } finally {
      this.studio.view.set({ quick: null });
      task.done();
      this.studio.onChange();
    }
  }

  /** Once the person rests, look closer at something small; the answer takes the place of the first, if that still stands. */
  private async sharpen(
    photo: Photo, shown: Draft, prompt: Prompt, multimask: boolean, first: readonly Decoded[],
  ): Promise<void> {
    const stands = () => photo.scene.draft === shown;
    if (this.restMs === null) return;
    await sleep(this.restMs);
    if (!stands()) return;
    try {
      const masks = await this.studio.machine.closer(photo, prompt, multimask, first);
      if (!masks || !stands()) return;
      const candidates = masks.map(toCandidate);
      photo.history.replace({ ...photo.scene, draft: { ...shown, candidates, rings: candidates[0].rings } });
      this.studio.changed(photo);
      performance.mark("anymask:closer");
    } catch {
      // the first answer stands
    }
  }

  /** The masks; a quick outline is drawn before they are there. */
  private async answer(
    photo: Photo,
    prompt: Prompt,
    multimask: boolean,
    started: number,
  ): Promise<Replies["decode"]> {
    const { machine, hover, view } = this.studio;
    const isFirstClick = multimask && !prompt.box && prompt.labels[0] === 1;
    const known = isFirstClick ? hover.answer(photo, prompt.points[0]) : null;
    if (known) return known;
    if (!prompt.mask) {
      const { rings } = await machine.preview(photo, prompt, multimask);
      if (photo === this.studio.photo) view.set({ quick: rings });
      void view.painted().then(() => performance.measure("anymask:first", { start: started, end: performance.now() }));
    }
    return machine.decode(photo, prompt, multimask);
  }

  private commitDraft(photo: Photo, draft: Draft): Draft {
    const rings = draft.strokes.length
      ? outlineRings(shapeOf(draft), photo.frame)
      : (draft.candidates[draft.chosen]?.rings ?? null);
    const shown = { ...draft, rings };
    this.studio.edits.commit(photo, { ...photo.scene, draft: shown });
    return shown;
  }
}
