// Messages between the page and the worker that runs the model.

import type { Rings } from "../core/contours";
import type { ModelInfo } from "../app/wire";
import type { Frame, Xyxy } from "../core/geometry";

export type { ModelInfo };

/** A prompt in pixels of the photo. mask: logits (n×n) on the model's square. */
export interface Prompt {
  readonly points: readonly (readonly [x: number, y: number])[];
  readonly labels: readonly number[];
  readonly box: Xyxy | null;
  readonly mask: Float32Array | null;
}

export interface Decoded {
  readonly logits: Float32Array; // n×n
  readonly predictedIou: number;
  readonly rings: Rings; // in pixels of the photo
}

export interface Found extends Decoded {
  readonly pointXy: readonly [number, number];
  readonly stability: number;
}

export interface Thresholds {
  readonly grid: number; // points a side
  readonly predictedIou: number;
  readonly stability: number;
  readonly stabilityOffset: number;
  readonly boxNms: number;
}

export type Request =
  | { readonly kind: "load"; readonly info: ModelInfo; readonly base: string; readonly threads: number }
  | { readonly kind: "encode"; readonly photo: number; readonly frame: Frame; readonly bitmap: ImageBitmap }
  | { readonly kind: "embed"; readonly photo: number; readonly frame: Frame; readonly halves: ArrayBuffer }
  | {
      readonly kind: "decode";
      readonly photo: number;
      readonly prompt: Prompt;
      readonly multimask: boolean;
      readonly withRings: boolean;
    }
  | { readonly kind: "preview"; readonly photo: number; readonly prompt: Prompt; readonly multimask: boolean }
  | { readonly kind: "everything"; readonly photo: number; readonly thresholds: Thresholds }
  | { readonly kind: "cancel"; readonly target: number }
  | { readonly kind: "forget"; readonly photo: number };

export interface Loaded {
  readonly provider: string; // "WASM" or "WebGPU"
  readonly threads: number;
  readonly encodes: boolean; // photos too, not only prompts
}

export interface Replies {
  load: Loaded;
  encode: { readonly ms: number };
  embed: { readonly ms: number };
  decode: { readonly masks: readonly Decoded[]; readonly ms: number };
  preview: { readonly rings: Rings; readonly ms: number };
  everything: { readonly masks: readonly Found[]; readonly ms: number };
  cancel: null;
  forget: null;
}

export type ToWorker = { readonly id: number; readonly request: Request };
export type FromWorker =
  | { readonly id: number; readonly kind: "done"; readonly reply: unknown }
  | { readonly id: number; readonly kind: "failed"; readonly message: string }
  | { readonly id: number; readonly kind: "progress"; readonly part: number; readonly label: string };
