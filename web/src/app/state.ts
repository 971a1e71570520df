// What is on the table: photos, their objects, the one being made, and how to go back. All values are immutable and
// share what did not change, so a step of history costs only what is new in it.

import type { Rings } from "../core/contours";
import type { Frame, Xy, Xyxy } from "../core/geometry";
import type { Base, Shape, Stroke } from "../core/shape";
import type { Decoded } from "../model/protocol";

export interface Click {
  readonly xy: Xy;
  readonly adds: boolean;
}

export interface Candidate {
  readonly base: Base;
  readonly rings: Rings;
  readonly predictedIou: number | null;
}

/** The object being made. `edits`: the id of the object it will replace. */
export interface Draft {
  readonly clicks: readonly Click[];
  readonly box: Xyxy | null;
  readonly candidates: readonly Candidate[]; // empty before the first answer
  readonly chosen: number;
  readonly strokes: readonly Stroke[];
  readonly rings: Rings | null; // of the chosen candidate with the strokes
  readonly edits: number | null;
  readonly name: string | null; // where it was asked for by name
}

/** What became of an object of the store: proposed by a model and untouched, or looked at a second time. */
export type Mark = "prefilled" | "accepted" | "rejected" | "edited";

export interface Item {
  readonly id: number;
  readonly name: string;
  readonly colour: number;
  readonly hidden: boolean;
  readonly shape: Shape;
  readonly rings: Rings;
  readonly predictedIou: number | null;
  readonly pointXy: Xy | null;
  readonly mark?: Mark;
  readonly made?: Made; // how, where it was made here
}

/** What a person did for an object. */
export interface Made {
  readonly clicks: readonly Click[];
  readonly box: Xyxy | null;
  readonly numStrokes: number;
}

export interface Scene {
  readonly items: readonly Item[];
  readonly draft: Draft | null;
  readonly selected: number | null;
}

export const EMPTY: Scene = { items: [], draft: null, selected: null };
export const NEW_DRAFT: Draft = {
  clicks: [],
  box: null,
  candidates: [],
  chosen: 0,
  strokes: [],
  rings: null,
  edits: null,
  name: null,
};

export function shapeOf(draft: Draft): Shape {
  return { base: draft.candidates[draft.chosen]?.base ?? { kind: "none" }, strokes: draft.strokes };
}

export function promptCount(draft: Draft): number {
  return draft.clicks.length + (draft.box ? 1 : 0);
}

/** Steps that can be undone and redone. */
export class History {
  private past: Scene[] = [];
  private future: Scene[] = [];
  present: Scene = EMPTY;
  private static readonly LONGEST = 200;

  get canUndo(): boolean {
    return this.past.length > 0;
  }

  get canRedo(): boolean {
    return this.future.length > 0;
  }

  commit(next: Scene): void {
    this.past.push(this.present);
    if (this.past.length > History.LONGEST) this.past.shift();
    this.present = next;
    this.future = [];
  }

  /** Change without a step: a selection is nothing to undo. */
  replace(next: Scene): void {
    this.present = next;
  }

  undo(): boolean {
    const scene = this.past.pop();
    if (!scene) return false;
    this.future.push(this.present);
    this.present = scene;
    return true;
  }

  redo(): boolean {
    const scene = this.future.pop();
    if (!scene) return false;
    this.past.push(this.present);
    this.present = scene;
    return true;
  }
}

export type PhotoStatus = "encoding" | "ready" | "failed";

/** A photo with its history. `view`: a copy of at most 4096 pixels a side, for the screen and the encoder. */
export class Photo {
  readonly history = new History();
  status: PhotoStatus = "encoding";
  serverId: string | null = null;
  encodeMs: number | null = null;
  nextId = 1;

  constructor(
    readonly key: number,
    readonly name: string,
    readonly file: Blob,
    readonly view: ImageBitmap,
    readonly frame: Frame,
    readonly storedId: number | null = null, // in the project's store
  ) {}

  get width(): number {
    return this.frame.originalHw[1];
  }

  get height(): number {
    return this.frame.originalHw[0];
  }

  get scene(): Scene {
    return this.history.present;
  }
}

// the package's own colours (predict/render.py), then hues by the golden angle
const COLOURS = [
  [30, 136, 255],
  [255, 152, 0],
  [190, 80, 240],
  [0, 190, 165],
  [255, 60, 120],
  [150, 205, 40],
  [255, 205, 30],
  [100, 90, 235],
  [70, 205, 250],
  [225, 90, 50],
  [40, 165, 85],
  [215, 150, 175],
] as const;

export function colourOf(index: number, alpha = 1): string {
  const chosen = COLOURS[index];
  if (chosen) return `rgb(${chosen.join(" ")} / ${alpha})`;
  return `hsl(${Math.round(((index * 0.618034) % 1) * 360)} 85% 58% / ${alpha})`;
}

/** An object as the start of a draft that will replace it. */
export function draftOf(item: Item): Draft {
  const candidates: Candidate[] =
    item.shape.base.kind === "none"
      ? []
      : [{ base: item.shape.base, rings: item.rings, predictedIou: item.predictedIou }];
  return { ...NEW_DRAFT, candidates, strokes: item.shape.strokes, rings: item.rings, edits: item.id };
}

export function toCandidate({ logits, rings, predictedIou }: Decoded): Candidate {
  return { base: { kind: "logits", logits }, rings, predictedIou };
}
