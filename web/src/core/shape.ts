// An object's mask as it is edited: what the model said, or run lengths from elsewhere, and brush strokes over it.
// Nothing here depends on a size: it is drawn, measured and exported from the same few numbers.

import { contours, type Rings, placeRings } from "./contours";
import { type Frame, scaleXy, toModelXy, type Xy } from "./geometry";
import { coverage, decodeRle, type Rle, rleBox } from "./rle";
import { type Bitmap, upscaleMask } from "./upscale";

/** A stroke in pixels of the photo: x, y, x, y … */
export interface Stroke {
  readonly adds: boolean;
  readonly radius: number;
  readonly xy: readonly number[];
}

export type Base =
  | { readonly kind: "logits"; readonly logits: Float32Array }
  | { readonly kind: "rle"; readonly rle: Rle }
  | { readonly kind: "none" };

export interface Shape {
  readonly base: Base;
  readonly strokes: readonly Stroke[];
}

export const NOTHING: Shape = { base: { kind: "none" }, strokes: [] };
const PROMPT_STRENGTH = 10; // logits of a mask prompt, inside and outside, as core/masks.py
const DRAWN_LONGEST = 1024; // of copies that contours are taken from
const RLE_LONGEST = 384; // the same of one object's part of the photo

export const cellsOf = (logits: Float32Array): number => Math.round(Math.sqrt(logits.length));

/** The mask at `width`×`height` pixels spread over the photo. */
export function rasterize({ base, strokes }: Shape, frame: Frame, width: number, height: number): Bitmap {
  let bitmap: Bitmap;
  if (base.kind === "logits") {
    bitmap = upscaleMask(base.logits, cellsOf(base.logits), frame, width, height);
  } else if (base.kind === "rle") {
    bitmap =
      width === base.rle.size[1] && height === base.rle.size[0]
        ? decodeRle(base.rle)
        : {
            width,
            height,
            data: Uint8Array.from(coverage(base.rle, width, height), (share) => (share >= 0.5 ? 1 : 0)),
          };
  } else {
    bitmap = { width, height, data: new Uint8Array(width * height) };
  }
  const scale: Xy = [width / frame.originalHw[1], height / frame.originalHw[0]];
  for (const stroke of strokes) paint(bitmap.data, width, height, stroke, scale, stroke.adds ? 1 : 0);
  return bitmap;
}

/** Lines around the mask in pixels of the photo, fine enough for any zoom. */
export function outlineRings(shape: Shape, frame: Frame): Rings {
  const [height, width] = frame.originalHw;
  if (shape.base.kind === "logits" && !shape.strokes.length) {
    const cells = cellsOf(shape.base.logits);
    const [sx, sy] = scaleXy(frame);
    const cell = frame.side / cells;
    return placeRings(contours(shape.base.logits, cells, cells), cell / sx, cell / sy);
  }
  if (shape.base.kind === "rle" && !shape.strokes.length) return rleRings(shape.base.rle);
  const scale = Math.min(1, DRAWN_LONGEST / Math.max(width, height));
  const w = Math.max(1, Math.round(width * scale));
  const h = Math.max(1, Math.round(height * scale));
  const field = Float32Array.from(rasterize(shape, frame, w, h).data);
  return placeRings(contours(smooth(field, w, h), w, h, 0.5), width / w, height / h);
}

/** Lines around run lengths: only their own part of the photo is looked at. */
function rleRings(rle: Rle): Rings {
  const box = rleBox(rle);
  if (!box) return { xy: new Float32Array(0), ends: new Uint32Array(0) };
  const [fullH, fullW] = rle.size;
  const x = Math.max(0, box[0] - 2);
  const y = Math.max(0, box[1] - 2);
  const part = [x, y, Math.min(fullW, box[0] + box[2] + 2) - x, Math.min(fullH, box[1] + box[3] + 2) - y] as const;
  const scale = Math.min(1, RLE_LONGEST / Math.max(part[2], part[3]));
  const w = Math.max(1, Math.round(part[2] * scale));
  const h = Math.max(1, Math.round(part[3] * scale));
  const field = smooth(coverage(rle, w, h, part), w, h);
  return placeRings(contours(field, w, h, 0.5), part[2] / w, part[3] / h, x, y);
}

