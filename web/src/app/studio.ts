// What the app does, apart from how it looks: photos, prompts, objects, history. The page listens with `onChange`.

import { ringsArea, type Rings } from "../core/contours";
import type { Xy, Xyxy } from "../core/geometry";
import { type Base, contains, outlineRings, type Shape, type Stroke, toPrompt } from "../core/shape";
import { LEAST_CELLS } from "../core/tidy";
import { ModelClient } from "../model/client";
import type { Decoded, Loaded, ModelInfo, Prompt, Thresholds } from "../model/protocol";
import * as api from "./api";
import { NotAPhoto, openPhoto } from "./open";
import { announce, type Progress, toast } from "./progress";
import {
  type Candidate,
  type Draft,
  EMPTY,
  type Item,
  NEW_DRAFT,
  type Photo,
  promptCount,
  type Scene,
  shapeOf,
} from "./state";
import { nextColour, type View } from "./view";

const MOST_PHOTOS = 64;

export class Studio {
  readonly photos: Photo[] = [];
  current = -1;
  info: ModelInfo | null = null;
  loaded: Loaded | null = null;
  failure: string | null = null;
  decodeMs: number | null = null;
  drawnMs: number | null = null;
  serverIsThere = true;
  serverGrid = 32; // points a side of a search for everything
  ownGrid = 16; // in the browser, where a point costs more
  onChange: () => void = () => {};

  private readonly model = new ModelClient();
  private readonly ready: Promise<void>;
  private readonly encoding = new Map<number, Promise<void>>();
  private line: Promise<unknown> = Promise.resolve(); // edits, one after the other
  private hoverAt: Xy | null = null;
  private hovering = false;
  private nextKey = 1;
  private pendingEdits = 0;
  private search: AbortController | null = null;

  constructor(
    private readonly view: View,
    private readonly progress: Progress,
  ) {
    this.ready = this.load();
    this.ready.catch((error: Error) => {
      this.failure = error.message;
      toast(`The model could not be loaded: ${error.message} Reload the page to try again.`, "bad");
      this.onChange();
    });
  }

  get photo(): Photo | null {
    return this.photos[this.current] ?? null;
  }

  get scene(): Scene {
    return this.photo?.scene ?? EMPTY;
  }

  get isBusy(): boolean {
    return this.pendingEdits > 0 || this.search !== null;
  }

  private async load(): Promise<void> {
    const task = this.progress.start("Loading the model");
    try {
      this.info = await api.model();
      const threads = crossOriginIsolated ? Math.max(1, Math.min(navigator.hardwareConcurrency || 1, 8)) : 1;
      this.loaded = await this.model.ask(
        { kind: "load", info: this.info, base: new URL(".", location.href).href, threads },
        { onProgress: (part, label) => task.update(part, label) },
      );
      performance.mark("anymask:model-ready");
    } finally {
      task.done();
      this.onChange();
    }
  }

  // --- photos -------------------------------------------------------------------------------------------------

  async open(files: readonly { blob: Blob; name: string }[]): Promise<void> {
    let first = true;
    const task = this.progress.start("Opening");
    try {
      for (const { blob, name } of files) {
        if (this.photos.length >= MOST_PHOTOS) {
          toast(`Up to ${MOST_PHOTOS} photos can be open at once.`, "bad");
          break;
        }
        try {
          // the model's side is needed for the frame; it is known long before the model itself is loaded
          while (!this.info && !this.failure) await Promise.race([this.ready, sleep(20)]).catch(() => {});
          const photo = await openPhoto(blob, name, this.nextKey++, this.info?.side ?? 1024);
          this.photos.push(photo);
          if (first) this.show(this.photos.length - 1);
          first = false;
        } catch (error) {
          toast(error instanceof NotAPhoto ? error.message : `${name} could not be opened: ${String(error)}`, "bad");
        }
      }
    } finally {
      task.done();
      this.onChange();
    }
  }

