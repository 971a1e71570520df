// Everything in a photo: on the server where it is there, else in the browser.

import { ringsArea } from "../core/contours";
import { type Base, outlineRings, type Shape } from "../core/shape";
import { LEAST_CELLS } from "../core/tidy";
import type { Thresholds } from "../model/protocol";
import * as api from "./api";
import { announce, sleep, toast } from "./progress";
import { type Candidate, NEW_DRAFT, type Photo, toCandidate } from "./state";
import type { Studio } from "./studio";
import { nextColour } from "./painter";

const MOST_CANDIDATES = 3;

type Found = Candidate & { pointXy: readonly [number, number] | null };

export class Search {
  serverGrid = 32; // points a side of a search for everything
  ownGrid = 16; // in the browser, where a point costs more
  private running: AbortController | null = null;

  constructor(private readonly studio: Studio) {}

  get isRunning(): boolean {
    return this.running !== null;
  }

  stop(): void {
    this.running?.abort();
  }

  everything(): Promise<void> {
    return this.studio.edits.run(async (photo) => {
      const search = new AbortController();
      this.running = search;
      const task = this.studio.progress.start("Finding everything", () => search.abort());
      this.studio.view.set({ hover: null });
      this.studio.onChange();
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
        this.studio.edits.commit(photo, { items, draft: null, selected: null });
        announce(`${found.length} objects found.`);
        toast(`${found.length} object${found.length === 1 ? "" : "s"} found.`, "good");
      } finally {
        this.running = null;
        task.done();
      }
    });
  }

  /** What a phrase means in the photo, as the candidates of a new object. Only the server knows words. */
  words(phrase: string): Promise<void> {
    return this.studio.edits.run(async (photo) => {
      const search = new AbortController();
      this.running = search;
      const label = `Looking for “${phrase}”`;
      const task = this.studio.progress.start(label, () => search.abort());
      this.studio.onChange();
      try {
        const found = await this.onServer(photo, phrase, search.signal, (part) => task.update(part, label));
        const candidates = found.slice(0, MOST_CANDIDATES);
        if (!candidates.length) toast("Nothing was found. Try clicking on the object instead.");
        else this.studio.drafting.begin(photo, { ...NEW_DRAFT, candidates, name: phrase });
      } catch (error) {
        if (!search.signal.aborted) throw error;
        toast("Stopped.");
      } finally {
        this.running = null;
        task.done();
      }
    });
  }

  private async onServer(
    photo: Photo,
    text: string | null,
    signal: AbortSignal,
    onProgress: (part: number) => void,
  ): Promise<Found[]> {
    const { machine } = this.studio;
    const least = Math.round((LEAST_CELLS * photo.width * photo.height) / machine.cells ** 2);
    const ask = async (): Promise<api.ServerMask[]> =>
      api.everything(await machine.uploaded(photo, signal), this.serverGrid, least, text, onProgress, signal);
    const masks = await ask().catch((error) => {
      if (!(error instanceof api.ServerError && error.status === 404)) throw error;
      photo.serverId = null; // it made room for others
      return ask();
    });
    const found: Found[] = [];
    for (const mask of masks) {
      const base: Base = { kind: "rle", rle: mask.segmentation };
      const rings = outlineRings({ base, strokes: [] }, photo.frame);
      found.push({ base, rings, predictedIou: mask.predicted_iou, pointXy: mask.point_coords[0] ?? null });
      if (found.length % 16 === 0) await sleep(0);
    }
    return found;
  }

  private async findAll(
    photo: Photo,
    signal: AbortSignal,
    onProgress: (part: number | null, label: string) => void,
  ): Promise<Found[]> {
    const label = "Finding everything";
    if (this.studio.machine.serverIsThere) {
      try {
        return await this.onServer(photo, null, signal, (part) => onProgress(part, label));
      } catch (error) {
        if (signal.aborted) return [];
        this.studio.machine.serverIsThere = false;
        onProgress(null, `${label} in the browser`);
      }
    }
    await this.studio.machine.encoded(photo);
    const automatic = this.studio.machine.info!.automatic;
    const thresholds: Thresholds = {
      grid: this.ownGrid,
      predictedIou: automatic.pred_iou_thresh,
      stability: automatic.stability_score_thresh,
      stabilityOffset: automatic.stability_score_offset,
      boxNms: automatic.box_nms_thresh,
    };
    const { masks } = await this.studio.machine.client.ask(
      { kind: "everything", photo: photo.key, thresholds },
      { onProgress: (part) => onProgress(part, `${label} in the browser`), signal },
    );
    return masks.map((mask) => ({ ...toCandidate(mask), pointXy: mask.pointXy }));
  }
}
