// What is to be saved leaves through here: kept in the browser's storage until the server has it, sent in order, and
// again after every failure. Each step has a key of its own, so the server knows one that it has done already.

import { ServerError, send } from "./api";

/** A mask or review in the store: its id, or the key of the step that makes it. */
export type Ref = number | { readonly by: string };

export interface Step {
  readonly key: string;
  readonly path: string; // with {mask} and {review} for what the references say
  readonly body: Readonly<Record<string, unknown>>;
  readonly mask?: Ref;
  readonly review?: Ref;
  readonly replaces?: Ref; // goes into the body
}

/** A step that the server will not take, and why. */
export interface Refusal {
  readonly step: Step;
  readonly reason: string;
}

interface Result {
  readonly mask: number | null;
  readonly review: number | null;
}

const [WAITING, DONE] = ["anymask-out:", "anymask-done:"];
const BACKOFF_MS = [500, 1000, 2000, 4000, 8000];

export class Outbox {
  isOffline = false;
  readonly refusals: Refusal[] = [];
  onChange: () => void = () => {};

  private readonly memory = new Map<string, Step>(); // also what the storage has no room for
  private readonly results = new Map<string, Result>();
  private isSending = false;
  private wake: () => void = () => {};
  private count = 0;

  constructor() {
    window.addEventListener("online", () => this.retry());
    for (const name of stored(WAITING)) this.memory.set(name, read<Step>(WAITING + name)!);
    if (!this.memory.size) for (const name of stored(DONE)) remove(DONE + name);
    void this.drain();
  }

  get waiting(): number {
    return this.memory.size;
  }

  newKey(): string {
    const random = crypto.getRandomValues(new Uint32Array(2));
    const order = `${Date.now().toString(36).padStart(9, "0")}-${(this.count++).toString(36).padStart(4, "0")}`;
    return `${order}-${[...random].map((n) => n.toString(36)).join("")}`;
  }

  put(step: Step): void {
    this.memory.set(step.key, step);
    write(WAITING + step.key, step);
    this.onChange();
    void this.drain();
  }

  /** The id of a mask, once the store has it. */
  idOf(ref: Ref): number | null {
    if (typeof ref === "number") return ref;
    return this.memory.has(ref.by) ? null : (this.results.get(ref.by)?.mask ?? null);
  }

  /** Try now, not when it is time. */
  retry(): void {
    this.wake();
    void this.drain();
  }

  /** Resolved when nothing waits any more. */
  async empty(): Promise<void> {
    while (this.memory.size) await new Promise((resolve) => setTimeout(resolve, 50));
  }

  private async drain(): Promise<void> {
    if (this.isSending) return;
    this.isSending = true;
    try {
      // two pages of one browser share the storage, and take turns
      const locks = (navigator as { locks?: LockManager }).locks;
      if (locks) await locks.request("anymask-outbox", () => this.sendAll());
      else await this.sendAll();
    } finally {
      this.isSending = false;
    }
    if (this.memory.size) void this.drain();
  }

  private async sendAll(): Promise<void> {
    let failures = 0;
    while (this.memory.size) {
      const key = [...this.memory.keys()].sort()[0];
      const step = this.memory.get(key)!;
      try {
        this.done(key, await this.sendOne(step));
        failures = 0;
        this.isOffline = false;
      } catch (error) {
        if (error instanceof ServerError && error.status < 500 && error.status !== 401) {
          this.refusals.push({ step, reason: error.message });
          this.drop(key);
        } else {
          this.isOffline = true;
          this.onChange();
          await this.pause(BACKOFF_MS[Math.min(failures++, BACKOFF_MS.length - 1)]);
        }
      }
      this.onChange();
    }
  }

  private async sendOne(step: Step): Promise<Result> {
    const mask = step.mask === undefined ? null : this.resolve(step.mask).mask;
    const review = step.review === undefined ? null : this.resolve(step.review).review;
    const body = step.replaces === undefined ? step.body : { ...step.body, replaces: this.resolve(step.replaces).mask };
    const path = step.path.replace("{mask}", String(mask)).replace("{review}", String(review));
    const answer = (await send(path, body)) as { id?: number; mask_id?: number } | null;
    return { mask: answer?.mask_id ?? answer?.id ?? null, review: answer?.mask_id ? (answer.id ?? null) : null };
  }

  private resolve(ref: Ref): Result {
    if (typeof ref === "number") return { mask: ref, review: ref };
    const result = this.results.get(ref.by) ?? read<Result>(DONE + ref.by);
    if (!result) throw new ServerError(409, "the step before it was refused.");
    return result;
  }

  private done(key: string, result: Result): void {
    this.results.set(key, result);
    write(DONE + key, result);
    this.drop(key);
  }

  private drop(key: string): void {
    this.memory.delete(key);
    remove(WAITING + key);
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

// The storage may be forbidden or full: then the page itself keeps what waits, and warns before it is left.

function stored(prefix: string): string[] {
  try {
    return Object.keys(localStorage)
      .filter((name) => name.startsWith(prefix))
      .map((name) => name.slice(prefix.length));
  } catch {
    return [];
  }
}

function read<T>(name: string): T | null {
  try {
    return JSON.parse(localStorage.getItem(name) ?? "null") as T | null;
  } catch {
    return null;
  }
}

function write(name: string, value: unknown): void {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // kept in memory
  }
}

function remove(name: string): void {
  try {
    localStorage.removeItem(name);
  } catch {
    // was never there
  }
}