  show(index: number): void {
    if (!this.photos[index]) return;
    this.current = index;
    this.hoverAt = null;
    this.view.show(this.photo);
    this.onChange();
    announce(`${this.photo!.name}, ${this.photo!.width} by ${this.photo!.height} pixels.`);
    void this.encoded(this.photo!).catch(() => {});
    performance.mark("anymask:photo-shown");
  }

  step(by: number): void {
    if (this.photos.length > 1) this.show((this.current + by + this.photos.length) % this.photos.length);
  }

  /** Resolved when prompts on the photo can be answered. */
  private encoded(photo: Photo): Promise<void> {
    let running = this.encoding.get(photo.key);
    if (!running || photo.status === "failed") {
      running = this.encode(photo);
      this.encoding.set(photo.key, running);
    }
    return running;
  }

  private async encode(photo: Photo): Promise<void> {
    photo.status = "encoding";
    const task = this.progress.start(`Looking at ${photo.name}`);
    try {
      await this.ready;
      const started = performance.now();
      if (this.loaded!.encodes) {
        const bitmap = await createImageBitmap(photo.view);
        const { ms } = await this.model.ask(
          { kind: "encode", photo: photo.key, frame: photo.frame, bitmap },
          { transfer: [bitmap] },
        );
        photo.encodeMs = ms;
      } else {
        const id = await this.uploaded(photo);
        const halves = await api.embedding(id);
        await this.model.ask(
          { kind: "embed", photo: photo.key, frame: photo.frame, halves },
          { transfer: [halves] },
        );
        photo.encodeMs = performance.now() - started;
      }
      photo.status = "ready";
      performance.mark("anymask:encoded");
    } catch (error) {
      photo.status = "failed";
      toast(`${photo.name} could not be prepared: ${this.reason(error)}`, "bad");
      throw error;
    } finally {
      task.done();
      this.onChange();
    }
  }

  private async uploaded(photo: Photo, signal?: AbortSignal): Promise<string> {
    if (photo.serverId) return photo.serverId;
    const info = this.info!;
    if (photo.file.size > info.upload_bytes || photo.width * photo.height > info.upload_pixels) {
      throw new Error(`it is too large for this server (${Math.round(info.upload_pixels / 1e6)} megapixels).`);
    }
    const { id } = await api.upload(photo.file, signal);
    photo.serverId = id;
    return id;
  }

  // --- the object being made ----------------------------------------------------------------------------------

  click(xy: Xy, adds: boolean): Promise<void> {
    this.view.set({ pending: { xy, adds }, hover: null });
    return this.edit(async (photo) => {
      const draft = photo.scene.draft ?? NEW_DRAFT;
      await this.decodeInto(photo, { ...draft, clicks: [...draft.clicks, { xy, adds }] });
    });
  }

  box(box: Xyxy): Promise<void> {
    return this.edit(async (photo) => {
      const draft = photo.scene.draft ?? NEW_DRAFT;
      // a new box starts the object anew, but for what was said by clicks
      await this.decodeInto(photo, { ...draft, box, candidates: [], strokes: draft.strokes });
    });
  }

  stroke(stroke: Stroke): Promise<void> {
    return this.edit(async (photo) => {
      let draft = photo.scene.draft;
      const selected = photo.scene.items.find((item) => item.id === photo.scene.selected);
      if (!draft && selected) draft = draftOf(selected);
      draft ??= NEW_DRAFT;
      const strokes = [...draft.strokes, stroke];
      this.commitDraft(photo, { ...draft, strokes });
    });
  }

  choose(index: number): void {
    const photo = this.photo;
    const draft = photo?.scene.draft;
    if (!photo || !draft?.candidates[index] || draft.chosen === index) return;
    this.commitDraft(photo, { ...draft, chosen: index });
    announce(this.describe(draft.candidates[index], index, draft.candidates.length));
  }

