// The photo on the screen: zoom and pan, the objects over it as crisp lines at every zoom.

import { type Rings, ringsBox } from "../core/contours";
import { clampXy, type Xy, type Xyxy } from "../core/geometry";
import type { Stroke } from "../core/shape";
import { type Click, colourOf, type Item, type Photo, type Scene } from "./state";

export interface Preview {
  readonly hover: Rings | null;
  readonly box: Xyxy | null; // while it is drawn
  readonly stroke: Stroke | null; // while it is drawn
  readonly brush: { readonly xy: Xy; readonly radius: number; readonly adds: boolean } | null;
  readonly cross: Xy | null; // the keyboard's pointer
  readonly pending: Click | null;
}

export const NO_PREVIEW: Preview = { hover: null, box: null, stroke: null, brush: null, cross: null, pending: null };
const [ZOOM_LEAST, ZOOM_MOST] = [0.02, 32];
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

export class View {
  zoom = 1;
  private tx = 0;
  private ty = 0;
  private photo: Photo | null = null;
  private preview: Preview = NO_PREVIEW;
  private masksHidden = false;
  private frameRequested = false;
  private fitted = true;
  private readonly context: CanvasRenderingContext2D;
  private afterPaint: (() => void)[] = [];

  constructor(
    readonly canvas: HTMLCanvasElement,
    private readonly onZoom: (zoom: number) => void,
  ) {
    this.context = canvas.getContext("2d")!;
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  show(photo: Photo | null): void {
    if (this.photo !== photo) {
      this.photo = photo;
      this.preview = NO_PREVIEW;
      this.fit();
    }
    this.paintSoon();
  }

  set(preview: Partial<Preview>): void {
    this.preview = { ...this.preview, ...preview };
    this.paintSoon();
  }

  hideMasks(hidden: boolean): void {
    this.masksHidden = hidden;
    this.paintSoon();
  }

  /** Resolved when all that is set now is on the screen. */
  painted(): Promise<void> {
    this.paintSoon();
    return new Promise((resolve) => this.afterPaint.push(resolve));
  }

  // --- where things are ---------------------------------------------------------------------------------------

  toPhoto(clientX: number, clientY: number): Xy {
    const rect = this.canvas.getBoundingClientRect();
    return [(clientX - rect.left - this.tx) / this.zoom, (clientY - rect.top - this.ty) / this.zoom];
  }

  toClient([x, y]: Xy): Xy {
    const rect = this.canvas.getBoundingClientRect();
    return [x * this.zoom + this.tx + rect.left, y * this.zoom + this.ty + rect.top];
  }

  isInside([x, y]: Xy): boolean {
    return this.photo !== null && x >= 0 && y >= 0 && x <= this.photo.width && y <= this.photo.height;
  }

  fit(): void {
    this.fitted = true;
    const { clientWidth: w, clientHeight: h } = this.canvas;
    if (!this.photo || !w || !h) return;
    const margin = Math.min(32, w * 0.04);
    const bottom = Math.min(96, h * 0.14); // the candidates' bar
    this.zoom = Math.min((w - 2 * margin) / this.photo.width, (h - margin - bottom) / this.photo.height, 4);
    this.tx = (w - this.photo.width * this.zoom) / 2;
    this.ty = margin + (h - margin - bottom - this.photo.height * this.zoom) / 2;
    this.onZoom(this.zoom);
    this.paintSoon();
  }

  zoomBy(factor: number, clientX?: number, clientY?: number): void {
    if (!this.photo) return;
    const rect = this.canvas.getBoundingClientRect();
    const x = clientX ?? rect.left + rect.width / 2;
    const y = clientY ?? rect.top + rect.height / 2;
    const [px, py] = this.toPhoto(x, y);
    this.zoom = Math.min(Math.max(this.zoom * factor, ZOOM_LEAST), ZOOM_MOST);
    this.tx = x - rect.left - px * this.zoom;
    this.ty = y - rect.top - py * this.zoom;
    this.fitted = false;
    this.keepInSight();
    this.onZoom(this.zoom);
    this.paintSoon();
  }

  panBy(dx: number, dy: number): void {
    this.tx += dx;
    this.ty += dy;
    this.fitted = false;
    this.keepInSight();
    this.paintSoon();
  }

  /** Bring a point of the photo into the middle third of the view. */
  reveal([x, y]: Xy): void {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    const sx = x * this.zoom + this.tx;
    const sy = y * this.zoom + this.ty;
    if (sx < 24 || sx > w - 24) this.tx += w / 2 - sx;
    if (sy < 24 || sy > h - 24) this.ty += h / 2 - sy;
    this.paintSoon();
  }

  private keepInSight(): void {
    if (!this.photo) return;
    const { clientWidth: w, clientHeight: h } = this.canvas;
    const edge = 60;
    this.tx = Math.min(Math.max(this.tx, edge - this.photo.width * this.zoom), w - edge);
    this.ty = Math.min(Math.max(this.ty, edge - this.photo.height * this.zoom), h - edge);
  }

  private resize(): void {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    if (this.fitted) this.fit();
    this.paint();
  }

  // --- painting -----------------------------------------------------------------------------------------------

  private paintSoon(): void {
    if (this.frameRequested) return;
    this.frameRequested = true;
    requestAnimationFrame(() => {
      this.frameRequested = false;
      this.paint();
    });
  }

  private paint(): void {
    const { context: c, canvas, photo } = this;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, canvas.width, canvas.height);
    if (photo) {
      const ratio = window.devicePixelRatio || 1;
      c.setTransform(this.zoom * ratio, 0, 0, this.zoom * ratio, this.tx * ratio, this.ty * ratio);
      c.save();
      c.shadowColor = "rgb(0 0 0 / 0.28)";
      c.shadowBlur = 24 * ratio;
      c.shadowOffsetY = 6 * ratio;
      c.fillStyle = "#fff";
      c.fillRect(0, 0, photo.width, photo.height);
      c.restore();
      c.imageSmoothingEnabled = this.zoom < 4;
      c.imageSmoothingQuality = "high";
      c.drawImage(photo.view, 0, 0, photo.width, photo.height);
      c.save();
      c.beginPath();
      c.rect(0, 0, photo.width, photo.height);
      c.clip();
      if (!this.masksHidden) this.paintMasks(photo.scene);
      c.restore();
      this.paintPrompts(photo.scene);
    }
    const told = this.afterPaint;
    this.afterPaint = [];
    for (const tell of told) tell();
  }

