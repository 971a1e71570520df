// Changes of photos, one after the other in the order they were made; what fails changes nothing.

import { announce, toast } from "./progress";
import type { Photo, Scene } from "./state";
import type { Studio } from "./studio";

export class Edits {
  private line: Promise<unknown> = Promise.resolve();
  private pending = 0;

  constructor(private readonly studio: Studio) {}

  get isPending(): boolean {
    return this.pending > 0;
  }

  run(change: (photo: Photo) => Promise<void>): Promise<void> {
    const photo = this.studio.photo;
    if (!photo) return Promise.resolve();
    this.pending++;
    const result = this.line.then(async () => {
      try {
        await change(photo);
      } catch (error) {
        if (photo.status !== "failed") toast(`That did not work: ${this.studio.machine.reason(error)}`, "bad");
      } finally {
        this.pending--;
        this.studio.view.set({ pending: null });
        this.studio.onChange();
      }
    });
    this.line = result;
    return result;
  }

  commit(photo: Photo, scene: Scene): void {
    photo.history.commit(scene);
    this.studio.changed(photo);
  }

  /** Resolved when all that was asked so far is done. */
  async settled(): Promise<void> {
    await this.line;
  }

  undo(): Promise<void> {
    return this.run(async (photo) => {
      if (photo.history.undo()) announce("Undone.");
      this.studio.changed(photo);
    });
  }

  redo(): Promise<void> {
    return this.run(async (photo) => {
      if (photo.history.redo()) announce("Redone.");
      this.studio.changed(photo);
    });
  }
}
