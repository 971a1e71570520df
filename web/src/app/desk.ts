// A person at work on a project: one photo after the other, the next one fetched while this one is worked on.

import { outlineRings, type Shape } from "../core/shape";
import * as api from "./api";
import { Follower, markOf } from "./follow";
import { openPhoto } from "./open";
import { Outbox } from "./outbox";
import { announce, sleep, toast } from "./progress";
import type { Item, Mark, Photo } from "./state";
import { Stopwatch } from "./stopwatch";
import type { Studio } from "./studio";

const RENEW_MS = 60_000;
const RETRY_MS = 2_000;
export const LONG_SECONDS = 30; // the paper's guide for one mask

/** A leased photo, ready to be worked on. */
export interface Sheet {
  readonly task: api.Task;
  readonly photo: Photo;
  readonly follower: Follower;
}

export class Desk {
  kind: api.Kind | null = null; // null: the person is in the studio
  worker = "";
  project: api.Project | null = null;
  sheet: Sheet | null = null;
  isWaiting = false; // for the next photo
  isFinished = false; // nothing is left for this person
  numDone = 0; // photos of this sitting
  numMasks = 0;
  maskSeconds = 0;
  onChange: () => void = () => {};
  readonly outbox = new Outbox();
  readonly watch = new Stopwatch();

  private readonly clock = {
    lap: () => this.watch.lap(),
    made: (seconds: number) => {
      this.numMasks++;
      this.maskSeconds += seconds;
    },
  };
  private readonly inHand: number[] = []; // ids of tasks, the last ones
  private ahead: Promise<Sheet | null> | null = null;
  private fetched: Sheet | null = null; // what `ahead` has given
  private visit = 0; // counts openings: what belongs to an earlier one is dropped

  constructor(private readonly studio: Studio) {
    this.outbox.onChange = () => this.onChange();
    studio.onScene = (photo) => {
      if (photo === this.sheet?.photo) this.sheet.follower.follow();
    };
    setInterval(() => void this.renew(), RENEW_MS);
    window.addEventListener("pagehide", () => this.giveBack(this.fetched));
  }

  /** Begin, or go on with, annotating or reviewing. */
  async open(kind: api.Kind, worker: string): Promise<void> {
    this.leave();
    const visit = this.visit;
    [this.kind, this.worker, this.isFinished] = [kind, worker, false];
    this.studio.drafting.editedMark = kind === "review" ? "edited" : undefined;
    this.studio.showGuest(null);
    this.isWaiting = true;
    this.onChange();
    void this.refresh();
    await this.outbox.empty(); // a photo that is given out anew must show all that was saved on it
    if (visit !== this.visit) return;
    await this.show(await this.take(visit), visit);
  }

  /** Back to the studio. What is leased ahead goes to others; the photo on the table stays this person's. */
  leave(): void {
    this.visit++;
    this.giveBack(this.fetched);
    [this.kind, this.sheet, this.ahead, this.fetched] = [null, null, null, null];
    this.isWaiting = false;
    this.watch.stop();
    this.studio.drafting.editedMark = undefined;
    this.studio.showGuest(undefined);
    this.onChange();
  }

  /** The photo is done, or skipped: on to the next. */
  async done(skip = false): Promise<void> {
    const { sheet, visit } = this;
    if (!sheet || this.isWaiting) return;
    const started = performance.now();
    this.isWaiting = true;
    if (!skip && this.studio.scene.draft?.rings) await this.studio.drafting.accept();
    await this.studio.edits.settled();
    if (visit !== this.visit) return;
    this.watch.stop();
    const body = { worker: this.worker, token: sheet.task.token, skip, seconds: this.watch.seconds };
    this.outbox.put({ key: this.outbox.newKey(), path: `/api/tasks/${sheet.task.id}/finish`, body });
    this.numDone += skip ? 0 : 1;
    this.sheet = null;
    const next = await (this.ahead ?? this.take(visit));
    [this.ahead, this.fetched] = [null, null];
    await this.show(next, visit);
    performance.measure("anymask:next", { start: started, end: performance.now() });
    this.studio.machine.forget(sheet.photo);
    sheet.photo.view.close();
    void this.outbox.empty().then(() => this.refresh());
  }

  private async show(sheet: Sheet | null, visit: number): Promise<void> {
    if (visit !== this.visit) return;
    this.sheet = sheet;
    this.isWaiting = false;
    this.isFinished = sheet === null;
    this.studio.showGuest(sheet?.photo ?? null);
    if (!sheet) {
      announce("Nothing is left for you here.");
      this.onChange();
      return;
    }
    if (this.kind === "review") this.choose(0);
    await this.studio.machine.encoded(sheet.photo).catch(() => {});
    await this.studio.view.painted();
    this.watch.restart();
    this.studio.view.canvas.focus({ preventScroll: true }); // keys mean the photo, not the button pressed last
    this.onChange();
    this.ahead = this.take(visit).then((next) => {
      if (visit === this.visit) this.fetched = next;
      else this.giveBack(next);
      return next;
    });
  }

