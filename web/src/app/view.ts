// The photo on the screen: zoom, pan, and where things are.

import { clampXy, type Xy } from "../core/geometry";
import { Backdrop } from "./backdrop";
import { NO_PREVIEW, Painter, pathOf, type Preview } from "./painter";
import type { Item, Photo } from "./state";

const [ZOOM_LEAST, ZOOM_MOST] = [0.02, 32];

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
  private readonly backdrop = new Backdrop();

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
      c.drawImage(this.backdrop.of(photo, canvas, this.zoom * ratio, this.tx * ratio, this.ty * ratio), 0, 0);
      c.setTransform(this.zoom * ratio, 0, 0, this.zoom * ratio, this.tx * ratio, this.ty * ratio);
      const painter = new Painter(c, photo, this.preview, this.zoom);
      c.save();
      c.beginPath();
      c.rect(0, 0, photo.width, photo.height);
      c.clip();
      if (!this.masksHidden) painter.masks();
      c.restore();
      painter.prompts();
    }
    const told = this.afterPaint;
    this.afterPaint = [];
    for (const tell of told) tell();
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
