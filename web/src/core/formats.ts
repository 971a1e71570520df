// Masks as files that other tools read; the same keys as predict/formats in Python, which reads them back in the tests.

import { joined, outlines } from "./outlines";
import { encodeRle, measure } from "./rle";
import { cvat, labelStudio, labelStudioSetup } from "./tools";
import type { Bitmap } from "./upscale";
import type { NamedFile } from "./zip";

export interface MaskOut {
  readonly bitmap: Bitmap; // at the photo's size
  readonly label: string;
  readonly predictedIou: number | null;
  readonly pointXy: readonly [number, number] | null;
}

export interface PhotoOut {
  readonly fileName: string;
  readonly width: number;
  readonly height: number;
  readonly masks: readonly MaskOut[];
}

export type FormatName = "coco" | "coco_polygons" | "yolo" | "sa1b" | "labelme" | "cvat" | "label_studio";

const OBJECT = "object"; // category of masks without a label
const LABELME_VERSION = "5.5.0";

export function writeFormat(name: FormatName, photos: readonly PhotoOut[]): NamedFile[] {
  switch (name) {
    case "coco":
      return [json("annotations.json", coco(photos, (mask) => encodeRle(mask.bitmap)))];
    case "coco_polygons":
      return [json("annotations.json", coco(photos, (mask) => outlines(mask.bitmap)))];
    case "yolo":
      return yolo(photos);
    case "sa1b":
      return photos.map((photo, i) => json(`${stemOf(photo)}.json`, sa1b(photo, i + 1)));
    case "labelme":
      return photos.map((photo) => json(`${stemOf(photo)}.json`, labelme(photo)));
    case "cvat":
      return [text("annotations.xml", cvat(photos, OBJECT))];
    case "label_studio":
      return [
        json("label_studio.json", labelStudio(photos, OBJECT)),
        text("label_studio.xml", labelStudioSetup([...new Set([OBJECT, ...labelsOf(photos)])])),
      ];
  }
}

export function stemOf(photo: { readonly fileName: string }): string {
  return photo.fileName.replace(/\.[^.]*$/, "") || "photo";
}

function json(name: string, content: unknown): NamedFile {
  return { name, bytes: new TextEncoder().encode(JSON.stringify(content)) };
}

function coco(photos: readonly PhotoOut[], segmentation: (mask: MaskOut) => unknown): unknown {
  const words = [...new Set([OBJECT, ...labelsOf(photos)])].sort();
  const annotations: unknown[] = [];
  photos.forEach((photo, i) => {
    for (const mask of photo.masks) {
      const { area, box } = measure(mask.bitmap);
      annotations.push({
        id: annotations.length + 1,
        image_id: i + 1,
        category_id: words.indexOf(mask.label || OBJECT) + 1,
        segmentation: segmentation(mask),
        bbox: box,
        area,
        iscrowd: 0,
        ...known(mask),
      });
    }
  });
  return {
    info: {},
    images: photos.map((p, i) => ({ id: i + 1, width: p.width, height: p.height, file_name: p.fileName })),
    annotations,
    categories: words.map((name, i) => ({ id: i + 1, name })),
  };
}

function labelsOf(photos: readonly PhotoOut[]): string[] {
  return photos.flatMap((photo) => photo.masks.map((mask) => mask.label || OBJECT));
}

function known(mask: MaskOut): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  if (mask.predictedIou !== null) out.predicted_iou = mask.predictedIou;
  if (mask.pointXy) out.point_coords = [mask.pointXy];
  if (mask.label && mask.label !== OBJECT) out.label = mask.label;
  return out;
}

function sa1b(photo: PhotoOut, imageId: number): unknown {
  const number = /^sa_(\d+)$/.exec(stemOf(photo));
  return {
    image: {
      image_id: number ? Number(number[1]) : imageId,
      width: photo.width,
      height: photo.height,
      file_name: photo.fileName,
    },
    annotations: photo.masks.map((mask, id) => {
      const { area, box } = measure(mask.bitmap);
      const [x, y, w, h] = box;
      return {
        id,
        segmentation: encodeRle(mask.bitmap),
        area,
        bbox: [x, y, Math.max(0, w - 1), Math.max(0, h - 1)], // to the last pixel, as SA-1B has it
        ...known(mask),
        crop_box: [0, 0, photo.width, photo.height],
      };
    }),
  };
}

function labelme(photo: PhotoOut): unknown {
  return {
    version: LABELME_VERSION,
    flags: {},
    shapes: photo.masks.flatMap((mask, group) =>
      outlines(mask.bitmap).map((ring) => ({
        label: mask.label || OBJECT,
        points: pairs(ring),
        group_id: group,
        description: "",
        shape_type: "polygon",
        flags: {},
      })),
    ),
    imagePath: photo.fileName,
    imageData: null,
    imageHeight: photo.height,
    imageWidth: photo.width,
  };
}

function yolo(photos: readonly PhotoOut[]): NamedFile[] {
  const names: string[] = [];
  const files = photos.map((photo) => {
    const lines = photo.masks.flatMap((mask) => {
      const label = mask.label || OBJECT;
      if (!names.includes(label)) names.push(label);
      const rings = outlines(mask.bitmap);
      if (!rings.length) return [];
      const shares = joined(rings).map((v, i) => Number((v / (i % 2 ? photo.height : photo.width)).toPrecision(9)));
      return [`${names.indexOf(label)} ${shares.join(" ")}\n`];
    });
    return text(`labels/${stemOf(photo)}.txt`, lines.join(""));
  });
  if (!names.length) names.push(OBJECT);
  const classes = names.map((name, i) => `  ${i}: ${JSON.stringify(name)}\n`).join("");
  const cell = (s: string): string => (/[",\n]/.test(s) ? `"${s.replaceAll('"', '""')}"` : s);
  const sizes = photos.map((p) => `${cell(stemOf(p))},${cell(p.fileName)},${p.height},${p.width}\n`).join("");
  return [
    ...files,
    text("data.yaml", `path: .\ntrain: images\nval: images\nnames:\n${classes}`),
    text("sizes.csv", `stem,file_name,height,width\n${sizes}`),
  ];
}

function text(name: string, content: string): NamedFile {
  return { name, bytes: new TextEncoder().encode(content) };
}

function pairs(flat: readonly number[]): [number, number][] {
  return Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]);
}