  /** Lease the next photo and make it ready; keeps trying while the server does not answer. */
  private async take(visit: number): Promise<Sheet | null> {
    for (;;) {
      if (visit !== this.visit) return null;
      try {
        const task = await api.nextTask(this.worker, this.kind!, this.inHand);
        if (!task) return null;
        this.inHand.push(task.id);
        this.inHand.splice(0, this.inHand.length - 60);
        const photo = await this.photoOf(task);
        if (photo) return { task, photo, follower: new Follower(task, photo, this.worker, this.outbox, this.clock) };
      } catch (error) {
        if (error instanceof api.ServerError && error.status < 500) {
          toast(error.message, "bad");
          return null;
        }
        await sleep(RETRY_MS);
      }
    }
  }

  /** The photo of a task; null, and the task is skipped, where its file is gone. */
  private async photoOf(task: api.Task): Promise<Photo | null> {
    let blob: Blob;
    for (;;) {
      try {
        blob = await api.storedPhoto(task.image_id);
        break;
      } catch (error) {
        if (error instanceof api.ServerError && error.status === 410) {
          toast(`Skipped: ${error.message}`, "bad");
          const body = { worker: this.worker, token: task.token, skip: true };
          this.outbox.put({ key: this.outbox.newKey(), path: `/api/tasks/${task.id}/finish`, body });
          return null;
        }
        await sleep(RETRY_MS);
      }
    }
    const { studio } = this;
    const photo = await openPhoto(blob, task.file_name, studio.newKey(), await studio.machine.side(), task.image_id);
    const items: Item[] = task.masks.map((mask, i) => {
      const shape: Shape = { base: { kind: "rle", rle: mask.segmentation }, strokes: [] };
      const rings = outlineRings(shape, photo.frame);
      const name = mask.label ?? `Object ${i + 1}`;
      const [id, predictedIou] = [photo.nextId++, mask.predicted_iou];
      return { id, name, colour: i, hidden: false, shape, rings, predictedIou, pointXy: null, mark: markOf(mask) };
    });
    photo.history.replace({ items, draft: null, selected: null });
    void studio.machine.encoded(photo).catch(() => {}); // who clicks will be told
    return photo;
  }

  private async renew(): Promise<void> {
    for (const sheet of [this.sheet, this.fetched]) {
      if (!sheet) continue;
      try {
        await api.send(`/api/tasks/${sheet.task.id}/renew`, { worker: this.worker, token: sheet.task.token });
      } catch (error) {
        if (!(error instanceof api.ServerError) || error.status !== 409) continue; // the next minute will tell
        toast(`${error.message} What you accepted before is saved.`, "bad");
        if (sheet === this.sheet && this.kind) void this.open(this.kind, this.worker);
      }
    }
  }

  private giveBack(sheet: Sheet | null): void {
    if (!sheet) return;
    const body = { worker: this.worker, token: sheet.task.token };
    void api.send(`/api/tasks/${sheet.task.id}/release`, body, true).catch(() => {}); // else the lease runs out
    const at = this.inHand.indexOf(sheet.task.id);
    if (at >= 0) this.inHand.splice(at, 1);
  }

  async refresh(): Promise<void> {
    this.project = await api.project().catch(() => this.project);
    this.onChange();
    await this.takeOver();
  }

  /** Another model serves the project: the page's copy follows, with the photos that are open. */
  private async takeOver(): Promise<void> {
    const { machine, edits } = this.studio;
    if (!machine.loaded || !this.project || this.project.model === machine.info?.stamp) return;
    await edits.settled();
    try {
      await machine.renew();
      toast("A newer model of this project serves now.");
    } catch (error) {
      toast(`The newer model could not be loaded: ${machine.reason(error)} Reload the page to try again.`, "bad");
    }
  }

  // --- second looks ---------------------------------------------------------------------------------------------

  get isLookedAt(): boolean {
    return this.studio.scene.items.every((item) => item.mark !== undefined && item.mark !== "prefilled");
  }

  /** Accept or reject the chosen object and go to the next that nobody has looked at. */
  mark(mark: Mark, id = this.studio.scene.selected): Promise<void> {
    return this.studio.edits.run(async (photo) => {
      const item = photo.scene.items.find((candidate) => candidate.id === id);
      if (!item || photo !== this.sheet?.photo) return;
      const items = photo.scene.items.map((old) => (old === item && old.mark !== mark ? { ...old, mark } : old));
      const after = [...items.slice(items.findIndex((old) => old.id === id) + 1), ...items];
      const next = after.find((other) => other.mark === undefined || other.mark === "prefilled");
      this.studio.edits.commit(photo, { items, draft: null, selected: next?.id ?? null });
      this.studio.view.canvas.focus({ preventScroll: true });
      announce(`${item.name} ${mark}. ${next ? `Next: ${next.name}.` : "All masks of this photo are looked at."}`);
    });
  }

  /** Choose the object `by` places on; the first that nobody has looked at with 0. */
  choose(by: number): void {
    const { items, selected } = this.studio.scene;
    if (!items.length) return;
    const at = items.findIndex((item) => item.id === selected);
    const first = items.findIndex((item) => item.mark === undefined || item.mark === "prefilled");
    const index = by === 0 || at < 0 ? Math.max(first, 0) : (at + by + items.length) % items.length;
    this.studio.objects.select(items[index].id);
  }

  /** The masks that the server refused, as a file: nothing that was drawn is thrown away. */
  refused(): Blob {
    return new Blob([JSON.stringify(this.outbox.refusals, null, 2)], { type: "application/json" });
  }
}
