// Runs the model: ONNX Runtime in WebAssembly with threads, or WebGPU where it works. One request after the other;
// clicks go in between the blocks of a long search.

import * as wasm from "onnxruntime-web/wasm";
import { contours, placeRings, type Rings } from "../core/contours";
import { type Frame, scaleXy, toModelXy } from "../core/geometry";
import { resizeToRgb, toModelInput } from "../core/resize";
import { tidy } from "../core/tidy";
import { Collector, gridPoints } from "./everything";
import type { Decoded, FromWorker, Loaded, ModelInfo, Prompt, Replies, Request, Thresholds, ToWorker } from "./protocol";

type Ort = typeof wasm;
type Session = wasm.InferenceSession;
type Tensors = Record<string, wasm.Tensor>;

const PADDING = -1;
const [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT] = [2, 3];
const BLOCK = 8; // points decoded together in a search
const MOST_PHOTOS = 12; // embeddings kept; 4 MB each, and 12 MB of what is prepared

interface Held {
  readonly frame: Frame;
  embedding: wasm.Tensor;
  prepared: Tensors | null; // of the latest photo only
}

class Model {
  private readonly photos = new Map<number, Held>();
  private turn: Promise<unknown> = Promise.resolve();

  private readonly noMask: wasm.Tensor;

  private constructor(
    private readonly ort: Ort,
    private readonly info: ModelInfo,
    private readonly sessions: Readonly<Record<string, Session>>,
    readonly loaded: Loaded,
  ) {
    const cells = 4 * info.embedding_shape[2];
    this.noMask = this.tensor(new Float32Array(cells * cells), [1, 1, cells, cells]);
  }

