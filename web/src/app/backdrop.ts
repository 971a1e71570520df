// The photo as it lies under the masks. Its shadow and its smoothing are the dear part of a picture, and they change only
// when it moves: drawn once for a place, and copied from then on.

import type { Photo } from "./state";

export class Backdrop {
  private readonly canvas = new OffscreenCanvas(1, 1);
  private drawn: readonly unknown[] = [];

  /** The size of `like`, the photo's pixels `scale` as large and moved by tx, ty of its own. */
  of(photo: Photo, like: HTMLCanvasElement, scale: number, tx: number, ty: number): OffscreenCanvas {
    const wanted = [photo, like.width, like.height, scale, tx, ty];
    if (wanted.some((value, i) => value !== this.drawn[i])) {
      this.drawn = wanted;
      this.draw(photo, like, scale, tx, ty);
    }
    return this.canvas;
  }

  private draw(photo: Photo, like: HTMLCanvasElement, scale: number, tx: number, ty: number): void {
    this.canvas.width = like.width; // clears it, too
    this.canvas.height = like.height;
    const c = this.canvas.getContext("2d")!;
    const ratio = window.devicePixelRatio || 1;
    c.setTransform(scale, 0, 0, scale, tx, ty);
    c.save();
    c.shadowColor = "rgb(0 0 0 / 0.28)";
    c.shadowBlur = 24 * ratio;
    c.shadowOffsetY = 6 * ratio;
    c.fillStyle = "#fff";
    c.fillRect(0, 0, photo.width, photo.height);
    c.restore();
    c.imageSmoothingEnabled = scale < 4 * ratio;
    c.imageSmoothingQuality = "high";
    c.drawImage(photo.view, 0, 0, photo.width, photo.height);
  }
}
