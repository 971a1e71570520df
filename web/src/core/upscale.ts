// Low-resolution logits to a mask of any size: bilinear to S×S, crop the padding, bilinear to the photo, both steps
// in one pass. Both are weighted means along one axis at a time, so together they are three weights a pixel.

import type { Frame } from "./geometry";

/** Pixels of a photo or of a smaller copy of it: 1 inside, 0 outside, row by row. */
export interface Bitmap {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

interface Axis {
  readonly first: Int32Array;
  readonly weights: Float32Array; // TAPS each
}

const TAPS = 4;

function twoTaps(target: number, source: number): { low: Int32Array; part: Float64Array } {
  const low = new Int32Array(target);
  const part = new Float64Array(target);
  for (let i = 0; i < target; i++) {
    const position = Math.max(0, (i + 0.5) * (source / target) - 0.5);
    low[i] = Math.min(Math.floor(position), source - 1);
    part[i] = Math.fround(position - low[i]);
  }
  return { low, part };
}

function axisOf(cells: number, side: number, scaled: number, pixels: number): Axis {
  const inner = twoTaps(side, cells);
  const outer = twoTaps(pixels, scaled);
  const first = new Int32Array(pixels);
  const weights = new Float32Array(pixels * TAPS);
  for (let i = 0; i < pixels; i++) {
    const base = inner.low[outer.low[i]];
    first[i] = Math.max(0, Math.min(base, cells - TAPS));
    for (const [sample, share] of [
      [outer.low[i], 1 - outer.part[i]],
      [Math.min(outer.low[i] + 1, scaled - 1), outer.part[i]],
    ] as const) {
      const cell = inner.low[sample];
      const part = inner.part[sample];
      weights[i * TAPS + cell - first[i]] += share * (1 - part);
      weights[i * TAPS + Math.min(cell + 1, cells - 1) - first[i]] += share * part;
    }
  }
  return { first, weights };
}

const axes = new Map<string, Axis>();

function axisCached(cells: number, side: number, scaled: number, pixels: number): Axis {
  const key = `${cells} ${side} ${scaled} ${pixels}`;
  let axis = axes.get(key);
  if (!axis) {
    if (axes.size > 16) axes.clear();
    axis = axisOf(cells, side, scaled, pixels);
    axes.set(key, axis);
  }
  return axis;
}

/** Logits (n×n) above the threshold, at `width`×`height` pixels spread over the photo. */
export function upscaleMask(
  logits: Float32Array,
  cells: number,
  frame: Frame,
  width: number,
  height: number,
  threshold = 0,
): Bitmap {
  const columns = axisCached(cells, frame.side, frame.inputHw[1], width);
  const rows = axisCached(cells, frame.side, frame.inputHw[0], height);
  const data = new Uint8Array(width * height);
  const wide = new Float32Array(cells * width);
  const isWide = new Uint8Array(cells);
  const reaches = new Uint8Array(cells);
  let left = cells;
  let right = -1;
  for (let y = 0; y < cells; y++) {
    for (let x = 0; x < cells; x++) {
      if (logits[y * cells + x] > threshold) {
        reaches[y] = 1;
        if (x < left) left = x;
        if (x > right) right = x;
      }
    }
  }
  let start = 0;
  while (start < width && columns.first[start] + TAPS - 1 < left) start++;
  let end = width;
  while (end > start && columns.first[end - 1] > right) end--;
  const widen = (y: number): void => {
    if (isWide[y]) return;
    isWide[y] = 1;
    const from = y * cells;
    for (let x = start; x < end; x++) {
      const at = from + columns.first[x];
      const k = x * TAPS;
      const w = columns.weights;
      wide[y * width + x] =
        logits[at] * w[k] + logits[at + 1] * w[k + 1] + logits[at + 2] * w[k + 2] + logits[at + 3] * w[k + 3];
    }
  };
  for (let y = 0; y < height; y++) {
    const top = rows.first[y];
    if (!(reaches[top] || reaches[top + 1] || reaches[top + 2] || reaches[top + 3])) continue;
    for (let k = 0; k < TAPS; k++) widen(top + k);
    const k = y * TAPS;
    const [a, b, c, d] = [rows.weights[k], rows.weights[k + 1], rows.weights[k + 2], rows.weights[k + 3]];
    const at = top * width;
    for (let x = start; x < end; x++) {
      const value =
        wide[at + x] * a + wide[at + width + x] * b + wide[at + 2 * width + x] * c + wide[at + 3 * width + x] * d;
      if (value > threshold) data[y * width + x] = 1;
    }
  }
  return { width, height, data };
}
