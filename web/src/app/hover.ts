// Under the pointer: what a click here would give. Only the latest place counts. A moving pointer gets quick outlines;
// where it rests the mask itself is made, so that a click there has its answer already.

import type { Rings } from "../core/contours";
import type { Xy } from "../core/geometry";
import type { Prompt, Replies } from "../model/protocol";
import { sleep } from "./progress";
import type { Photo } from "./state";
import type { Studio } from "./studio";

const REST_MS = 100; // without a move, and the pointer rests

export class Hover {
  private at: Xy | null = null;
  private isFollowing = false;
  private known: { readonly photo: Photo; readonly at: Xy; readonly reply: Replies["decode"] } | null = null;

  constructor(private readonly studio: Studio) {}

  reset(): void {
    this.at = this.known = null;
  }

  /** What a first click at this place gives, where the pointer has rested there. */
  answer(photo: Photo, [x, y]: Xy): Replies["decode"] | null {
    const { known } = this;
    return known && known.photo === photo && known.at[0] === x && known.at[1] === y ? known.reply : null;
  }

  over(xy: Xy | null): void {
    this.at = xy && this.studio.view.isInside(xy) ? xy : null;
    if (!this.at || this.studio.scene.draft || this.studio.isBusy) this.studio.view.set({ hover: null });
    if (!this.isFollowing) void this.follow();
  }

  private async follow(): Promise<void> {
    this.isFollowing = true;
    try {
      let done: Xy | null = null;
      while (this.at && this.at !== done) {
        const { at } = this;
        const photo = this.free();
        if (!photo) return;
        const prompt: Prompt = { points: [at], labels: [1], box: null, mask: null };
        const { rings, ms } = await this.studio.machine.preview(photo, prompt, true);
        this.show(photo, rings, ms);
        await sleep(16); // leave room for clicks
        if (this.at === at) await sleep(REST_MS);
        if (this.at === at && this.free() === photo) {
          const reply = await this.studio.machine.decode(photo, prompt, true);
          this.known = { photo, at, reply };
          if (this.at === at) this.show(photo, reply.masks[0].rings, reply.ms);
        }
        done = at;
      }
    } catch {
      this.studio.view.set({ hover: null }); // a preview is never worth a message
    } finally {
      this.isFollowing = false;
    }
  }

  /** The photo, if it waits for a first click. */
  private free(): Photo | null {
    const { photo } = this.studio;
    return photo && photo.status === "ready" && !photo.scene.draft && !this.studio.isBusy ? photo : null;
  }

  private show(photo: Photo, hover: Rings, ms: number): void {
    this.studio.decodeMs = ms;
    if (!this.at || this.free() !== photo) return;
    this.studio.view.set({ hover });
    this.studio.onChange();
  }
}
