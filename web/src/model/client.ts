// The page's side of the worker: requests as promises.

import type { FromWorker, Replies, Request, ToWorker } from "./protocol";

interface Waiting {
  readonly resolve: (reply: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly onProgress?: (part: number, label: string) => void;
}

const REPLACED = "the model was replaced by a newer one.";

export class ModelClient {
  private readonly worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  private readonly waiting = new Map<number, Waiting>();
  private nextId = 1;
  private isClosed = false;

  constructor() {
    this.worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      const waiting = this.waiting.get(data.id);
      if (!waiting) return;
      if (data.kind === "progress") {
        waiting.onProgress?.(data.part, data.label);
        return;
      }
      this.waiting.delete(data.id);
      if (data.kind === "done") waiting.resolve(data.reply);
      else waiting.reject(new Error(data.message));
    };
    this.worker.onerror = (event) => {
      const error = new Error(event.message || "the model's worker stopped.");
      for (const waiting of this.waiting.values()) waiting.reject(error);
      this.waiting.clear();
    };
  }

  /** The worker and all it holds go; what waits fails. */
  close(): void {
    this.isClosed = true;
    this.worker.terminate();
    for (const waiting of this.waiting.values()) waiting.reject(new Error(REPLACED));
    this.waiting.clear();
  }

  /** `signal` asks the worker to end early; the reply then holds what there is. */
  ask<K extends Request["kind"]>(
    request: Extract<Request, { kind: K }>,
    options: {
      transfer?: Transferable[];
      onProgress?: (part: number, label: string) => void;
      signal?: AbortSignal;
    } = {},
  ): Promise<Replies[K]> {
    if (this.isClosed) return Promise.reject(new Error(REPLACED));
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve: resolve as (reply: unknown) => void, reject, onProgress: options.onProgress });
      options.signal?.addEventListener("abort", () => void this.ask({ kind: "cancel", target: id }));
      this.worker.postMessage({ id, request } satisfies ToWorker, options.transfer ?? []);
    });
  }
}
