// Runs the model: ONNX Runtime in WebAssembly with threads, or WebGPU where it works. One request after the other;
// clicks go in between the blocks of a long search.

import * as wasm from "onnxruntime-web/wasm";
import { contours, placeRings, type Rings } from "../core/contours";
import { type Frame, scaleXy, toModelXy } from "../core/geometry";
import { resizeToRgb, toModelInput } from "../core/resize";
import { LEAST_CELLS, tidy } from "../core/tidy";
import { Collector, gridPoints } from "./everything";
import type { Decoded, FromWorker, Loaded, ModelInfo, Prompt, Replies, Request, Thresholds, ToWorker } from "./protocol";

declare const ORT_PLACE: string; // vite.config.ts

type Ort = typeof wasm;
type Session = wasm.InferenceSession;
type Tensors = Record<string, wasm.Tensor>;

const PADDING = -1;
const [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT] = [2, 3];
const BLOCK = 8; // points of a search between two looks at what else is asked
const MOST_PHOTOS = 12; // embeddings kept; 4 MB each, and 14 MB of what is prepared
const UNSEEN = -10; // logit of cells beyond the photo, which are not decoded

/** A grid of cells: that of the model, or half as many a side for quick answers. */
interface Grid {
  readonly cells: number;
  readonly positions: Tensors;
}

interface Held {
  readonly frame: Frame;
  embedding: wasm.Tensor;
  prepared: { readonly full: Tensors; readonly quick: Tensors } | null; // of the latest photo only
}

interface Answer {
  readonly logits: Float32Array; // (4·cells)² for each mask
  readonly iou: Float32Array;
}

class Model {
  private readonly photos = new Map<number, Held>();
  private turn: Promise<unknown> = Promise.resolve();
  private full!: Grid;
  private quick!: Grid;

  private constructor(
    private readonly ort: Ort,
    private readonly info: ModelInfo,
    private readonly sessions: Readonly<Record<string, Session>>,
    readonly loaded: Loaded,
  ) {}

  static async load(
    info: ModelInfo,
    base: string,
    threads: number,
    onProgress: (part: number, label: string) => void,
  ): Promise<Model> {
    const roles = Object.keys(info.files);
    if (!roles.includes("decode")) throw new Error("the server has no graphs for the browser; start it without --no-browser-model.");
    const files = roles.map((role) => fetchBytes(new URL(info.files[role], base).href)); // while the runtime compiles
    const { ort, provider } = await chooseRuntime();
    ort.env.wasm.wasmPaths = new URL(ORT_PLACE, base).href;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    const sessions: Record<string, Session> = {};
    for (const [i, role] of roles.entries()) {
      sessions[role] = await ort.InferenceSession.create(await files[i], {
        executionProviders: provider === "WebGPU" ? ["webgpu", "wasm"] : ["wasm"],
        graphOptimizationLevel: "all",
      });
      onProgress((i + 1) / roles.length, "Loading the model");
    }
    const model = new Model(ort, info, sessions, { provider, threads, encodes: "encoder" in sessions });
    const cells = info.embedding_shape[2];
    model.full = await model.grid(cells);
    model.quick = cells % 2 ? model.full : await model.grid(cells / 2);
    return model;
  }

  private async grid(cells: number): Promise<Grid> {
    const numbers = this.count(cells);
    return { cells, positions: await this.run("positions", { rows: numbers, columns: numbers }) };
  }

