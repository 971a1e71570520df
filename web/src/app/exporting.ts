// The export dialog: what is written, and the files themselves. All of it happens in the browser.

import { ringsBox } from "../core/contours";
import { feather } from "../core/feather";
import { type FormatName, type MaskOut, stemOf, writeFormat } from "../core/formats";
import { encodeMaskPng } from "../core/png";
import { measure } from "../core/rle";
import { rasterize } from "../core/shape";
import { type NamedFile, zip } from "../core/zip";
import { $ } from "./panels";
import { type Progress, toast } from "./progress";
import { type Item, type Photo, shapeOf } from "./state";
import type { Studio } from "./studio";

type Kind = FormatName | "cutout" | "mask";
const KINDS: Record<Kind, readonly [title: string, about: string]> = {
  cutout: ["Cut-out PNG", "transparent, with soft edges"],
  mask: ["Mask PNG", "black and white, the photo's size"],
  coco: ["COCO", "run lengths, one JSON"],
  coco_polygons: ["COCO polygons", "for tools without run lengths"],
  yolo: ["YOLO segmentation", "labels and data.yaml"],
  sa1b: ["SA-1B", "one JSON a photo"],
  labelme: ["labelme", "one JSON a photo"],
  cvat: ["CVAT", "for images 1.1, with masks"],
  label_studio: ["Label Studio", "brushes, and the set-up"],
};

export function setUpExport(studio: Studio, progress: Progress): () => void {
  const dialog = $<HTMLDialogElement>("export-dialog");
  $("formats").insertAdjacentHTML(
    "beforeend",
    Object.entries(KINDS)
      .map(
        ([kind, [title, about]], i) =>
          `<label class="format"><input type="radio" name="format" value="${kind}" ${i ? "" : "checked"} /><b>${title}</b><small>${about}</small></label>`,
      )
      .join(""),
  );
  const kind = (): Kind => dialog.querySelector<HTMLInputElement>("[name=format]:checked")!.value as Kind;
  const refresh = (): void => {
    $("feather-field").hidden = $("crop-field").hidden = kind() !== "cutout";
    $("feather-out").textContent = `${$<HTMLInputElement>("feather").value} px`;
    const count = wanted(studio).reduce((sum, [, items]) => sum + items.length, 0);
    $("export-note").textContent = count === 1 ? "1 object" : `${count} objects`;
    $<HTMLButtonElement>("export-go").disabled = count === 0;
  };
  dialog.addEventListener("input", refresh);
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "go") void run(studio, progress, kind());
  });
  return () => {
    const { scene } = studio;
    const selected = itemsOf(studio.photo!).find((item) => item.id === scene.selected);
    const choices: [string, string][] = [["visible", "All that are visible"]];
    if (itemsOf(studio.photo!).some((item) => item.hidden)) choices.push(["all", "All, hidden ones too"]);
    if (selected) choices.push(["selected", selected.name]);
    $<HTMLSelectElement>("export-objects").replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
    if (selected) $<HTMLSelectElement>("export-objects").value = "selected";
    $("export-photos-field").hidden = studio.photos.length < 2;
    dialog.returnValue = "";
    refresh();
    dialog.showModal();
  };
}

/** Objects of a photo; the one being made counts, so that nobody has to accept it first. */
function itemsOf(photo: Photo): Item[] {
  const { items, draft } = photo.scene;
  if (!draft?.rings) return [...items];
  const edited = items.find((item) => item.id === draft.edits);
  const drafted: Item = {
    id: edited?.id ?? -1,
    name: edited?.name ?? `Object ${photo.nextId}`,
    colour: 0,
    hidden: false,
    shape: shapeOf(draft),
    rings: draft.rings,
    predictedIou: draft.candidates[draft.chosen]?.predictedIou ?? null,
    pointXy: draft.clicks.find((click) => click.adds)?.xy ?? null,
  };
  return edited ? items.map((item) => (item === edited ? drafted : item)) : [...items, drafted];
}

function wanted(studio: Studio): [Photo, Item[]][] {
  const which = $<HTMLSelectElement>("export-objects").value;
  const all = $<HTMLSelectElement>("export-photos").value === "all" && studio.photos.length > 1;
  return (all ? studio.photos : [studio.photo!]).map((photo) => [
    photo,
    itemsOf(photo).filter((item) =>
      which === "selected" && !all ? item.id === photo.scene.selected : which === "all" || !item.hidden,
    ),
  ]);
}

