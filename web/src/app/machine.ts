// The model: loaded once into its worker, photos encoded there or fetched from the server as embeddings.

import { frameOf } from "../core/geometry";
import { ModelClient } from "../model/client";
import { movedPrompt, resample, windowOf } from "../model/closer";
import type { Decoded, Loaded, ModelInfo, Prompt, Replies } from "../model/protocol";
import * as api from "./api";
import { type Progress, sleep, toast } from "./progress";
import type { Photo } from "./state";

export class Machine {
  info: ModelInfo | null = null;
  loaded: Loaded | null = null;
  failure: string | null = null;
  serverIsThere = true;
  client = new ModelClient();
  ready: Promise<void>;
  private readonly encoding = new Map<number, Promise<void>>();
  private readonly photos = new Map<number, Photo>(); // that `encoding` is about
  private looks = 0;

  constructor(
    private readonly progress: Progress,
    private readonly onChange: () => void,
  ) {
    this.ready = this.load();
    this.ready.catch((error: Error) => {
      this.failure = error.message;
      toast(`The model could not be loaded: ${error.message} Reload the page to try again.`, "bad");
      this.onChange();
    });
  }

  /** Another model serves: load it in a worker of its own, and look at all open photos anew. */
  async renew(): Promise<void> {
    this.client.close();
    this.client = new ModelClient();
    this.encoding.clear();
    this.ready = this.load();
    await this.ready;
    await Promise.allSettled([...this.photos.values()].map((photo) => this.encoded(photo)));
  }

  /** Samples a side of the masks that the model makes. */
  get cells(): number {
    return 4 * (this.info?.embedding_shape.at(-1) ?? 64);
  }

  /** Of the model's square; known long before the model itself is loaded. */
  async side(): Promise<number> {
    while (!this.info && !this.failure) await Promise.race([this.ready, sleep(20)]).catch(() => {});
    return this.info?.side ?? 1024;
  }

  private async load(): Promise<void> {
    const task = this.progress.start("Loading the model");
    try {
      this.info = await api.model();
      const threads = crossOriginIsolated ? Math.max(1, Math.min(navigator.hardwareConcurrency || 1, 8)) : 1;
      this.loaded = await this.client.ask(
        { kind: "load", info: this.info, base: new URL(".", location.href).href, threads },
        { onProgress: (part, label) => task.update(part, label) },
      );
      performance.mark("anymask:model-ready");
    } finally {
      task.done();
      this.onChange();
    }
  }

  /** Resolved when prompts on the photo can be answered. */
  encoded(photo: Photo): Promise<void> {
    let running = this.encoding.get(photo.key);
    if (!running || photo.status === "failed") {
      running = this.encode(photo);
      this.encoding.set(photo.key, running);
      this.photos.set(photo.key, photo);
    }
    return running;
  }

  private async encode(photo: Photo): Promise<void> {
    photo.status = "encoding";
    const task = this.progress.start(`Looking at ${photo.name}`);
    const { client } = this;
    try {
      await this.ready;
      const started = performance.now();
      const halves = await this.fetched(photo);
      if (halves) {
        await client.ask({ kind: "embed", photo: photo.key, frame: photo.frame, halves }, { transfer: [halves] });
        photo.encodeMs = performance.now() - started;
      } else {
        const bitmap = await createImageBitmap(photo.view);
        const { ms } = await client.ask(
          { kind: "encode", photo: photo.key, frame: photo.frame, bitmap },
          { transfer: [bitmap] },
        );
        photo.encodeMs = ms;
      }
      photo.status = "ready";
      performance.mark("anymask:encoded");
    } catch (error) {
      if (client !== this.client) return; // `renew` looks at it anew
      photo.status = "failed";
      toast(`${photo.name} could not be prepared: ${this.reason(error)}`, "bad");
      throw error;
    } finally {
      task.done();
      this.onChange();
    }
  }

  /** The photo's embedding from the server; null where the browser is to make it. */
  private async fetched(photo: Photo): Promise<ArrayBuffer | null> {
    if (photo.storedId !== null) {
      try {
        return await api.storedEmbedding(photo.storedId);
      } catch (error) {
        if (!this.loaded!.encodes) throw error;
      }
    }
    return this.loaded!.encodes ? null : api.embedding(await this.uploaded(photo));
  }

  decode(photo: Photo, prompt: Prompt, multimask: boolean): Promise<Replies["decode"]> {
    return this.client.ask({ kind: "decode", photo: photo.key, prompt, multimask, withRings: true });
  }

  /**
   * The answer to a prompt on a crop of the photo, `first` being the one on the whole; null where the crop would show no
   * more, or where the browser has no encoder.
   */
  async closer(photo: Photo, prompt: Prompt, multimask: boolean, first: readonly Decoded[]): Promise<Decoded[] | null> {
    const { client, info } = this;
    const window = this.loaded?.encodes && info ? windowOf(prompt, first, photo.frame, info.side) : null;
    if (!window || !info) return null;
    const [x0, y0, x1, y1] = window;
    const scale = photo.view.width / photo.width;
    const bitmap = await createImageBitmap(photo.view, x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
    const frame = frameOf([y1 - y0, x1 - x0], info.side);
    const key = -++this.looks;
    await client.ask({ kind: "encode", photo: key, frame, bitmap }, { transfer: [bitmap] });
    const moved = movedPrompt(prompt, photo.frame, window, frame, this.cells);
    const { masks } = await client.ask({ kind: "decode", photo: key, prompt: moved, multimask, withRings: true });
    void client.ask({ kind: "forget", photo: key });
    const whole = { frame: photo.frame, cells: 2 * this.cells, at: [0, 0] as const };
    return masks.map(({ logits, rings, predictedIou }) => ({
      predictedIou,
      logits: resample(logits, { frame, cells: this.cells, at: [x0, y0] }, whole),
      rings: { xy: rings.xy.map((v, i) => v + window[i % 2]), ends: rings.ends },
    }));
  }

  /** The outline of the best mask, quick and a little coarser; for prompts without a mask. */
  preview(photo: Photo, prompt: Prompt, multimask: boolean): Promise<Replies["preview"]> {
    return this.client.ask({ kind: "preview", photo: photo.key, prompt, multimask });
  }

  forget(photo: Photo): void {
    this.encoding.delete(photo.key);
    this.photos.delete(photo.key);
    void this.client.ask({ kind: "forget", photo: photo.key }).catch(() => {}); // a new client never knew it
  }

  async uploaded(photo: Photo, signal?: AbortSignal): Promise<string> {
    if (photo.serverId) return photo.serverId;
    const info = this.info!;
    if (photo.file.size > info.upload_bytes || photo.width * photo.height > info.upload_pixels) {
      throw new Error(`it is too large for this server (${Math.round(info.upload_pixels / 1e6)} megapixels).`);
    }
    const { id } = await api.upload(photo.file, signal);
    photo.serverId = id;
    return id;
  }

  reason(error: unknown): string {
    if (error instanceof TypeError && /fetch/i.test(error.message)) {
      this.serverIsThere = false;
      return "the server does not answer. Start it again with `anymask serve`.";
    }
    return error instanceof Error ? error.message : String(error);
  }
}
