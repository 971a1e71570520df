// Specks of a few cells that a small model leaves around a mask and in it: turned over before anything is shown.

/** Smallest island or hole kept, in cells of the logits (0.06 % of the model's square at 256×256). */
export const LEAST_CELLS = 40;
const LEVEL = 0.05; // of cells that were turned over, at least

/** Turn islands, then holes under `least` cells over, in place; the largest island always stays. */
export function tidy(logits: Float32Array, cells: number, least = LEAST_CELLS): Float32Array {
  turnSmall(logits, cells, least, true); // first, so that a hole in a speck goes with it
  turnSmall(logits, cells, least, false);
  return logits;
}

function turnSmall(logits: Float32Array, cells: number, least: number, islands: boolean): void {
  const seen = new Uint8Array(logits.length);
  const region = new Int32Array(logits.length); // of the region in hand: filled from the front
  const small: Int32Array[] = [];
  let largest = 0; // cells of the largest region of this kind
  for (let start = 0; start < logits.length; start++) {
    if (seen[start] || logits[start] > 0 !== islands) continue;
    let size = 0;
    region[size++] = start;
    seen[start] = 1;
    for (let next = 0; next < size; next++) {
      const at = region[next];
      const x = at % cells;
      for (const to of [x > 0 ? at - 1 : -1, x < cells - 1 ? at + 1 : -1, at - cells, at + cells]) {
        if (to < 0 || to >= logits.length || seen[to] || logits[to] > 0 !== islands) continue;
        seen[to] = 1;
        region[size++] = to;
      }
    }
    largest = Math.max(largest, size);
    if (size < least) small.push(region.slice(0, size));
  }
  let keepsOne = islands && largest < least;
  for (const cellsOf of small) {
    if (keepsOne && cellsOf.length === largest) {
      keepsOne = false;
      continue;
    }
    for (const at of cellsOf) logits[at] = islands ? Math.min(-logits[at], -LEVEL) : Math.max(-logits[at], LEVEL);
  }
}
