// Small pictures of one object: the photo around it, dimmed, and the object in its colour.

import { type Rings, ringsBox } from "../core/contours";
import type { Photo } from "./state";
import { pathOf } from "./painter";

export function paintThumb(canvas: HTMLCanvasElement, photo: Photo, rings: Rings | null, colour: string): void {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const [width, height] = [canvas.clientWidth || 56, canvas.clientHeight || 44];
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const c = canvas.getContext("2d")!;
  const box = (rings && ringsBox(rings)) || [0, 0, photo.width, photo.height];
  const [x, y] = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
  const scale = Math.min(width / ((box[2] - box[0]) * 1.25 + 8), height / ((box[3] - box[1]) * 1.25 + 8));
  c.setTransform(scale * ratio, 0, 0, scale * ratio, (width / 2 - x * scale) * ratio, (height / 2 - y * scale) * ratio);
  c.imageSmoothingQuality = "medium";
  c.globalAlpha = rings ? 0.3 : 1;
  c.drawImage(photo.view, 0, 0, photo.width, photo.height);
  c.globalAlpha = 1;
  if (!rings) return;
  const path = pathOf(rings);
  c.save();
  c.clip(path, "evenodd");
  c.drawImage(photo.view, 0, 0, photo.width, photo.height);
  c.restore();
  c.strokeStyle = colour;
  c.lineWidth = 2 / scale;
  c.lineJoin = "round";
  c.stroke(path);
}
