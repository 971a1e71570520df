// COCO run lengths: column by column, background first. As core/rle.py; tests/golden/rle.json pins both.

import type { Bitmap } from "./upscale";

export interface Rle {
  readonly size: readonly [height: number, width: number];
  readonly counts: string | readonly number[];
}

/** Run lengths of a bitmap, the first of background. */
export function toRuns({ width, height, data }: Bitmap): number[] {
  const runs: number[] = [];
  let value = 0;
  let run = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0, at = x; y < height; y++, at += width) {
      if (data[at] === value) {
        run++;
      } else {
        runs.push(run);
        run = 1;
        value = data[at];
      }
    }
  }
  runs.push(run);
  return runs;
}

export function fromRuns(runs: readonly number[], height: number, width: number): Bitmap {
  const data = new Uint8Array(width * height);
  let at = 0;
  for (let i = 0; i < runs.length; i++) {
    const end = at + runs[i];
    if (i % 2) for (; at < end; at++) data[(at % height) * width + ((at / height) | 0)] = 1;
    at = end;
  }
  if (at !== width * height) throw new Error(`run lengths sum to ${at}, expected ${height}×${width}.`);
  return { width, height, data };
}

/** COCO's text form: 5 bits a character, from the fourth run on the difference to the run before the last. */
export function packRuns(runs: readonly number[]): string {
  let text = "";
  for (let i = 0; i < runs.length; i++) {
    let x = i > 2 ? runs[i] - runs[i - 2] : runs[i];
    for (let more = true; more; ) {
      let code = x & 31;
      x >>= 5;
      more = code & 16 ? x !== -1 : x !== 0;
      if (more) code |= 32;
      text += String.fromCharCode(code + 48);
    }
  }
  return text;
}

export function unpackRuns(text: string): number[] {
  const runs: number[] = [];
  for (let at = 0; at < text.length; ) {
    let x = 0;
    let shift = 0;
    for (let more = true; more; ) {
      const code = text.charCodeAt(at++) - 48;
      if (!(code >= 0 && code < 64)) throw new Error("these are not COCO's compressed run lengths.");
      x |= (code & 31) << shift;
      shift += 5;
      more = (code & 32) !== 0;
      if (!more && code & 16 && shift < 32) x |= -1 << shift;
    }
    runs.push(runs.length > 2 ? x + runs[runs.length - 2] : x);
  }
  return runs;
}

export function encodeRle(bitmap: Bitmap): Rle {
  return { size: [bitmap.height, bitmap.width], counts: packRuns(toRuns(bitmap)) };
}

export function runsOf(rle: Rle): readonly number[] {
  return typeof rle.counts === "string" ? unpackRuns(rle.counts) : rle.counts;
}

export function decodeRle(rle: Rle): Bitmap {
  return fromRuns(runsOf(rle), rle.size[0], rle.size[1]);
}

/** A rectangle of the photo in pixels: left, top, width, height. */
export type Rect = readonly [x: number, y: number, w: number, h: number];

/** Share of each of `width`×`height` equal rectangles of the photo, or of a part of it, that the mask covers, 0 … 1. */
export function coverage(rle: Rle, width: number, height: number, part?: Rect): Float32Array {
  const [fullH, fullW] = rle.size;
  const [left, top, w, h] = part ?? [0, 0, fullW, fullH];
  const out = new Float32Array(width * height);
  const rows = Int32Array.from({ length: h }, (_, y) => Math.min(height - 1, Math.floor((y * height) / h)));
  const columns = Int32Array.from({ length: w }, (_, x) => Math.min(width - 1, Math.floor((x * width) / w)));
  let at = 0;
  runsOf(rle).forEach((run, i) => {
    if (i % 2) {
      for (let k = at; k < at + run; k++) {
        const x = ((k / fullH) | 0) - left;
        const y = (k % fullH) - top;
        if (x >= 0 && x < w && y >= 0 && y < h) out[rows[y] * width + columns[x]]++;
      }
    }
    at += run;
  });
  const perRow = new Float32Array(height);
  const perColumn = new Float32Array(width);
  for (const row of rows) perRow[row]++;
  for (const column of columns) perColumn[column]++;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) out[y * width + x] /= perRow[y] * perColumn[x] || 1;
  }
  return out;
}

/** The tight box of a mask without decoding it; null for an empty one. */
export function rleBox(rle: Rle): Rect | null {
  const height = rle.size[0];
  let [x0, y0, x1, y1] = [Infinity, Infinity, -1, -1];
  let at = 0;
  runsOf(rle).forEach((run, i) => {
    if (i % 2 && run) {
      const last = at + run - 1;
      const [firstX, lastX] = [Math.floor(at / height), Math.floor(last / height)];
      x0 = Math.min(x0, firstX);
      x1 = Math.max(x1, lastX);
      y0 = Math.min(y0, firstX === lastX ? at % height : 0);
      y1 = Math.max(y1, firstX === lastX ? last % height : height - 1);
    }
    at += run;
  });
  return x1 < 0 ? null : [x0, y0, x1 - x0 + 1, y1 - y0 + 1];
}

/** Pixels inside, and the tight box x, y, w, h counting columns and rows. */
export function measure({ width, height, data }: Bitmap): { area: number; box: [number, number, number, number] } {
  let area = 0;
  let [x0, y0, x1, y1] = [width, height, -1, -1];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!data[at]) continue;
      area++;
      if (x < x0) x0 = x;
      if (x > x1) x1 = x;
      if (y < y0) y0 = y;
      y1 = y;
    }
  }
  return { area, box: area ? [x0, y0, x1 - x0 + 1, y1 - y0 + 1] : [0, 0, 0, 0] };
}
