// Specks of a few cells that a small model leaves around a mask and in it: turned over before anything is shown.

/** Smallest island or hole kept, in cells of the logits (0.06 % of the model's square at 256×256). */
export const LEAST_CELLS = 40;

/** Turn islands and holes under `least` cells over, in place; the largest island always stays. */
export function tidy(logits: Float32Array, cells: number, least = LEAST_CELLS): Float32Array {
  const label = new Int32Array(logits.length);
  const sizes = [0];
  const inside = [false];
  const stack = new Int32Array(logits.length);
  let largest = 0;
  for (let start = 0; start < logits.length; start++) {
    if (label[start]) continue;
    const is = logits[start] > 0;
    const id = sizes.length;
    let top = 0;
    let size = 0;
    stack[top++] = start;
    label[start] = id;
    while (top) {
      const at = stack[--top];
      size++;
      const x = at % cells;
      const visit = (to: number): void => {
        if (!label[to] && logits[to] > 0 === is) {
          label[to] = id;
          stack[top++] = to;
        }
      };
      if (x > 0) visit(at - 1);
      if (x < cells - 1) visit(at + 1);
      if (at >= cells) visit(at - cells);
      if (at < logits.length - cells) visit(at + cells);
    }
    sizes.push(size);
    inside.push(is);
    if (is && size > (largest ? sizes[largest] : 0)) largest = id;
  }
  for (let i = 0; i < logits.length; i++) {
    const id = label[i];
    if (sizes[id] < least && id !== largest) logits[i] = inside[id] ? Math.min(-logits[i], -0.05) : Math.max(-logits[i], 0.05);
  }
  return logits;
}