  static async load(
    info: ModelInfo,
    base: string,
    threads: number,
    onProgress: (part: number, label: string) => void,
  ): Promise<Model> {
    const { ort, provider } = await chooseRuntime();
    ort.env.wasm.wasmPaths = new URL("ort/", base).href;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    const roles = Object.keys(info.files);
    if (!roles.includes("decode")) throw new Error("the server has no graphs for the browser; start it without --no-browser-model.");
    let done = 0;
    const files = await Promise.all(
      roles.map(async (role) => {
        const bytes = await fetchBytes(new URL(info.files[role], base).href);
        onProgress(++done / (2 * roles.length), "Loading the model");
        return [role, bytes] as const;
      }),
    );
    const sessions: Record<string, Session> = {};
    for (const [role, bytes] of files) {
      sessions[role] = await ort.InferenceSession.create(bytes, {
        executionProviders: provider === "WebGPU" ? ["webgpu", "wasm"] : ["wasm"],
        graphOptimizationLevel: "all",
      });
      onProgress(++done / (2 * roles.length), "Loading the model");
    }
    return new Model(ort, info, sessions, { provider, threads, encodes: "encoder" in sessions });
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
  private async prepared(photo: number): Promise<{ held: Held; tensors: Tensors }> {
    const held = this.photos.get(photo);
    if (!held) throw new Error("this photo has made room for others; open it again.");
    if (!held.prepared) {
      for (const other of this.photos.values()) other.prepared = null;
      const image_embeddings = held.embedding;
      held.prepared = this.sessions.prepare ? await this.run("prepare", { image_embeddings }) : { image_embeddings };
    }
    this.photos.delete(photo); // to the end: used last
    this.photos.set(photo, held);
    return { held, tensors: held.prepared };
  }

  forget(photo: number): void {
    this.photos.delete(photo);
  }

  // --- prompts ------------------------------------------------------------------------------------------------

  async decode(photo: number, prompt: Prompt, multimask: boolean, withRings: boolean): Promise<Replies["decode"]> {
    const started = performance.now();
    const { held, tensors } = await this.prepared(photo);
    const { frame } = held;
    const slots = prompt.points.map((xy, i) => [...toModelXy(xy, frame), prompt.labels[i]]);
    if (prompt.box) {
      const [x0, y0, x1, y1] = prompt.box;
      slots.push([...toModelXy([x0, y0], frame), BOX_TOP_LEFT], [...toModelXy([x1, y1], frame), BOX_BOTTOM_RIGHT]);
    } else {
      slots.push([0, 0, PADDING]);
    }
    const out = await this.ask(tensors, [slots], prompt.mask);
    const order = [...(multimask ? [1, 2, 3] : [0])].sort((a, b) => out.iou[b] - out.iou[a]);
    const masks = order.map((i) => {
      const logits = out.logits.slice(i * out.size, (i + 1) * out.size);
      return this.decoded(logits, out.iou[i], frame, withRings);
    });
    return { masks, ms: performance.now() - started };
  }

  /** Four masks for each prompt: the first for several clicks, the others for a single one. */
  private async ask(
    tensors: Tensors,
    prompts: readonly (readonly (readonly number[])[])[],
    mask: Float32Array | null,
  ): Promise<{ logits: Float32Array; iou: Float32Array; size: number }> {
    const [count, slots] = [prompts.length, prompts[0].length];
    const coords = new Float32Array(count * slots * 2);
    const labels = new Float32Array(count * slots);
    prompts.flat().forEach(([x, y, label], i) => {
      coords[2 * i] = x;
      coords[2 * i + 1] = y;
      labels[i] = label;
    });
    const feeds: Tensors = {
      ...tensors,
      point_coords: this.tensor(coords, [count, slots, 2]),
      point_labels: this.tensor(labels, [count, slots]),
    };
    const cells = 4 * this.info.embedding_shape[2];
    feeds.mask_input = mask ? this.tensor(mask, [1, 1, cells, cells]) : this.noMask;
    feeds.has_mask_input = this.tensor(Float32Array.of(mask ? 1 : 0), [1]);
    const out = await this.run("decode", feeds);
    const { low_res_masks, iou_predictions } = out;
    const [, , h, w] = low_res_masks.dims;
    return {
      logits: low_res_masks.data as Float32Array,
      iou: iou_predictions.data as Float32Array,
      size: h * w,
    };
  }

  private decoded(logits: Float32Array, predictedIou: number, frame: Frame, withRings: boolean): Decoded {
    const threshold = this.info.mask_threshold;
    if (threshold !== 0) for (let i = 0; i < logits.length; i++) logits[i] -= threshold;
    tidy(logits, Math.round(Math.sqrt(logits.length)));
    return { logits, predictedIou, rings: withRings ? ringsOf(logits, frame) : NO_RINGS };
  }

  async everything(
    photo: number,
    thresholds: Thresholds,
    onProgress: (part: number) => void,
    isCancelled: () => boolean,
  ): Promise<Replies["everything"]> {
    const started = performance.now();
    const { held, tensors } = await this.prepared(photo);
    const { frame } = held;
    const [height, width] = frame.originalHw;
    const points = gridPoints(thresholds.grid, width, height);
    const cells = 4 * this.info.embedding_shape[2];
    const collector = new Collector(frame, cells, thresholds);
    for (let start = 0; start < points.length && !isCancelled(); start += BLOCK) {
      const block = points.slice(start, start + BLOCK);
      const prompts = block.map((xy) => [
        [...toModelXy(xy, frame), 1],
        [0, 0, PADDING],
      ]);
      const { logits, iou, size } = await this.ask(tensors, prompts, null);
      block.forEach((xy, p) => {
        for (const slot of [1, 2, 3]) {
          const at = p * 4 + slot;
          collector.add(logits.subarray(at * size, (at + 1) * size), iou[at], xy);
        }
      });
      onProgress(Math.min(1, (start + BLOCK) / points.length));
      await new Promise((resolve) => setTimeout(resolve)); // let clicks and a cancel in
    }
    const masks = collector.finish((logits, predictedIou) => this.decoded(logits, predictedIou, frame, true));
    return { masks, ms: performance.now() - started };
  }
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
