// Pillow's antialiased bilinear filter on RGBA pixels: what the model was trained behind (PAPER §2.1).

interface Taps {
  readonly first: Int32Array;
  readonly count: Int32Array;
  readonly weights: Float32Array; // `stride` for each output pixel
  readonly stride: number;
}

function triangleTaps(source: number, target: number): Taps {
  const scale = source / target;
  const support = Math.max(scale, 1);
  const stride = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(target);
  const count = new Int32Array(target);
  const weights = new Float32Array(target * stride);
  for (let i = 0; i < target; i++) {
    const centre = (i + 0.5) * scale;
    const low = Math.max(0, Math.floor(centre - support + 0.5));
    const high = Math.min(source, Math.floor(centre + support + 0.5));
    let sum = 0;
    for (let j = low; j < high; j++) {
      const weight = Math.max(0, 1 - Math.abs((j + 0.5 - centre) / support));
      weights[i * stride + j - low] = weight;
      sum += weight;
    }
    for (let j = 0; j < high - low; j++) weights[i * stride + j] /= sum;
    first[i] = low;
    count[i] = high - low;
  }
  return { first, count, weights, stride };
}

/** RGBA (H, W) to planar RGB (3, h, w), values 0 … 255, each pass rounded to whole numbers as Pillow does. */
export function resizeToRgb(
  rgba: Uint8ClampedArray | Uint8Array,
  [height, width]: readonly [number, number],
  [h, w]: readonly [number, number],
): Uint8Array {
  const narrow = new Uint8Array(height * w * 3);
  if (w === width) {
    for (let i = 0, o = 0; i < height * width * 4; i += 4, o += 3) {
      narrow[o] = rgba[i];
      narrow[o + 1] = rgba[i + 1];
      narrow[o + 2] = rgba[i + 2];
    }
  } else {
    const { first, count, weights, stride } = triangleTaps(width, w);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < w; x++) {
        let r = 0.5;
        let g = 0.5;
        let b = 0.5;
        let at = (y * width + first[x]) * 4;
        for (let k = x * stride, end = k + count[x]; k < end; k++, at += 4) {
          const weight = weights[k];
          r += rgba[at] * weight;
          g += rgba[at + 1] * weight;
          b += rgba[at + 2] * weight;
        }
        const o = (y * w + x) * 3;
        narrow[o] = r;
        narrow[o + 1] = g;
        narrow[o + 2] = b;
      }
    }
  }
  const out = new Uint8Array(3 * h * w);
  const plane = h * w;
  const taps = h === height ? null : triangleTaps(height, h);
  const row = new Float32Array(w * 3);
  for (let y = 0; y < h; y++) {
    row.fill(taps ? 0.5 : 0);
    const start = taps ? taps.first[y] : y;
    const number = taps ? taps.count[y] : 1;
    for (let k = 0; k < number; k++) {
      const weight = taps ? taps.weights[y * taps.stride + k] : 1;
      const at = (start + k) * w * 3;
      for (let i = 0; i < w * 3; i++) row[i] += narrow[at + i] * weight;
    }
    for (let x = 0, i = 0; x < w; x++, i += 3) {
      out[y * w + x] = row[i];
      out[plane + y * w + x] = row[i + 1];
      out[2 * plane + y * w + x] = row[i + 2];
    }
  }
  return out;
}

/** Normalised and padded with zeros on the right and at the bottom: (3, S, S). */
export function toModelInput(
  rgb: Uint8Array,
  [h, w]: readonly [number, number],
  side: number,
  mean: readonly number[],
  std: readonly number[],
): Float32Array {
  const out = new Float32Array(3 * side * side);
  for (let c = 0; c < 3; c++) {
    const gain = 1 / std[c];
    for (let y = 0; y < h; y++) {
      const from = (c * h + y) * w;
      const to = (c * side + y) * side;
      for (let x = 0; x < w; x++) out[to + x] = (rgb[from + x] - mean[c]) * gain;
    }
  }
  return out;
}