  /** Keep the object and start the next. */
  accept(): Promise<void> {
    return this.edit(async (photo) => {
      const { draft, items } = photo.scene;
      if (!draft?.rings || !draft.rings.ends.length) {
        if (draft) toast("The mask is empty. Click on an object first.");
        return;
      }
      const chosen = draft.candidates[draft.chosen];
      const edited = items.find((item) => item.id === draft.edits);
      const item: Item = {
        id: edited?.id ?? photo.nextId++,
        name: edited?.name ?? `Object ${photo.nextId - 1}`,
        colour: edited?.colour ?? nextColour(items),
        hidden: false,
        shape: shapeOf(draft),
        rings: draft.rings,
        predictedIou: chosen?.predictedIou ?? null,
        pointXy: draft.clicks.find((click) => click.adds)?.xy ?? edited?.pointXy ?? null,
      };
      const next = edited ? items.map((old) => (old.id === item.id ? item : old)) : [...items, item];
      this.commit(photo, { items: next, draft: null, selected: null });
      announce(`${item.name} kept. ${next.length} objects.`);
    });
  }

  discard(): void {
    const photo = this.photo;
    this.search?.abort();
    if (!photo) return;
    if (photo.scene.draft) this.commit(photo, { ...photo.scene, draft: null });
    else if (photo.scene.selected !== null) this.select(null);
    this.view.set({ hover: null, pending: null, cross: null });
  }

  private async decodeInto(photo: Photo, draft: Draft): Promise<void> {
    const started = performance.now();
    const previous = photo.scene.draft;
    const startsAnew = !draft.candidates.length && !draft.strokes.length;
    await this.encoded(photo);
    const mask = startsAnew ? null : toPrompt(shapeOf(previous ?? draft), photo.frame, this.cells());
    const prompt: Prompt = {
      points: draft.clicks.map((click) => click.xy),
      labels: draft.clicks.map((click) => (click.adds ? 1 : 0)),
      box: draft.box,
      mask,
    };
    const multimask = promptCount(draft) <= 1 && !mask;
    const task = this.progress.start("Finding the object");
    try {
      const { masks, ms } = await this.model.ask({ kind: "decode", photo: photo.key, prompt, multimask, withRings: true });
      this.decodeMs = ms;
      const candidates = masks.map(toCandidate);
      this.commitDraft(photo, { ...draft, candidates, chosen: 0 });
      await this.view.painted();
      this.drawnMs = performance.now() - started;
      performance.measure("anymask:prompt", { start: started, end: performance.now(), detail: { decodeMs: ms } });
      announce(this.describe(candidates[0], 0, candidates.length));
    } finally {
      task.done();
      this.onChange();
    }
  }

  /** One edit after the other, in the order they were made; what fails changes nothing. */
  private edit(run: (photo: Photo) => Promise<void>): Promise<void> {
    const photo = this.photo;
    if (!photo) return Promise.resolve();
    this.pendingEdits++;
    const result = this.line.then(async () => {
      try {
        await run(photo);
      } catch (error) {
        if (photo.status !== "failed") toast(`That did not work: ${this.reason(error)}`, "bad");
      } finally {
        this.pendingEdits--;
        this.view.set({ pending: null });
        this.onChange();
      }
    });
    this.line = result;
    return result;
  }

  private commitDraft(photo: Photo, draft: Draft): void {
    const rings = draft.strokes.length
      ? outlineRings(shapeOf(draft), photo.frame)
      : (draft.candidates[draft.chosen]?.rings ?? null);
    this.commit(photo, { ...photo.scene, draft: { ...draft, rings } });
  }

  private commit(photo: Photo, scene: Scene): void {
    photo.history.commit(scene);
    this.changed(photo);
  }

  private changed(photo: Photo): void {
    if (photo === this.photo) this.view.show(photo);
    this.onChange();
  }

  private cells(): number {
    return 4 * (this.info?.embedding_shape.at(-1) ?? 64);
  }

  // --- history ------------------------------------------------------------------------------------------------

  undo(): Promise<void> {
    return this.edit(async (photo) => {
      if (photo.history.undo()) announce("Undone.");
      this.changed(photo);
    });
  }

  redo(): Promise<void> {
    return this.edit(async (photo) => {
      if (photo.history.redo()) announce("Redone.");
      this.changed(photo);
    });
  }

  // --- objects ------------------------------------------------------------------------------------------------

