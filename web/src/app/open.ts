// Files to photos: anything that is no picture, or too much of one, is told before it costs memory.

import { frameOf } from "../core/geometry";
import { peekSize } from "./peek";
import { Photo } from "./state";

export const MOST_PIXELS = 150_000_000;
const VIEW_LONGEST = 4096; // pixels a side of the copy on the screen; exports use the file itself

export class NotAPhoto extends Error {}

export async function openPhoto(
  file: Blob,
  name: string,
  key: number,
  side: number,
  storedId: number | null = null,
): Promise<Photo> {
  const size = await peekSize(file);
  if (size && size[0] * size[1] > MOST_PIXELS) {
    throw new NotAPhoto(`${name} has ${megapixels(size[0] * size[1])} megapixels; up to ${MOST_PIXELS / 1e6} can be opened. Shrink it first.`);
  }
  let full: ImageBitmap;
  try {
    full = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new NotAPhoto(`${name} is not a photo that this browser can open. Use JPEG, PNG, WebP, AVIF or GIF.`);
  }
  if (full.width * full.height > MOST_PIXELS) {
    full.close();
    throw new NotAPhoto(`${name} is larger than ${MOST_PIXELS / 1e6} megapixels. Shrink it first.`);
  }
  const frame = frameOf([full.height, full.width], side);
  const longest = Math.max(full.width, full.height);
  if (longest <= VIEW_LONGEST) return new Photo(key, name, file, full, frame, storedId);
  const view = await createImageBitmap(full, {
    resizeWidth: Math.max(1, Math.round((full.width * VIEW_LONGEST) / longest)),
    resizeHeight: Math.max(1, Math.round((full.height * VIEW_LONGEST) / longest)),
    resizeQuality: "high",
  });
  full.close();
  return new Photo(key, name, file, view, frame, storedId);
}

function megapixels(pixels: number): string {
  return Math.round(pixels / 1e6).toLocaleString("en");
}