async function run(studio: Studio, progress: Progress, kind: Kind): Promise<void> {
  const task = progress.start("Writing");
  try {
    await new Promise((resolve) => setTimeout(resolve)); // the dialog goes first
    const names = new Set<string>();
    const files: NamedFile[] = [];
    const photos = wanted(studio).map(([photo, items]) => [uniquely(photo.name, names), photo, items] as const);
    const total = photos.reduce((sum, [, , items]) => sum + items.length, 0);
    let done = 0;
    const step = async (): Promise<void> => {
      task.update(++done / total);
      await new Promise((resolve) => setTimeout(resolve));
    };
    if (kind === "cutout" || kind === "mask") {
      for (const [fileName, photo, items] of photos) {
        const used = new Set<string>();
        for (const item of items) {
          const name = `${stemOf({ fileName })}.${uniquely(plain(item.name), used)}.png`;
          files.push({ name, bytes: await (kind === "mask" ? maskPng(photo, item) : cutoutPng(photo, item)) });
          await step();
        }
      }
    } else {
      const out = [];
      for (const [fileName, photo, items] of photos) {
        const masks: MaskOut[] = [];
        for (const item of items) {
          masks.push({
            bitmap: rasterize(item.shape, photo.frame, photo.width, photo.height),
            label: /^Object \d+$/.test(item.name) ? "" : item.name,
            predictedIou: item.predictedIou,
            pointXy: item.pointXy,
          });
          await step();
        }
        out.push({ fileName, width: photo.width, height: photo.height, masks });
      }
      files.push(...writeFormat(kind, out));
    }
    const stem = photos.length === 1 ? stemOf({ fileName: photos[0][0] }) : "photos";
    deliver(files, `${stem}.${kind}.zip`);
    const what = files.length === 1 ? files[0].name.split("/").at(-1)! : `${stem}.${kind}.zip`;
    toast(`${what} is in your downloads.`, "good");
  } catch (error) {
    toast(`The export failed: ${error instanceof Error ? error.message : String(error)}`, "bad");
  } finally {
    task.done();
  }
}

function maskPng(photo: Photo, item: Item): Promise<Uint8Array> {
  return encodeMaskPng(rasterize(item.shape, photo.frame, photo.width, photo.height));
}

async function cutoutPng(photo: Photo, item: Item): Promise<Uint8Array> {
  const radius = Number($<HTMLInputElement>("feather").value);
  const crops = $<HTMLInputElement>("crop").checked;
  const bitmap = rasterize(item.shape, photo.frame, photo.width, photo.height);
  const { area, box } = measure(bitmap);
  if (!area || !ringsBox(item.rings)) throw new Error(`${item.name} is empty.`);
  const margin = 2 * radius;
  const x = crops ? Math.max(0, box[0] - margin) : 0;
  const y = crops ? Math.max(0, box[1] - margin) : 0;
  const width = crops ? Math.min(photo.width, box[0] + box[2] + margin) - x : photo.width;
  const height = crops ? Math.min(photo.height, box[1] + box[3] + margin) - y : photo.height;
  const part = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    const from = (y + row) * photo.width + x;
    part.set(bitmap.data.subarray(from, from + width), row * width);
  }
  const alpha = feather({ width, height, data: part }, radius);
  const full = await createImageBitmap(photo.file, { imageOrientation: "from-image" });
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.drawImage(full, -x, -y);
  full.close();
  const pixels = context.getImageData(0, 0, width, height);
  for (let i = 0; i < alpha.length; i++) pixels.data[4 * i + 3] = (pixels.data[4 * i + 3] * alpha[i]) / 255;
  context.putImageData(pixels, 0, 0);
  return new Uint8Array(await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer());
}

function deliver(files: readonly NamedFile[], zipName: string): void {
  const single = files.length === 1;
  const bytes = single ? files[0].bytes : zip(files);
  const url = URL.createObjectURL(new Blob([bytes as Uint8Array<ArrayBuffer>]));
  const link = document.createElement("a");
  link.href = url;
  link.download = single ? files[0].name.split("/").at(-1)! : zipName;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function plain(name: string): string {
  return name.replace(/[^\p{L}\p{N} ._-]/gu, "_").trim() || "object";
}

function uniquely(name: string, used: Set<string>): string {
  let unique = name;
  const dot = name.lastIndexOf(".");
  const [stem, suffix] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
  for (let i = 2; used.has(unique); i++) unique = `${stem}-${i}${suffix}`;
  used.add(unique);
  return unique;
}