/** The mask as a prompt for the next decoding: logits (n×n) on the model's square. */
export function toPrompt({ base, strokes }: Shape, frame: Frame, cells: number): Float32Array | null {
  if (base.kind === "none" && !strokes.length) return null;
  let logits: Float32Array;
  if (base.kind === "logits") {
    logits = pooled(base.logits, cells);
  } else {
    logits = new Float32Array(cells * cells).fill(-PROMPT_STRENGTH);
    if (base.kind === "rle") {
      const h = Math.max(1, Math.round((frame.inputHw[0] * cells) / frame.side));
      const w = Math.max(1, Math.round((frame.inputHw[1] * cells) / frame.side));
      const share = coverage(base.rle, w, h);
      for (let y = 0; y < h; y++) {
        for (let x = 0; x < w; x++) logits[y * cells + x] = PROMPT_STRENGTH * (2 * share[y * w + x] - 1);
      }
    }
  }
  const [sx, sy] = scaleXy(frame);
  const scale: Xy = [(sx * cells) / frame.side, (sy * cells) / frame.side];
  for (const stroke of strokes) {
    paint(logits, cells, cells, stroke, scale, stroke.adds ? PROMPT_STRENGTH : -PROMPT_STRENGTH);
  }
  return logits;
}

/** Logits of a closer look, which are finer, as means over the model's cells. */
function pooled(logits: Float32Array, cells: number): Float32Array {
  const fine = cellsOf(logits);
  const factor = Math.round(fine / cells);
  if (factor <= 1) return logits.slice();
  const out = new Float32Array(cells * cells);
  logits.forEach((value, i) => {
    out[Math.floor(Math.floor(i / fine) / factor) * cells + Math.floor((i % fine) / factor)] += value / factor ** 2;
  });
  return out;
}

/** A point of the photo inside the mask? */
export function contains({ base, strokes }: Shape, frame: Frame, xy: Xy): boolean {
  for (let i = strokes.length - 1; i >= 0; i--) if (touches(strokes[i], xy)) return strokes[i].adds;
  if (base.kind === "logits") {
    const cells = cellsOf(base.logits);
    const [mx, my] = toModelXy(xy, frame);
    const x = Math.min(cells - 1, Math.max(0, Math.floor((mx * cells) / frame.side)));
    const y = Math.min(cells - 1, Math.max(0, Math.floor((my * cells) / frame.side)));
    return base.logits[y * cells + x] > 0;
  }
  return false;
}

function touches(stroke: Stroke, [x, y]: Xy): boolean {
  for (let i = 0; i < stroke.xy.length; i += 2) {
    const j = Math.min(i + 2, stroke.xy.length - 2);
    if (distance2(x, y, stroke.xy[i], stroke.xy[i + 1], stroke.xy[j], stroke.xy[j + 1]) <= stroke.radius ** 2)
      return true;
  }
  return false;
}

/** Set all samples whose centre lies under the stroke. */
function paint(
  data: Uint8Array | Float32Array,
  width: number,
  height: number,
  stroke: Stroke,
  [sx, sy]: Xy,
  value: number,
): void {
  const r2 = stroke.radius ** 2;
  for (let i = 0; i < stroke.xy.length; i += 2) {
    const j = Math.min(i + 2, stroke.xy.length - 2);
    const [ax, ay, bx, by] = [stroke.xy[i], stroke.xy[i + 1], stroke.xy[j], stroke.xy[j + 1]];
    const left = Math.max(0, Math.floor((Math.min(ax, bx) - stroke.radius) * sx));
    const right = Math.min(width - 1, Math.ceil((Math.max(ax, bx) + stroke.radius) * sx));
    const top = Math.max(0, Math.floor((Math.min(ay, by) - stroke.radius) * sy));
    const bottom = Math.min(height - 1, Math.ceil((Math.max(ay, by) + stroke.radius) * sy));
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        if (distance2((x + 0.5) / sx, (y + 0.5) / sy, ax, ay, bx, by) <= r2) data[y * width + x] = value;
      }
    }
  }
}

function distance2(x: number, y: number, ax: number, ay: number, bx: number, by: number): number {
  const [dx, dy] = [bx - ax, by - ay];
  const length2 = dx * dx + dy * dy;
  const t = length2 ? Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / length2)) : 0;
  return (x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2;
}

/** Mean over 3×3 samples, so that lines around pixels have no stairs. */
function smooth(field: Float32Array, width: number, height: number): Float32Array {
  const rows = new Float32Array(field.length);
  const out = new Float32Array(field.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      rows[at] = (field[x ? at - 1 : at] + field[at] + field[x < width - 1 ? at + 1 : at]) / 3;
    }
  }
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      out[at] = (rows[y ? at - width : at] + rows[at] + rows[y < height - 1 ? at + width : at]) / 3;
    }
  }
  return out;
}