  /** One call of a session at a time: the runtime has one heap and one pool of threads. */
  private async run(role: string, feeds: Tensors): Promise<Tensors> {
    const session = this.sessions[role];
    const wanted = Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]]));
    const call = this.turn.then(() => session.run(wanted));
    this.turn = call.catch(() => {});
    return (await call) as Tensors;
  }

  private tensor(data: Float32Array, dims: readonly number[]): wasm.Tensor {
    return new this.ort.Tensor("float32", data, dims);
  }

  private integers(values: readonly number[]): wasm.Tensor {
    return new this.ort.Tensor("int64", BigInt64Array.from(values, BigInt), [values.length]);
  }

  private count(length: number): wasm.Tensor {
    return this.integers(Array.from({ length }, (_, i) => i));
  }

  // --- photos -------------------------------------------------------------------------------------------------

  async encode(photo: number, frame: Frame, bitmap: ImageBitmap): Promise<number> {
    const started = performance.now();
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true })!;
    context.fillStyle = "#fff"; // transparency lies over white, as core/images.py has it
    context.fillRect(0, 0, bitmap.width, bitmap.height);
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
    const rgb = resizeToRgb(data, [bitmap.height, bitmap.width], frame.inputHw);
    bitmap.close();
    const { image_embeddings } = await this.run("encoder", { input_image: this.imageTensor(rgb, frame) });
    await this.hold(photo, frame, image_embeddings);
    return performance.now() - started;
  }

  /** What the encoder takes: scaled pixels (1, h, w, 3) as bytes, or (1, 3, S, S) normalised and padded. */
  private imageTensor(rgb: Uint8Array, frame: Frame): wasm.Tensor {
    const [h, w] = frame.inputHw;
    const about = this.sessions.encoder.inputMetadata[0];
    if (about.isTensor && about.type === "uint8") {
      const pixels = new Uint8Array(rgb.length);
      const plane = h * w;
      for (let i = 0, o = 0; i < plane; i++, o += 3) {
        pixels[o] = rgb[i];
        pixels[o + 1] = rgb[plane + i];
        pixels[o + 2] = rgb[2 * plane + i];
      }
      return new this.ort.Tensor("uint8", pixels, [1, h, w, 3]);
    }
    const { pixel_mean, pixel_std, side } = this.info;
    return this.tensor(toModelInput(rgb, [h, w], side, pixel_mean, pixel_std), [1, 3, side, side]);
  }

  async embed(photo: number, frame: Frame, halves: ArrayBuffer): Promise<number> {
    const started = performance.now();
    const values = fromHalves(new Uint16Array(halves));
    await this.hold(photo, frame, this.tensor(values, [1, ...this.info.embedding_shape]));
    return performance.now() - started;
  }

  private async hold(photo: number, frame: Frame, embedding: wasm.Tensor): Promise<void> {
    this.photos.delete(photo);
    const oldest = this.photos.keys().next();
    if (this.photos.size >= MOST_PHOTOS && !oldest.done) this.photos.delete(oldest.value);
    this.photos.set(photo, { frame, embedding, prepared: null });
    await this.prepared(photo);
  }

  /** What all prompts on a photo share, computed once. */
  private async prepared(photo: number): Promise<{ frame: Frame; full: Tensors; quick: Tensors }> {
    const held = this.photos.get(photo);
    if (!held) throw new Error("this photo has made room for others; open it again.");
    if (!held.prepared) {
      // a crop (`Machine.closer`) has a number below zero and leaves soon; the photo is asked again then
      if (photo >= 0) for (const other of this.photos.values()) other.prepared = null;
      const full = await this.run("prepare", { image_embeddings: held.embedding, pe: this.full.positions.pe });
      held.prepared = { full, quick: this.quick === this.full ? full : await this.prepareHalf(held.embedding) };
    }
    return { frame: held.frame, ...held.prepared };
  }

  private prepareHalf(embedding: wasm.Tensor): Promise<Tensors> {
    const [c, h, w] = this.info.embedding_shape;
    const image_embeddings = this.tensor(halved(embedding.data as Float32Array, c, h, w), [1, c, h / 2, w / 2]);
    return this.run("prepare", { image_embeddings, pe: this.quick.positions.pe });
  }

  forget(photo: number): void {
    this.photos.delete(photo);
  }

  // --- prompts ------------------------------------------------------------------------------------------------

  async decode(photo: number, prompt: Prompt, multimask: boolean, withRings: boolean): Promise<Replies["decode"]> {
    const started = performance.now();
    const { frame, full } = await this.prepared(photo);
    const wanted = multimask ? [1, 2, 3] : [0];
    const out = await this.ask(this.full, full, frame, slotsOf(prompt, frame), wanted, prompt.mask);
    const size = (4 * this.full.cells) ** 2;
    const order = wanted.map((_, i) => i).sort((a, b) => out.iou[b] - out.iou[a]);
    const masks = order.map((i) =>
      this.decoded(out.logits.slice(i * size, (i + 1) * size), out.iou[i], frame, withRings),
    );
    return { masks, ms: performance.now() - started };
  }

  /** The outline of the best mask on half as many cells a side: a quarter of the work. */
  async preview(photo: number, prompt: Prompt, multimask: boolean): Promise<Replies["preview"]> {
    const started = performance.now();
    const { frame, quick } = await this.prepared(photo);
    const out = await this.ask(this.quick, quick, frame, slotsOf(prompt, frame), multimask ? [1, 2, 3] : [0], null);
    const size = (4 * this.quick.cells) ** 2;
    const best = out.iou.indexOf(Math.max(...out.iou));
    const logits = out.logits.subarray(best * size, (best + 1) * size);
    const { rings } = this.decoded(logits, out.iou[best], frame, true, LEAST_CELLS / 4);
    return { rings, ms: performance.now() - started };
  }

  /** `wanted` of the four masks: 0 answers several clicks, the others a single one. */
  private async ask(
    grid: Grid,
    prepared: Tensors,
    frame: Frame,
    slots: readonly (readonly number[])[],
    wanted: readonly number[],
    mask: Float32Array | null,
  ): Promise<Answer> {
    const shown = (pixels: number) => Math.min(grid.cells, Math.ceil((pixels * grid.cells) / frame.side) + 1);
    const [rows, columns] = [shown(frame.inputHw[0]), shown(frame.inputHw[1])];
    const side = 4 * grid.cells;
    const feeds: Tensors = {
      ...prepared,
      ...grid.positions,
      point_coords: this.tensor(Float32Array.from(slots.flatMap(([x, y]) => [x, y])), [1, slots.length, 2]),
      point_labels: this.tensor(Float32Array.from(slots.map(([, , label]) => label)), [1, slots.length]),
      rows: this.count(rows),
      columns: this.count(columns),
      wanted: this.integers(wanted),
      has_mask_input: this.tensor(Float32Array.of(mask ? 1 : 0), [1]),
      mask_input: mask ? this.tensor(mask, [1, 1, side, side]) : this.tensor(new Float32Array(16), [1, 1, 4, 4]),
    };
    const { low_res_masks, iou_predictions } = await this.run("decode", feeds);
    const found = low_res_masks.data as Float32Array;
    const logits = new Float32Array(wanted.length * side * side).fill(UNSEEN + this.info.mask_threshold);
    for (let from = 0, i = 0; i < wanted.length; i++) {
      for (let y = 0; y < 4 * rows; y++, from += 4 * columns) {
        logits.set(found.subarray(from, from + 4 * columns), (i * side + y) * side);
      }
    }
    return { logits, iou: iou_predictions.data as Float32Array };
  }

  private decoded(
    logits: Float32Array,
    predictedIou: number,
    frame: Frame,
    withRings: boolean,
    least = LEAST_CELLS,
  ): Decoded {
    const threshold = this.info.mask_threshold;
    if (threshold !== 0) for (let i = 0; i < logits.length; i++) logits[i] -= threshold;
    tidy(logits, Math.round(Math.sqrt(logits.length)), least);
    return { logits, predictedIou, rings: withRings ? ringsOf(logits, frame) : NO_RINGS };
  }

  async everything(
    photo: number,
    thresholds: Thresholds,
    onProgress: (part: number) => void,
    isCancelled: () => boolean,
  ): Promise<Replies["everything"]> {
    const started = performance.now();
    const { frame, full } = await this.prepared(photo);
    const [height, width] = frame.originalHw;
    const points = gridPoints(thresholds.grid, width, height);
    const cells = 4 * this.full.cells;
    const size = cells * cells;
    const collector = new Collector(frame, cells, thresholds);
    for (let start = 0; start < points.length && !isCancelled(); start += BLOCK) {
      for (const xy of points.slice(start, start + BLOCK)) {
        const slots = [
          [...toModelXy(xy, frame), 1],
          [0, 0, PADDING],
        ];
        const { logits, iou } = await this.ask(this.full, full, frame, slots, [1, 2, 3], null);
        iou.forEach((score, i) => collector.add(logits.subarray(i * size, (i + 1) * size), score, xy));
      }
      onProgress(Math.min(1, (start + BLOCK) / points.length));
      await new Promise((resolve) => setTimeout(resolve)); // let clicks and a cancel in
    }
    const masks = collector.finish((logits, predictedIou) => this.decoded(logits, predictedIou, frame, true));
    return { masks, ms: performance.now() - started };
  }
}

