// Masks for labelling tools: CVAT's XML and Label Studio's brushes, as predict/formats writes and reads them.

import { measure } from "./rle";
import type { MaskOut, PhotoOut } from "./formats";
import type { Bitmap } from "./upscale";

/** CVAT for images 1.1, with run lengths; empty masks are left out, CVAT does not take them. */
export function cvat(photos: readonly PhotoOut[], unnamed: string): string {
  const images = photos.map((photo, i) => {
    const masks = photo.masks.map((mask) => cvatMask(mask, unnamed)).join("");
    return `<image id="${i + 1}" name="${xml(photo.fileName)}" width="${photo.width}" height="${photo.height}">${masks}</image>`;
  });
  return `<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>${images.join("")}</annotations>\n`;
}

function cvatMask(mask: MaskOut, unnamed: string): string {
  const { area, box } = measure(mask.bitmap);
  if (!area) return "";
  const [left, top, width, height] = box;
  const runs: number[] = []; // row by row within the box, background first
  let [inside, length] = [0, 0];
  for (let y = top; y < top + height; y++) {
    for (let x = left; x < left + width; x++) {
      if (mask.bitmap.data[y * mask.bitmap.width + x] !== inside) {
        runs.push(length);
        [inside, length] = [1 - inside, 0];
      }
      length++;
    }
  }
  runs.push(length);
  const known = [
    ["predicted_iou", mask.predictedIou],
    ["point_coords", mask.pointXy?.join(",")],
  ].filter(([, value]) => value !== null && value !== undefined);
  const attributes = known.map(([name, value]) => `<attribute name="${name}">${value}</attribute>`).join("");
  return (
    `<mask label="${xml(mask.label || unnamed)}" source="auto" occluded="0" rle="${runs.join(", ")}" left="${left}" ` +
    `top="${top}" width="${width}" height="${height}" z_order="0">${attributes}</mask>`
  );
}

/** Tasks of Label Studio, with brushes. */
export function labelStudio(photos: readonly PhotoOut[], unnamed: string): unknown {
  return photos.map((photo, i) => ({
    id: i + 1,
    data: { image: photo.fileName, width: photo.width, height: photo.height },
    annotations: [{ result: photo.masks.map((mask, k) => brush(photo, mask, `${i + 1}-${k}`, unnamed)) }],
  }));
}

function brush(photo: PhotoOut, mask: MaskOut, id: string, unnamed: string): unknown {
  return {
    id,
    type: "brushlabels",
    from_name: "tag",
    to_name: "image",
    original_width: photo.width,
    original_height: photo.height,
    image_rotation: 0,
    value: { format: "rle", rle: packBrush(mask.bitmap), brushlabels: [mask.label || unnamed] },
    ...(mask.predictedIou === null ? {} : { score: mask.predictedIou }),
    ...(mask.pointXy ? { meta: { point_coords: [mask.pointXy] } } : {}),
  };
}

/** The labelling set-up for these labels: a brush, and clicks and boxes that ask a model. */
export function labelStudioSetup(labels: readonly string[]): string {
  const plain = labels.map((label) => `\n    <Label value="${xml(label)}"/>`).join("");
  const asks = 'toName="image" smart="true" smartOnly="true"';
  return (
    `<View>\n  <Image name="image" value="$image" zoom="true"/>\n` +
    `  <BrushLabels name="tag" toName="image">${plain}\n  </BrushLabels>\n` +
    `  <KeyPointLabels name="point" ${asks}>${plain}\n  </KeyPointLabels>\n` +
    `  <RectangleLabels name="box" ${asks}>${plain}\n  </RectangleLabels>\n</View>\n`
  );
}

const LENGTH_BITS = [3, 4, 8, 16] as const;

/** Runs of an RGBA picture packed into bits ("rle-pack" of thi.ng); predict/formats/label_studio_rle.py has the layout. */
export function packBrush({ data }: Bitmap): number[] {
  const out: number[] = [];
  let [byte, filled] = [0, 0];
  const put = (value: number, bits: number): void => {
    for (let bit = bits - 1; bit >= 0; bit--) {
      byte = (byte << 1) | (Math.floor(value / 2 ** bit) & 1);
      if (++filled === 8) {
        out.push(byte);
        [byte, filled] = [0, 0];
      }
    }
  };
  put(4 * data.length, 32); // four channels
  put(8 - 1, 5);
  for (const bits of LENGTH_BITS) put(bits - 1, 4);
  for (let start = 0; start < data.length; ) {
    let end = start + 1;
    while (end < data.length && data[end] === data[start]) end++;
    for (let left = 4 * (end - start); left > 0; ) {
      const part = Math.min(left, 2 ** 16);
      const which = LENGTH_BITS.findIndex((bits) => part <= 2 ** bits);
      put(1, 1);
      put(which, 2);
      put(part - 1, LENGTH_BITS[which]);
      put(data[start] ? 255 : 0, 8);
      left -= part;
    }
    start = end;
  }
  if (filled) put(0, 8 - filled);
  return out;
}

function xml(text: string): string {
  return text
    .replace(/[^\t\n\r\u{20}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]/gu, "")
    .replace(/[&<>"\n\r\t]/g, (c) => `&#${c.charCodeAt(0)};`);
}
