// A closer look at something small, as predict/zoom.py has it: where the crop lies, and how prompts and logits travel
// between the photo and the crop.

import type { Decoded, Prompt } from "./protocol";
import { type Frame, scaleXy, type Xy, type Xyxy } from "../core/geometry";

const OUTSIDE = -32; // logits beyond a crop
const BOX_MARGIN = 1.3;
const GUESS_MARGIN = 1.5;
const MIN_CROP_PX = 48;

/** Pixels of the photo, the last two exclusive. */
export type Window = readonly [x0: number, y0: number, x1: number, y1: number];

/** Where to look for a prompt that was answered on the whole photo; null where a crop would show no more. */
export function windowOf(prompt: Prompt, first: readonly Decoded[], frame: Frame, cropSide: number): Window | null {
  const found = first
    .map(({ logits }) => boxOfLogits(logits, Math.round(Math.sqrt(logits.length)), frame))
    .filter((box) => box !== null)
    .sort((a, b) => (a[2] - a[0]) * (a[3] - a[1]) - (b[2] - b[0]) * (b[3] - b[1]));
  const seen = prompt.box ?? found[Math.floor(found.length / 2)];
  if (!seen) return null;
  const box = [...seen] as [number, number, number, number];
  prompt.points.forEach(([x, y], i) => {
    if (prompt.labels[i] !== 1) return;
    box[0] = Math.min(box[0], x);
    box[1] = Math.min(box[1], y);
    box[2] = Math.max(box[2], x);
    box[3] = Math.max(box[3], y);
  });
  return windowAround(box, frame, cropSide, prompt.box ? BOX_MARGIN : GUESS_MARGIN);
}

/** The prompt in pixels of the crop, whose frame is `crop`; background clicks beyond it say nothing there. */
export function movedPrompt(prompt: Prompt, photo: Frame, [x0, y0, x1, y1]: Window, crop: Frame, cells: number): Prompt {
  const isInside = ([x, y]: Xy) => x >= x0 && x <= x1 && y >= y0 && y <= y1;
  const kept = prompt.points.map((xy, i) => [xy, prompt.labels[i]] as const).filter(([xy]) => isInside(xy));
  const { box, mask } = prompt;
  return {
    points: kept.map(([[x, y]]) => [x - x0, y - y0] as const),
    labels: kept.map(([, label]) => label),
    box: box && [box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0],
    mask: mask && resample(mask, { frame: photo, cells, at: [0, 0] }, { frame: crop, cells, at: [x0, y0] }),
  };
}

/** A square around a box, `margin` times its longer side; null where a crop would show no more than the photo. */
export function windowAround(box: Xyxy, frame: Frame, cropSide: number, margin: number): Window | null {
  const [height, width] = frame.originalHw;
  const [x0, y0] = [Math.max(Math.floor(box[0]), 0), Math.max(Math.floor(box[1]), 0)];
  const [x1, y1] = [Math.min(Math.ceil(box[2]) + 1, width), Math.min(Math.ceil(box[3]) + 1, height)];
  const length = Math.max(MIN_CROP_PX, margin * Math.max(x1 - x0, y1 - y0));
  if (cropSide / length <= Math.max(...scaleXy(frame))) return null;
  const left = Math.min(Math.max(0, (x0 + x1 - length) / 2), Math.max(0, width - length));
  const top = Math.min(Math.max(0, (y0 + y1 - length) / 2), Math.max(0, height - length));
  return [
    Math.trunc(Math.min(left, x0)), Math.trunc(Math.min(top, y0)),
    Math.trunc(Math.min(width, Math.max(left + length, x1))), Math.trunc(Math.min(height, Math.max(top + length, y1))),
  ];
}

/** Box in pixels of the photo of the logits (n×n) above zero; null where none is. */
export function boxOfLogits(logits: Float32Array, cells: number, frame: Frame): Xyxy | null {
  let [left, top, right, bottom] = [cells, cells, -1, -1];
  for (let y = 0; y < cells; y++) {
    for (let x = 0; x < cells; x++) {
      if (logits[y * cells + x] <= 0) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  if (right < 0) return null;
  const [sx, sy] = stepXy(frame, cells);
  const [height, width] = frame.originalHw;
  const box = [left * sx, top * sy, Math.min((right + 1) * sx - 1, width - 1), Math.min((bottom + 1) * sy - 1, height - 1)];
  return box[0] <= box[2] && box[1] <= box[3] ? (box as unknown as Xyxy) : null;
}

/** Pixels of the photo from one cell of n×n to the next. */
function stepXy(frame: Frame, cells: number): Xy {
  const [sx, sy] = scaleXy(frame);
  return [frame.side / cells / sx, frame.side / cells / sy];
}

interface Field {
  readonly frame: Frame;
  readonly cells: number;
  readonly at: Xy; // its corner, in pixels of the photo
}

/** Logits (n×n) of one field on the cells of another, linear between cells, far below zero beyond it. */
export function resample(logits: Float32Array, source: Field, target: Field): Float32Array {
  const own = stepXy(source.frame, source.cells);
  const step = stepXy(target.frame, target.cells);
  const n = source.cells;
  const taps = [0, 1].map((axis) =>
    Array.from({ length: target.cells }, (_, i) => {
      const place = (target.at[axis] - source.at[axis] + (i + 0.5) * step[axis]) / own[axis] + 0.5;
      const position = Math.min(Math.max(place, 0), n + 1);
      const low = Math.min(Math.floor(position), n);
      return [low - 1, position - low] as const;
    }),
  );
  const value = (x: number, y: number) => (x < 0 || y < 0 || x >= n || y >= n ? OUTSIDE : logits[y * n + x]);
  const out = new Float32Array(target.cells ** 2);
  taps[1].forEach(([y, partY], row) => {
    taps[0].forEach(([x, partX], column) => {
      const upper = value(x, y) + (value(x + 1, y) - value(x, y)) * partX;
      const lower = value(x, y + 1) + (value(x + 1, y + 1) - value(x, y + 1)) * partX;
      out[row * target.cells + column] = upper + (lower - upper) * partY;
    });
  });
  return out;
}