/** x, y in the model's square and the label of each point slot. */
function slotsOf(prompt: Prompt, frame: Frame): number[][] {
  const slots = prompt.points.map((xy, i) => [...toModelXy(xy, frame), prompt.labels[i]]);
  if (!prompt.box) return [...slots, [0, 0, PADDING]];
  const [x0, y0, x1, y1] = prompt.box;
  return [
    ...slots,
    [...toModelXy([x0, y0], frame), BOX_TOP_LEFT],
    [...toModelXy([x1, y1], frame), BOX_BOTTOM_RIGHT],
  ];
}

/** The mean of each 2×2 cells of (c, h, w). */
function halved(values: Float32Array, c: number, h: number, w: number): Float32Array {
  const out = new Float32Array(values.length / 4);
  let at = 0;
  for (let row = 0; row < c * h; row += 2) {
    for (let x = 0, from = row * w; x < w; x += 2, from += 2) {
      out[at++] = (values[from] + values[from + 1] + values[from + w] + values[from + w + 1]) / 4;
    }
  }
  return out;
}

const NO_RINGS: Rings = { xy: new Float32Array(0), ends: new Uint32Array(0) };

function ringsOf(logits: Float32Array, frame: Frame): Rings {
  const cells = Math.round(Math.sqrt(logits.length));
  const [sx, sy] = scaleXy(frame);
  const cell = frame.side / cells;
  return placeRings(contours(logits, cells, cells), cell / sx, cell / sy);
}

