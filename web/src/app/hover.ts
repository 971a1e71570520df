// Under the pointer: what a click here would give. Only the latest place counts.

import type { Xy } from "../core/geometry";
import type { Prompt } from "../model/protocol";
import { sleep } from "./progress";
import type { Studio } from "./studio";

export class Hover {
  private at: Xy | null = null;
  private isFollowing = false;

  constructor(private readonly studio: Studio) {}

  reset(): void {
    this.at = null;
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
        const photo = this.studio.photo;
        if (!photo || photo.status !== "ready" || photo.scene.draft || this.studio.isBusy) return;
        const at: Xy = this.at;
        const prompt: Prompt = { points: [at], labels: [1], box: null, mask: null };
        const { masks, ms } = await this.studio.machine.decode(photo, prompt, true);
        this.studio.decodeMs = ms;
        done = at;
        if (this.at && photo === this.studio.photo && !photo.scene.draft && !this.studio.isBusy) {
          this.studio.view.set({ hover: masks[0]?.rings ?? null });
          this.studio.onChange();
        }
        await sleep(16); // leave room for clicks
      }
    } catch {
      this.studio.view.set({ hover: null }); // a preview is never worth a message
    } finally {
      this.isFollowing = false;
    }
  }
}