  select(id: number | null): void {
    const photo = this.photo;
    if (!photo) return;
    photo.history.replace({ ...photo.scene, selected: id });
    this.changed(photo);
  }

  pick(xy: Xy): void {
    const item = this.view.itemAt(xy);
    this.select(item?.id ?? null);
    if (item) announce(`${item.name} selected.`);
  }

  editItem(id: number): void {
    const photo = this.photo;
    const item = photo?.scene.items.find((candidate) => candidate.id === id);
    if (photo && item) this.commit(photo, { ...photo.scene, draft: draftOf(item), selected: null });
  }

  rename(id: number, name: string): void {
    this.changeItem(id, (item) => (name.trim() && name !== item.name ? { ...item, name: name.trim() } : item));
  }

  toggleHidden(id: number): void {
    this.changeItem(id, (item) => ({ ...item, hidden: !item.hidden }));
  }

  remove(id: number): void {
    const photo = this.photo;
    if (!photo) return;
    const items = photo.scene.items.filter((item) => item.id !== id);
    const draft = photo.scene.draft?.edits === id ? null : photo.scene.draft;
    if (items.length < photo.scene.items.length) this.commit(photo, { items, draft, selected: null });
  }

  removeAll(): void {
    const photo = this.photo;
    if (photo?.scene.items.length) this.commit(photo, { items: [], draft: photo.scene.draft, selected: null });
  }

  private changeItem(id: number, change: (item: Item) => Item): void {
    const photo = this.photo;
    if (!photo) return;
    const items = photo.scene.items.map((item) => (item.id === id ? change(item) : item));
    if (items.some((item, i) => item !== photo.scene.items[i])) this.commit(photo, { ...photo.scene, items });
  }

  // --- hover --------------------------------------------------------------------------------------------------

  /** Show what a click here would give; only the latest place counts. */
  hover(xy: Xy | null): void {
    this.hoverAt = xy && this.view.isInside(xy) ? xy : null;
    if (!this.hoverAt || this.scene.draft || this.isBusy) this.view.set({ hover: null });
    if (!this.hovering) void this.followHover();
  }

  private async followHover(): Promise<void> {
    this.hovering = true;
    try {
      let done: Xy | null = null;
      while (this.hoverAt && this.hoverAt !== done) {
        const photo = this.photo;
        if (!photo || photo.status !== "ready" || photo.scene.draft || this.isBusy) return;
        const at: Xy = this.hoverAt;
        const prompt: Prompt = { points: [at], labels: [1], box: null, mask: null };
        const { masks, ms } = await this.model.ask({
          kind: "decode",
          photo: photo.key,
          prompt,
          multimask: true,
          withRings: true,
        });
        this.decodeMs = ms;
        done = at;
        if (this.hoverAt && photo === this.photo && !photo.scene.draft && !this.isBusy) {
          this.view.set({ hover: masks[0]?.rings ?? null });
          this.onChange();
        }
        await sleep(16); // leave room for clicks
      }
    } catch {
      this.view.set({ hover: null }); // a preview is never worth a message
    } finally {
      this.hovering = false;
    }
  }

  // --- everything ---------------------------------------------------------------------------------------------

  everything(): Promise<void> {
    return this.edit(async (photo) => {
      const search = new AbortController();
      this.search = search;
      const task = this.progress.start("Finding everything", () => search.abort());
      this.view.set({ hover: null });
      this.onChange();
      try {
        const found = await this.findAll(photo, search.signal, (part, label) => task.update(part, label));
        if (!found.length) {
          toast(search.signal.aborted ? "Stopped." : "Nothing was found. Try clicking on the objects instead.");
          return;
        }
        found.sort((a, b) => ringsArea(b.rings) - ringsArea(a.rings));
        const items = [...photo.scene.items];
        for (const { base, rings, predictedIou, pointXy } of found) {
          const id = photo.nextId++;
          const colour = nextColour(items);
          const shape: Shape = { base, strokes: [] };
          items.push({ id, name: `Object ${id}`, colour, hidden: false, shape, rings, predictedIou, pointXy });
        }
        items.sort((a, b) => ringsArea(b.rings) - ringsArea(a.rings)); // small ones on top
        this.commit(photo, { items, draft: null, selected: null });
        announce(`${found.length} objects found.`);
        toast(`${found.length} object${found.length === 1 ? "" : "s"} found.`, "good");
      } finally {
        this.search = null;
        task.done();
      }
    });
  }