/** WebGPU where there is an adapter; else, and everywhere that it fails, WebAssembly. */
async function chooseRuntime(): Promise<{ ort: Ort; provider: "WebGPU" | "WASM" }> {
  try {
    const gpu = (navigator as { gpu?: { requestAdapter(): Promise<{ info?: { isFallbackAdapter?: boolean } } | null> } }).gpu;
    const adapter = await gpu?.requestAdapter();
    if (adapter && !adapter.info?.isFallbackAdapter) {
      return { ort: (await import("onnxruntime-web/webgpu")) as unknown as Ort, provider: "WebGPU" };
    }
  } catch {
    // no WebGPU then
  }
  return { ort: wasm, provider: "WASM" };
}

async function fetchBytes(url: string): Promise<Uint8Array> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} answered ${response.status}.`);
  return new Uint8Array(await response.arrayBuffer());
}

function fromHalves(halves: Uint16Array): Float32Array {
  const out = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const bits = halves[i];
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : (2 ** -14 * fraction) / 1024;
    out[i] = bits & 0x8000 ? -size : size;
  }
  return out;
}

// --- messages -----------------------------------------------------------------------------------------------------

let model: Model | null = null;
const cancelled = new Set<number>();
const post = (message: FromWorker, transfer: Transferable[] = []) => self.postMessage(message, { transfer });

async function answer(id: number, request: Request): Promise<unknown> {
  const onProgress = (part: number, label = "") => post({ id, kind: "progress", part, label });
  if (request.kind === "load") {
    model = await Model.load(request.info, request.base, request.threads, onProgress);
    return model.loaded;
  }
  if (request.kind === "cancel") {
    cancelled.add(request.target);
    return null;
  }
  if (!model) throw new Error("the model is not loaded yet.");
  switch (request.kind) {
    case "encode":
      return { ms: await model.encode(request.photo, request.frame, request.bitmap) };
    case "embed":
      return { ms: await model.embed(request.photo, request.frame, request.halves) };
    case "decode":
      return model.decode(request.photo, request.prompt, request.multimask, request.withRings);
    case "preview":
      return model.preview(request.photo, request.prompt, request.multimask);
    case "everything":
      return model.everything(request.photo, request.thresholds, onProgress, () => cancelled.has(id));
    case "forget":
      model.forget(request.photo);
      return null;
  }
}

self.onmessage = async ({ data }: MessageEvent<ToWorker>) => {
  try {
    const reply = await answer(data.id, data.request);
    const masks = (reply as { masks?: readonly Decoded[] } | null)?.masks ?? [];
    const transfer = [...new Set(masks.flatMap((mask) => [mask.logits.buffer, mask.rings.xy.buffer]))];
    post({ id: data.id, kind: "done", reply }, transfer as ArrayBuffer[]);
  } catch (error) {
    post({ id: data.id, kind: "failed", message: error instanceof Error ? error.message : String(error) });
  } finally {
    cancelled.delete(data.id);
  }
};
