// Soft edges for cut-outs: the mask's alpha, blurred by a box three times, which is nearly a Gaussian.

import type { Bitmap } from "./upscale";

/** Alpha 0 … 255 of a mask whose edge runs out over about `radius` pixels to both sides. */
export function feather({ width, height, data }: Bitmap, radius: number): Uint8ClampedArray {
  let field: Float32Array = Float32Array.from(data, (v) => v * 255);
  const reach = Math.round(radius / 2);
  if (reach > 0) {
    for (let pass = 0; pass < 3; pass++) {
      field = blurRows(field, width, height, reach, 1, width);
      field = blurRows(field, height, width, reach, width, 1);
    }
  }
  return Uint8ClampedArray.from(field);
}

/** Box mean along lines of `length` samples, `step` apart; lines are `jump` apart. */
function blurRows(
  field: Float32Array,
  length: number,
  lines: number,
  reach: number,
  step: number,
  jump: number,
): Float32Array {
  const out = new Float32Array(field.length);
  const gain = 1 / (2 * reach + 1);
  for (let line = 0; line < lines; line++) {
    const base = line * jump;
    const at = (i: number): number => field[base + Math.min(Math.max(i, 0), length - 1) * step];
    let sum = 0;
    for (let i = -reach; i <= reach; i++) sum += at(i);
    for (let i = 0; i < length; i++) {
      out[base + i * step] = sum * gain;
      sum += at(i + reach + 1) - at(i - reach);
    }
  }
  return out;
}
