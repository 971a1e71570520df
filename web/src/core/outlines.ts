// Masks as polygons along the edges of their pixels, as predict/formats/outlines.py: exact, holes filled.

import type { Bitmap } from "./upscale";

/** Outer outlines, one for each island (8-connected), each x, y, x, y … in whole pixels. */
export function outlines({ width, height, data }: Bitmap): number[][] {
  const inside = (x: number, y: number): boolean =>
    x >= 0 && y >= 0 && x < width && y < height && data[y * width + x] === 1;
  // background that touches the border, over edges only; what it does not reach is a hole and counts as inside
  const outer = new Uint8Array((width + 2) * (height + 2));
  const stack = [0];
  outer[0] = 1;
  while (stack.length) {
    const at = stack.pop()!;
    const x = at % (width + 2);
    const y = (at - x) / (width + 2);
    for (const [nx, ny] of [
      [x + 1, y],
      [x - 1, y],
      [x, y + 1],
      [x, y - 1],
    ]) {
      if (nx < 0 || ny < 0 || nx > width + 1 || ny > height + 1) continue;
      const to = ny * (width + 2) + nx;
      if (outer[to] || inside(nx - 1, ny - 1)) continue;
      outer[to] = 1;
      stack.push(to);
    }
  }
  const filled = (x: number, y: number): boolean => !outer[(y + 1) * (width + 2) + x + 1];
  const rings: number[][] = [];
  const seen = new Set<number>(); // top edges that a ring has passed
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!filled(x, y) || (y > 0 && filled(x, y - 1)) || seen.has(y * width + x)) continue;
      rings.push(follow(filled, x, y, (ex, ey) => seen.add(ey * width + ex)));
    }
  }
  return rings;
}

/** Walk around pixels from the top edge of (x, y), the inside on the right hand; at corners that touch, stay inside. */
function follow(
  filled: (x: number, y: number) => boolean,
  startX: number,
  startY: number,
  passedTop: (x: number, y: number) => void,
): number[] {
  // the corner we stand on and the direction we leave it in: right, down, left, up
  const [dx, dy] = [
    [1, 0, -1, 0],
    [0, 1, 0, -1],
  ];
  let [x, y, direction] = [startX, startY, 0];
  const ring: number[] = [];
  do {
    if (direction === 0) passedTop(x, y);
    const [nx, ny] = [x + dx[direction], y + dy[direction]];
    // the two pixels ahead of the new corner: on the left and on the right of our way
    const ahead: Record<number, [number, number, number, number]> = {
      0: [nx, ny - 1, nx, ny],
      1: [nx, ny, nx - 1, ny],
      2: [nx - 1, ny, nx - 1, ny - 1],
      3: [nx - 1, ny - 1, nx, ny - 1],
    };
    const [lx, ly, rx, ry] = ahead[direction];
    let turned = direction;
    if (filled(lx, ly)) turned = (direction + 3) % 4;
    else if (!filled(rx, ry)) turned = (direction + 1) % 4;
    [x, y] = [nx, ny];
    if (turned !== direction) ring.push(x, y);
    direction = turned;
  } while (x !== startX || y !== startY || direction !== 0);
  return ring;
}

/** One outline of several: paths of no width lead along the pixels' edges to the next and back. */
export function joined(rings: readonly number[][]): number[] {
  const [first, ...rest] = rings;
  if (!rest.length) return first ?? [];
  const [sx, sy] = first;
  const out = [...first, sx, sy];
  for (const ring of rest) out.push(ring[0], sy, ...ring, ring[0], ring[1], ring[0], sy, sx, sy);
  return out;
}
