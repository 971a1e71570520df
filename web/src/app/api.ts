// The server's side of the work. The page goes on without it where it can.

import type { Rle } from "../core/rle";
import type { ModelInfo } from "../model/protocol";

export interface Sample {
  readonly name: string;
  readonly title: string;
  readonly credit: string;
  readonly url: string;
}

export interface Uploaded {
  readonly id: string;
  readonly encode_ms: number;
}

export interface ServerMask {
  readonly segmentation: Rle;
  readonly area: number;
  readonly predicted_iou: number;
  readonly stability_score: number;
  readonly point_coords: readonly (readonly [number, number])[];
}

/** The server answered, and said no. */
export class ServerError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  for (let attempt = 0; ; attempt++) {
    const response = await fetch(path, init);
    if (response.ok) return response;
    const wait = Number(response.headers.get("retry-after") ?? 1);
    if (response.status === 503 && attempt < 3 && !init.signal?.aborted) {
      await new Promise((resolve) => setTimeout(resolve, Math.min(wait, 5) * 1000));
      continue;
    }
    const detail = await response
      .json()
      .then((body: { detail?: unknown }) => String(body.detail))
      .catch(() => response.statusText);
    throw new ServerError(response.status, detail);
  }
}

export const model = async (): Promise<ModelInfo> => (await ask("/api/model")).json();
export const samples = async (): Promise<Sample[]> => (await ask("/api/samples")).json();
export const sampleBlob = async (url: string): Promise<Blob> => (await ask(url)).blob();

export async function upload(file: Blob, signal?: AbortSignal): Promise<Uploaded> {
  const headers = { "content-type": "application/octet-stream" };
  return (await ask("/api/images", { method: "POST", body: file, headers, signal })).json();
}

export async function embedding(id: string, signal?: AbortSignal): Promise<ArrayBuffer> {
  return (await ask(`/api/images/${id}/embedding`, { signal })).arrayBuffer();
}

/** Masks of everything; progress as a share. Abort to end the search. */
export async function everything(
  id: string,
  pointsPerSide: number,
  leastRegionPx: number,
  onProgress: (part: number) => void,
  signal: AbortSignal,
): Promise<ServerMask[]> {
  const response = await ask(`/api/images/${id}/everything`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ points_per_side: pointsPerSide, min_mask_region_area: leastRegionPx }),
    signal,
  });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the server stopped before it was done.");
    text += value;
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      const event = JSON.parse(text.slice(0, end));
      text = text.slice(end + 1);
      if (event.type === "progress") onProgress(event.done / event.total);
      else if (event.type === "result") return event.masks;
    }
  }
}
