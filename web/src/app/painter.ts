// What lies over the photo: masks as crisp lines at every zoom, and what the hands do. Drawn in pixels of the photo.

import { type Rings, ringsBox } from "../core/contours";
import type { Xy, Xyxy } from "../core/geometry";
import type { Stroke } from "../core/shape";
import { type Click, colourOf, type Item, type Photo, type Scene } from "./state";

export interface Preview {
  readonly hover: Rings | null;
  readonly quick: Rings | null; // of the object being made, until its mask is there
  readonly box: Xyxy | null; // while it is drawn
  readonly stroke: Stroke | null; // while it is drawn
  readonly brush: { readonly xy: Xy; readonly radius: number; readonly adds: boolean } | null;
  readonly cross: Xy | null; // the keyboard's pointer
  readonly pending: Click | null;
}

export const NO_PREVIEW: Preview = {
  hover: null,
  quick: null,
  box: null,
  stroke: null,
  brush: null,
  cross: null,
  pending: null,
};
const ADD = "#18aa55";
const SUBTRACT = "#e2303a";
const BOX = "#ffcd1e";
const paths = new WeakMap<Rings, Path2D>();

export function pathOf(rings: Rings): Path2D {
  let path = paths.get(rings);
  if (!path) {
    path = new Path2D();
    let start = 0;
    for (const end of rings.ends) {
      path.moveTo(rings.xy[2 * start], rings.xy[2 * start + 1]);
      for (let i = start + 1; i < end; i++) path.lineTo(rings.xy[2 * i], rings.xy[2 * i + 1]);
      path.closePath();
      start = end;
    }
    paths.set(rings, path);
  }
  return path;
}

/** One picture: made anew for each. */
export class Painter {
  constructor(
    private readonly c: CanvasRenderingContext2D,
    private readonly photo: Photo,
    private readonly preview: Preview,
    private readonly zoom: number,
  ) {}

  masks(): void {
    const { scene } = this.photo;
    const draft = scene.draft;
    for (const item of scene.items) {
      if (!item.hidden && item.id !== draft?.edits) this.paintItem(item, scene.selected === item.id, draft !== null);
    }
    const rings = this.preview.quick ?? draft?.rings;
    if (rings) {
      const edits = draft?.edits ?? null;
      const index = edits === null ? nextColour(scene.items) : colourIndex(scene, edits);
      this.paintRings(rings, colourOf(index, 0.42), colourOf(index), 2.2, true);
    }
    if (this.preview.hover) {
      this.paintRings(this.preview.hover, "rgb(255 255 255 / 0.22)", "rgb(255 255 255 / 0.95)", 1.6, true);
    }
    if (this.preview.stroke) this.paintStroke(this.preview.stroke);
  }

  private paintItem(item: Item, isSelected: boolean, isDimmed: boolean): void {
    if (item.mark === "prefilled" || item.mark === "rejected") {
      this.paintOutline(item, isSelected);
      return;
    }
    const isCrowded = (this.photo.scene.items.length) > 6;
    const alpha = isSelected ? 0.5 : isDimmed ? 0.16 : isCrowded ? 0.28 : 0.38;
    this.paintRings(
      item.rings,
      colourOf(item.colour, alpha),
      colourOf(item.colour, isDimmed ? 0.6 : 1),
      isSelected ? 2.6 : 1.6,
      isSelected,
    );
  }

  /** What a model proposed is hatched and dashed, what was rejected only dotted: neither is a person's mask. */
  private paintOutline(item: Item, isSelected: boolean): void {
    const { c } = this;
    const path = pathOf(item.rings);
    const unit = 1 / this.zoom;
    if (item.mark === "prefilled") {
      c.save();
      c.clip(path, "evenodd");
      c.strokeStyle = colourOf(item.colour, isSelected ? 0.8 : 0.5);
      c.lineWidth = 1.5 * unit;
      const [width, height] = [this.photo.width, this.photo.height];
      const box = ringsBox(item.rings) ?? [0, 0, width, height];
      const step = 9 * unit;
      c.beginPath();
      for (let at = Math.floor((box[0] + box[1]) / step) * step; at < box[2] + box[3]; at += step) {
        c.moveTo(at - box[1], box[1]);
        c.lineTo(at - box[3], box[3]);
      }
      c.stroke();
      c.restore();
    } else {
      c.fillStyle = "rgb(226 48 58 / 0.14)";
      c.fill(path, "evenodd");
    }
    for (const [colour, width] of [
      ["rgb(0 0 0 / 0.5)", isSelected ? 4.4 : 3.4],
      [item.mark === "prefilled" ? colourOf(item.colour) : SUBTRACT, isSelected ? 2.6 : 1.8],
    ] as const) {
      c.setLineDash(item.mark === "prefilled" ? [8 * unit, 5 * unit] : [2 * unit, 5 * unit]);
      c.strokeStyle = colour;
      c.lineWidth = width * unit;
      c.stroke(path);
    }
    c.setLineDash([]);
  }

