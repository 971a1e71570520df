// The server's side of the work. The page goes on without it where it can.

import type { Rle } from "../core/rle";
import type {
  Event as HistoryEvent,
  History,
  ModelInfo,
  NextAnswer,
  Photo,
  Problem,
  JobAnswer,
  ProjectInfo as Project,
  RatingJob,
  Sample,
  StoredMaskInfo as StoredMask,
  StudyInfo,
  Task,
} from "./wire";

export type { HistoryEvent, Project, RatingJob, StoredMask, Task };
export type Kind = Task["kind"];

/** A line of the answer of `everything`. */
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
    throw new ServerError(response.status, await detailOf(response));
  }
}

function detailOf(response: Response): Promise<string> {
  return response
    .json()
    .then((body: Problem) => String(body.detail))
    .catch(() => response.statusText);
}

export const model = async (): Promise<ModelInfo> => (await ask("/api/model")).json();
const PATIENCE_MS = 20_000;

/** One step of a person at work. Throws ServerError where the server says no, another error where it does not answer. */
export async function send(path: string, body: unknown, keepalive = false): Promise<unknown> {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(PATIENCE_MS),
    keepalive,
  });
  if (!response.ok) throw new ServerError(response.status, await detailOf(response));
  return response.status === 204 ? null : response.json();
}

/** The project that is served; null where there is none. */
export async function project(): Promise<Project | null> {
  const response = await fetch("/api/project");
  return response.ok ? response.json() : null;
}

export async function nextTask(worker: string, kind: Kind, besides: readonly number[]): Promise<Task | null> {
  return ((await send("/api/tasks/next", { worker, kind, besides })) as NextAnswer).task;
}

/** The rating study that is served; null where there is none. */
export async function study(): Promise<StudyInfo | null> {
  const response = await fetch("/api/study");
  return response.ok ? response.json() : null;
}

export async function nextJob(rater: string): Promise<RatingJob | null> {
  return ((await send("/api/study/next", { rater })) as JobAnswer).job;
}

export const studyPhoto = async (photo: number): Promise<Blob> => (await ask(`/api/study/photos/${photo}`)).blob();

export const storedPhoto = async (id: number): Promise<Blob> => (await ask(`/api/project/images/${id}`)).blob();

export async function history(mask: number): Promise<HistoryEvent[]> {
  return ((await (await ask(`/api/masks/${mask}/history`)).json()) as History).events;
}

export async function storedEmbedding(id: number): Promise<ArrayBuffer> {
  return (await ask(`/api/project/images/${id}/embedding`)).arrayBuffer();
}

export const samples = async (): Promise<Sample[]> => (await ask("/api/samples")).json();
export const sampleBlob = async (url: string): Promise<Blob> => (await ask(url)).blob();

export async function upload(file: Blob, signal?: AbortSignal): Promise<Photo> {
  const headers = { "content-type": "application/octet-stream" };
  return (await ask("/api/images", { method: "POST", body: file, headers, signal })).json();
}

export async function embedding(id: string, signal?: AbortSignal): Promise<ArrayBuffer> {
  return (await ask(`/api/images/${id}/embedding`, { signal })).arrayBuffer();
}

/** Masks of everything, or with a phrase those that fit it first; progress as a share. Abort to end the search. */
export async function everything(
  id: string,
  pointsPerSide: number,
  leastRegionPx: number,
  phrase: string | null,
  onProgress: (part: number) => void,
  signal: AbortSignal,
): Promise<ServerMask[]> {
  const response = await ask(`/api/images/${id}/everything`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ points_per_side: pointsPerSide, min_mask_region_area: leastRegionPx, text: phrase }),
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