  private paintMasks(scene: Scene): void {
    const draft = scene.draft;
    for (const item of scene.items) {
      if (!item.hidden && item.id !== draft?.edits) this.paintItem(item, scene.selected === item.id, draft !== null);
    }
    if (draft?.rings) {
      const index = draft.edits === null ? nextColour(scene.items) : colourIndex(scene, draft.edits);
      this.paintRings(draft.rings, colourOf(index, 0.42), colourOf(index), 2.2, true);
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
    const isCrowded = (this.photo?.scene.items.length ?? 0) > 6;
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
    const c = this.context;
    const path = pathOf(item.rings);
    const unit = 1 / this.zoom;
    if (item.mark === "prefilled") {
      c.save();
      c.clip(path, "evenodd");
      c.strokeStyle = colourOf(item.colour, isSelected ? 0.8 : 0.5);
      c.lineWidth = 1.5 * unit;
      const [width, height] = [this.photo!.width, this.photo!.height];
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
    const c = this.context;
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
    const c = this.context;
    c.strokeStyle = stroke.adds ? "rgb(24 170 85 / 0.55)" : "rgb(226 48 58 / 0.55)";
    c.lineWidth = 2 * stroke.radius;
    c.lineCap = "round";
    c.lineJoin = "round";
    c.beginPath();
    c.moveTo(stroke.xy[0], stroke.xy[1]);
    for (let i = 0; i < stroke.xy.length; i += 2) c.lineTo(stroke.xy[i], stroke.xy[i + 1]);
    c.stroke();
  }

  private paintPrompts(scene: Scene): void {
    const draft = scene.draft;
    if (draft?.box) this.paintBox(draft.box);
    if (this.preview.box) this.paintBox(this.preview.box);
    for (const click of draft?.clicks ?? []) this.paintClick(click, 1);
    if (this.preview.pending) this.paintClick(this.preview.pending, 0.6);
    const c = this.context;
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
    const c = this.context;
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
    const c = this.context;
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

  /** The topmost visible object at a point of the photo. */
  itemAt(xy: Xy): Item | null {
    if (!this.photo || !this.isInside(xy)) return null;
    const c = this.context;
    c.save();
    c.setTransform(1, 0, 0, 1, 0, 0);
    const found = [...this.photo.scene.items]
      .reverse()
      .find((item) => !item.hidden && c.isPointInPath(pathOf(item.rings), xy[0], xy[1], "evenodd"));
    c.restore();
    return found ?? null;
  }

  clamp(xy: Xy): Xy {
    return this.photo ? clampXy(xy, this.photo.frame.originalHw) : xy;
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