  private paintRings(rings: Rings, fill: string, line: string, width: number, isRaised: boolean): void {
    const { c } = this;
    const path = pathOf(rings);
    c.fillStyle = fill;
    c.fill(path, "evenodd");
    c.lineJoin = "round";
    if (isRaised) {
      c.strokeStyle = "rgb(0 0 0 / 0.45)";
      c.lineWidth = (width + 2) / this.zoom;
      c.stroke(path);
    }
    c.strokeStyle = line;
    c.lineWidth = width / this.zoom;
    c.stroke(path);
  }

  private paintStroke(stroke: Stroke): void {
    const { c } = this;
    c.strokeStyle = stroke.adds ? "rgb(24 170 85 / 0.55)" : "rgb(226 48 58 / 0.55)";
    c.lineWidth = 2 * stroke.radius;
    c.lineCap = "round";
    c.lineJoin = "round";
    c.beginPath();
    c.moveTo(stroke.xy[0], stroke.xy[1]);
    for (let i = 0; i < stroke.xy.length; i += 2) c.lineTo(stroke.xy[i], stroke.xy[i + 1]);
    c.stroke();
  }

  prompts(): void {
    const { draft } = this.photo.scene;
    if (draft?.box) this.paintBox(draft.box);
    if (this.preview.box) this.paintBox(this.preview.box);
    for (const click of draft?.clicks ?? []) this.paintClick(click, 1);
    if (this.preview.pending) this.paintClick(this.preview.pending, 0.6);
    const { c } = this;
    const { brush, cross } = this.preview;
    if (brush) {
      for (const [colour, width] of [
        ["rgb(0 0 0 / 0.6)", 3],
        [brush.adds ? "#fff" : "#ffb3b8", 1.5],
      ] as const) {
        c.strokeStyle = colour;
        c.lineWidth = width / this.zoom;
        c.beginPath();
        c.arc(brush.xy[0], brush.xy[1], brush.radius, 0, 7);
        c.stroke();
      }
    }
    if (cross) {
      const [x, y] = cross;
      const r = 14 / this.zoom;
      for (const [colour, width] of [
        ["#000", 4],
        ["#fff", 2],
      ] as const) {
        c.strokeStyle = colour;
        c.lineWidth = width / this.zoom;
        c.beginPath();
        c.moveTo(x - r, y);
        c.lineTo(x + r, y);
        c.moveTo(x, y - r);
        c.lineTo(x, y + r);
        c.stroke();
      }
    }
  }

  private paintBox([x0, y0, x1, y1]: Xyxy): void {
    const { c } = this;
    c.lineWidth = 3.5 / this.zoom;
    c.strokeStyle = "rgb(0 0 0 / 0.5)";
    c.strokeRect(x0, y0, x1 - x0, y1 - y0);
    c.lineWidth = 1.8 / this.zoom;
    c.strokeStyle = BOX;
    c.setLineDash([7 / this.zoom, 4 / this.zoom]);
    c.strokeRect(x0, y0, x1 - x0, y1 - y0);
    c.setLineDash([]);
  }

  private paintClick({ xy: [x, y], adds }: Click, alpha: number): void {
    const { c } = this;
    const r = 8 / this.zoom;
    c.globalAlpha = alpha;
    c.fillStyle = adds ? ADD : SUBTRACT;
    c.strokeStyle = "#fff";
    c.lineWidth = 2 / this.zoom;
    c.beginPath();
    c.arc(x, y, r, 0, 7);
    c.fill();
    c.stroke();
    c.beginPath();
    c.moveTo(x - r / 2, y);
    c.lineTo(x + r / 2, y);
    if (adds) {
      c.moveTo(x, y - r / 2);
      c.lineTo(x, y + r / 2);
    }
    c.stroke();
    c.globalAlpha = 1;
  }
}

/** The first of the chosen colours that no object has, then one after the other. */
export function nextColour(items: readonly Item[]): number {
  const used = new Set(items.map((item) => item.colour));
  let index = 0;
  while (used.has(index)) index++;
  return index;
}

function colourIndex(scene: Scene, id: number): number {
  return scene.items.find((item) => item.id === id)?.colour ?? 0;
}
