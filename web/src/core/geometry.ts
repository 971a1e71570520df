// The one resize-and-pad rule, as core/geometry.py has it; tests/golden/geometry.json pins both.

export type Hw = readonly [height: number, width: number];
export type Xy = readonly [x: number, y: number];
export type Xyxy = readonly [x0: number, y0: number, x1: number, y1: number];

/** Where a photo lies in the model's square of `side` pixels. */
export interface Frame {
  readonly originalHw: Hw;
  readonly inputHw: Hw;
  readonly side: number;
}

/** Size after scaling the longer side to `side`, each side rounded half up on its own, at least 1. */
export function scaledHw([height, width]: Hw, side: number): Hw {
  const scale = side / Math.max(height, width);
  return [Math.max(1, Math.floor(height * scale + 0.5)), Math.max(1, Math.floor(width * scale + 0.5))];
}

export function frameOf(originalHw: Hw, side: number): Frame {
  return { originalHw, inputHw: scaledHw(originalHw, side), side };
}

/** Factors from original pixels to the model's frame. */
export function scaleXy(frame: Frame): Xy {
  return [frame.inputHw[1] / frame.originalHw[1], frame.inputHw[0] / frame.originalHw[0]];
}

export function toModelXy([x, y]: Xy, frame: Frame): Xy {
  const [sx, sy] = scaleXy(frame);
  return [x * sx, y * sy];
}

export function toOriginalXy([x, y]: Xy, frame: Frame): Xy {
  const [sx, sy] = scaleXy(frame);
  return [x / sx, y / sy];
}

export function toModelXyxy([x0, y0, x1, y1]: Xyxy, frame: Frame): Xyxy {
  const [sx, sy] = scaleXy(frame);
  return [x0 * sx, y0 * sy, x1 * sx, y1 * sy];
}

/** A box from two corners in any order. */
export function boxOf(a: Xy, b: Xy): Xyxy {
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
}

export function clampXy([x, y]: Xy, [height, width]: Hw): Xy {
  return [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
}
