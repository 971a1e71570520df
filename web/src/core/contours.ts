// The line where a field crosses a level, as closed rings with sub-cell precision (marching squares).

/** Rings one after the other: xy holds x, y, x, y …; ends[i] is where ring i ends, in points. */
export interface Rings {
  readonly xy: Float32Array;
  readonly ends: Uint32Array;
}

/**
 * Rings around the samples above `level`. Sample (i, j) lies at (i + 0.5, j + 0.5); the field goes on beyond its
 * border for one more cell, so that a mask cut off by the photo's edge reaches over it.
 */
export function contours(field: Float32Array, width: number, height: number, level = 0): Rings {
  const w = width + 4;
  const h = height + 4;
  const padded = new Float32Array(w * h).fill(-1e3);
  for (let y = 1; y < h - 1; y++) {
    const from = Math.min(Math.max(y - 2, 0), height - 1) * width;
    const to = y * w;
    padded.set(field.subarray(from, from + width), to + 2);
    padded[to + 1] = field[from];
    padded[to + 2 + width] = field[from + width - 1];
  }
  if (level !== 0) for (let i = 0; i < padded.length; i++) padded[i] -= level;

  // an edge between two samples is 2·(y·w + x) to the right and 2·(y·w + x) + 1 downwards; `next` leads from edge to edge
  // with the inside on the left, so each edge that is crossed has one successor
  const next = new Map<number, number>();
  for (let y = 0; y < h - 1; y++) {
    for (let x = 0; x < w - 1; x++) {
      const at = y * w + x;
      const code =
        (padded[at] > 0 ? 8 : 0) |
        (padded[at + 1] > 0 ? 4 : 0) |
        (padded[at + w + 1] > 0 ? 2 : 0) |
        (padded[at + w] > 0 ? 1 : 0);
      if (code === 0 || code === 15) continue;
      const top = 2 * at;
      const left = top + 1;
      const right = 2 * (at + 1) + 1;
      const bottom = 2 * (at + w);
      switch (code) {
        case 1:
          next.set(bottom, left);
          break;
        case 2:
          next.set(right, bottom);
          break;
        case 3:
          next.set(right, left);
          break;
        case 4:
          next.set(top, right);
          break;
        case 5:
          next.set(top, left);
          next.set(bottom, right);
          break;
        case 6:
          next.set(top, bottom);
          break;
        case 7:
          next.set(top, left);
          break;
        case 8:
          next.set(left, top);
          break;
        case 9:
          next.set(bottom, top);
          break;
        case 10:
          next.set(left, bottom);
          next.set(right, top);
          break;
        case 11:
          next.set(right, top);
          break;
        case 12:
          next.set(left, right);
          break;
        case 13:
          next.set(bottom, right);
          break;
        case 14:
          next.set(left, bottom);
          break;
      }
    }
  }
  const xy: number[] = [];
  const ends: number[] = [];
  for (const start of next.keys()) {
    let edge = start;
    while (true) {
      const following = next.get(edge);
      if (following === undefined) break;
      next.delete(edge);
      const at = edge >> 1;
      const step = edge & 1 ? w : 1;
      const part = padded[at] / (padded[at] - padded[at + step]);
      const x = at % w;
      const y = (at - x) / w;
      xy.push(x - 1.5 + (edge & 1 ? 0 : part), y - 1.5 + (edge & 1 ? part : 0));
      edge = following;
    }
    if (xy.length / 2 > (ends.at(-1) ?? 0)) ends.push(xy.length / 2);
  }
  return { xy: Float32Array.from(xy), ends: Uint32Array.from(ends) };
}

/** The same rings with every point scaled, then moved. */
export function placeRings({ xy, ends }: Rings, sx: number, sy: number, dx = 0, dy = 0): Rings {
  const out = new Float32Array(xy.length);
  for (let i = 0; i < xy.length; i += 2) {
    out[i] = xy[i] * sx + dx;
    out[i + 1] = xy[i + 1] * sy + dy;
  }
  return { xy: out, ends };
}

/** Area inside the rings; holes run the other way round and count against it. */
export function ringsArea({ xy, ends }: Rings): number {
  let [sum, start] = [0, 0];
  for (const end of ends) {
    for (let i = start; i < end; i++) {
      const j = i + 1 < end ? i + 1 : start;
      sum += xy[2 * i] * xy[2 * j + 1] - xy[2 * j] * xy[2 * i + 1];
    }
    start = end;
  }
  return Math.abs(sum) / 2;
}

/** x0, y0, x1, y1 around the rings; null where there are none. */
export function ringsBox({ xy }: Rings): [number, number, number, number] | null {
  let [x0, y0, x1, y1] = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < xy.length; i += 2) {
    x0 = Math.min(x0, xy[i]);
    x1 = Math.max(x1, xy[i]);
    y0 = Math.min(y0, xy[i + 1]);
    y1 = Math.max(y1, xy[i + 1]);
  }
  return xy.length ? [x0, y0, x1, y1] : null;
}