  private async findAll(
    photo: Photo,
    signal: AbortSignal,
    onProgress: (part: number | null, label: string) => void,
  ): Promise<(Candidate & { pointXy: Xy | null })[]> {
    const label = "Finding everything";
    if (this.serverIsThere) {
      try {
        const id = await this.uploaded(photo, signal);
        const least = Math.round((LEAST_CELLS * photo.width * photo.height) / this.cells() ** 2);
        const masks = await api
          .everything(id, this.serverGrid, least, (part) => onProgress(part, label), signal)
          .catch(async (error) => {
            if (!(error instanceof api.ServerError && error.status === 404)) throw error;
            photo.serverId = null; // it made room for others
            const again = await this.uploaded(photo, signal);
            return api.everything(again, this.serverGrid, least, (part) => onProgress(part, label), signal);
          });
        const found: (Candidate & { pointXy: Xy | null })[] = [];
        for (const mask of masks) {
          const base: Base = { kind: "rle", rle: mask.segmentation };
          const rings = outlineRings({ base, strokes: [] }, photo.frame);
          found.push({ base, rings, predictedIou: mask.predicted_iou, pointXy: mask.point_coords[0] ?? null });
          if (found.length % 16 === 0) await sleep(0);
        }
        return found;
      } catch (error) {
        if (signal.aborted) return [];
        this.serverIsThere = false;
        onProgress(null, `${label} in the browser`);
      }
    }
    await this.encoded(photo);
    const automatic = this.info!.automatic;
    const thresholds: Thresholds = {
      grid: this.ownGrid,
      predictedIou: automatic.pred_iou_thresh,
      stability: automatic.stability_score_thresh,
      stabilityOffset: automatic.stability_score_offset,
      boxNms: automatic.box_nms_thresh,
    };
    const { masks } = await this.model.ask(
      { kind: "everything", photo: photo.key, thresholds },
      { onProgress: (part) => onProgress(part, `${label} in the browser`), signal },
    );
    return masks.map((mask) => ({ ...toCandidate(mask), pointXy: mask.pointXy }));
  }

  // --- words --------------------------------------------------------------------------------------------------

  share(rings: Rings): number {
    return this.photo ? (100 * ringsArea(rings)) / (this.photo.width * this.photo.height) : 0;
  }

  describe(candidate: Candidate | undefined, index: number, count: number): string {
    if (!candidate) return "No mask.";
    const iou = candidate.predictedIou === null ? "" : `, predicted IoU ${candidate.predictedIou.toFixed(2)}`;
    return `Mask ${index + 1} of ${count}${iou}, ${this.share(candidate.rings).toFixed(1)} percent of the photo.`;
  }

  isInsideDraft(xy: Xy): boolean {
    const draft = this.scene.draft;
    return draft !== null && this.photo !== null && contains(shapeOf(draft), this.photo.frame, xy);
  }

  private reason(error: unknown): string {
    if (error instanceof TypeError && /fetch/i.test(error.message)) {
      this.serverIsThere = false;
      return "the server does not answer. Start it again with `anymask serve`.";
    }
    return error instanceof Error ? error.message : String(error);
  }
}

function draftOf(item: Item): Draft {
  const candidates: Candidate[] =
    item.shape.base.kind === "none"
      ? []
      : [{ base: item.shape.base, rings: item.rings, predictedIou: item.predictedIou }];
  return { ...NEW_DRAFT, candidates, strokes: item.shape.strokes, rings: item.rings, edits: item.id };
}

function toCandidate({ logits, rings, predictedIou }: Decoded): Candidate {
  return { base: { kind: "logits", logits }, rings, predictedIou };
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
