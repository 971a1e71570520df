// The store follows the photo on the screen: whatever changes an object there, a click, an undo, a key, becomes a step
// for the outbox. What the page shows is always the plan, and the store catches up.

import { packRuns, toRuns } from "../core/rle";
import { rasterize } from "../core/shape";
import type { StoredMask, Task } from "./api";
import type { Outbox, Ref } from "./outbox";
import type { Item, Photo } from "./state";

interface Followed {
  item: Item; // as the store knows it, or will
  ref: Ref;
  gone: string | null; // the key of the review that rejected it
  readonly looks: { readonly key: string; readonly before: Item }[]; // reviews made here, the last one last
}

/** What a new mask is called until somebody gives it a name. */
export const isUnnamed = (name: string): boolean => /^Object \d+$/.test(name);

export interface Clock {
  lap(): number; // seconds since the last mask
  made(seconds: number): void; // a mask that was not there before
}

export class Follower {
  private readonly known = new Map<number, Followed>();

  constructor(
    private readonly task: Task,
    private readonly photo: Photo,
    private readonly worker: string,
    private readonly outbox: Outbox,
    private readonly clock: Clock,
  ) {
    photo.scene.items.forEach((item, i) =>
      this.known.set(item.id, { item, ref: task.masks[i].id, gone: null, looks: [] }),
    );
  }

  /** The id of an object's mask in the store, once it is there. */
  refOf(item: Item): Ref | null {
    return this.known.get(item.id)?.ref ?? null;
  }

  /** Bring the store up to what is shown. */
  follow(): void {
    const { items } = this.photo.scene;
    for (const item of items) {
      const followed = this.known.get(item.id);
      if (!followed) this.add(item);
      else if (followed.item !== item) this.change(followed, item);
      else if (followed.gone) this.bringBack(followed);
    }
    const shown = new Set(items.map((item) => item.id));
    for (const [id, followed] of this.known) if (!shown.has(id) && !followed.gone) this.reject(followed);
  }

  private add(item: Item): void {
    this.known.set(item.id, { item, ref: { by: this.save(item) }, gone: null, looks: [] });
  }

  private change(followed: Followed, item: Item): void {
    if (followed.gone) this.bringBack(followed);
    const before = followed.item;
    followed.item = item;
    const isSame = item.shape === before.shape && item.name === before.name;
    if (this.task.kind === "annotate") {
      if (!isSame) followed.ref = { by: this.save(item, followed.ref) };
      return;
    }
    const last = followed.looks.at(-1);
    if (last && last.before.mark === item.mark && last.before.shape === item.shape && last.before.name === item.name) {
      followed.looks.pop();
      followed.ref = { by: this.undo(followed.ref, last.key) };
    } else if (!isSame) {
      const key = this.look(followed, { action: "edit", edited: this.drawn(item) });
      followed.looks.push({ key, before });
      followed.ref = { by: key };
    } else if (item.mark !== before.mark && (item.mark === "accepted" || item.mark === "rejected")) {
      followed.looks.push({ key: this.look(followed, { action: item.mark === "accepted" ? "accept" : "reject" }), before });
    }
  }

  private reject(followed: Followed): void {
    followed.gone = this.look(followed, { action: "reject" });
  }

  private bringBack(followed: Followed): void {
    this.undo(followed.ref, followed.gone!);
    followed.gone = null;
  }

  private save(item: Item, replaces?: Ref): string {
    const body = { worker: this.worker, token: this.task.token, mask: this.drawn(item) };
    if (replaces === undefined) this.clock.made(body.mask.seconds);
    const key = body.mask.save_key;
    this.outbox.put({ key, path: `/api/tasks/${this.task.id}/masks`, body, replaces });
    return key;
  }

  private look(followed: Followed, what: Record<string, unknown>): string {
    const key = (what.edited as { save_key: string } | undefined)?.save_key ?? this.outbox.newKey();
    const body = { reviewer: this.worker, seconds: this.clock.lap(), ...what };
    this.outbox.put({ key, path: "/api/masks/{mask}/reviews", mask: followed.ref, body });
    return key;
  }

  private undo(mask: Ref, review: string): string {
    const key = this.outbox.newKey();
    const path = "/api/masks/{mask}/reviews/{review}/undo";
    this.outbox.put({ key, path, mask, review: { by: review }, body: { reviewer: this.worker } });
    return key;
  }

  private drawn(item: Item) {
    const { width, height, frame } = this.photo;
    const counts = packRuns(toRuns(rasterize(item.shape, frame, width, height)));
    const clicks = item.made?.clicks.map(({ xy, adds }) => ({ x: xy[0], y: xy[1], adds })) ?? [];
    return {
      save_key: this.outbox.newKey(),
      segmentation: { size: [height, width], counts },
      prompts: { clicks, box: item.made?.box ?? null, num_strokes: item.made?.numStrokes ?? 0 },
      predicted_iou: item.predictedIou,
      seconds: this.clock.lap(),
      label: isUnnamed(item.name) ? null : item.name,
    };
  }
}

/** Objects of the store as the page shows them. */
export function markOf(mask: StoredMask): Item["mark"] {
  if (mask.is_prefilled) return "prefilled";
  return mask.state === "accepted" ? "accepted" : mask.state === "rejected" ? "rejected" : undefined;
}
