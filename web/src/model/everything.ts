// Masks of everything: a grid of points, filters, and boxes that say the same thing, as predict/ does it.

import type { Frame } from "../core/geometry";
import type { Decoded, Found, Thresholds } from "./protocol";

export type Xyxy4 = readonly [number, number, number, number];

export function gridPoints(perSide: number, width: number, height: number): [number, number][] {
  return Array.from({ length: perSide * perSide }, (_, i) => [
    (((i % perSide) + 0.5) / perSide) * width,
    ((Math.floor(i / perSide) + 0.5) / perSide) * height,
  ]);
}

/** IoU of the masks at ± offset, on the cells that show the photo; NaN where there is none. */
export function stability(logits: Float32Array, cells: number, frame: Frame, offset: number): number {
  const rows = Math.ceil((frame.inputHw[0] * cells) / frame.side);
  const columns = Math.ceil((frame.inputHw[1] * cells) / frame.side);
  let inner = 0;
  let outer = 0;
  for (let y = 0; y < rows; y++) {
    for (let x = 0, at = y * cells; x < columns; x++, at++) {
      if (logits[at] > offset) inner++;
      if (logits[at] > -offset) outer++;
    }
  }
  return outer ? inner / outer : Number.NaN;
}

/** Box of the cells above 0; null for an empty mask. */
export function cellBox(logits: Float32Array, cells: number): Xyxy4 | null {
  let [x0, y0, x1, y1] = [cells, cells, -1, -1];
  for (let y = 0, at = 0; y < cells; y++) {
    for (let x = 0; x < cells; x++, at++) {
      if (logits[at] <= 0) continue;
      if (x < x0) x0 = x;
      if (x > x1) x1 = x;
      if (y < y0) y0 = y;
      y1 = y;
    }
  }
  return x1 < 0 ? null : [x0, y0, x1, y1];
}

export function boxIou(a: Xyxy4, b: Xyxy4): number {
  const w = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const h = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (w <= 0 || h <= 0) return 0;
  const shared = w * h;
  return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared);
}

/** Indices that stay, best score first: each removes those that overlap it by more than the threshold. */
export function nms(boxes: readonly Xyxy4[], scores: readonly number[], threshold: number): number[] {
  const order = scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a]);
  const kept: number[] = [];
  for (const i of order) if (kept.every((k) => boxIou(boxes[k], boxes[i]) <= threshold)) kept.push(i);
  return kept;
}

interface Candidate {
  readonly logits: Float32Array;
  readonly predictedIou: number;
  readonly stability: number;
  readonly box: Xyxy4;
  readonly pointXy: [number, number];
}

/** Collects candidates point by point; `finish` thins them out. Logits are copied only for masks that pass. */
export class Collector {
  private found: Candidate[] = [];

  constructor(
    private readonly frame: Frame,
    private readonly cells: number,
    private readonly thresholds: Thresholds,
  ) {}

  add(logits: Float32Array, predictedIou: number, pointXy: [number, number]): void {
    const t = this.thresholds;
    if (!(predictedIou > t.predictedIou)) return;
    const score = stability(logits, this.cells, this.frame, t.stabilityOffset);
    if (!(score >= t.stability)) return;
    const box = cellBox(logits, this.cells);
    if (!box) return;
    this.found.push({ logits: logits.slice(), predictedIou, stability: score, box, pointXy });
    if (this.found.length >= 256) this.thin(); // bounded memory, whatever the grid
  }

  private thin(): void {
    const kept = nms(
      this.found.map((c) => c.box),
      this.found.map((c) => c.predictedIou),
      this.thresholds.boxNms,
    );
    this.found = kept.map((i) => this.found[i]);
  }

  finish(toDecoded: (logits: Float32Array, predictedIou: number) => Decoded): Found[] {
    this.thin();
    return this.found.map((c) => ({
      ...toDecoded(c.logits, c.predictedIou),
      pointXy: c.pointXy,
      stability: c.stability,
    }));
  }
}
