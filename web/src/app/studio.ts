// What the app does, apart from how it looks: the photos, and the rooms that work on them. The page listens with
// `onChange`.

import { ringsArea, type Rings } from "../core/contours";
import type { Xy } from "../core/geometry";
import { contains } from "../core/shape";
import { Drafting } from "./drafting";
import { Edits } from "./edits";
import { Hover } from "./hover";
import { Machine } from "./machine";
import { Objects } from "./objects";
import { NotAPhoto, openPhoto } from "./open";
import { announce, type Progress, toast } from "./progress";
import { Search } from "./search";
import { type Candidate, EMPTY, type Photo, type Scene, shapeOf } from "./state";
import type { View } from "./view";

const MOST_PHOTOS = 64;

export class Studio {
  readonly photos: Photo[] = [];
  current = -1;
  decodeMs: number | null = null;
  drawnMs: number | null = null;
  onChange: () => void = () => {};
  onScene: (photo: Photo) => void = () => {}; // the objects of a photo have changed

  readonly machine: Machine;
  readonly edits = new Edits(this);
  readonly drafting = new Drafting(this);
  readonly objects = new Objects(this);
  readonly hover = new Hover(this);
  readonly search = new Search(this);
  private nextKey = 1;
  private guest: Photo | null | undefined; // of a project; undefined: the person's own photos are on the table

  constructor(
    readonly view: View,
    readonly progress: Progress,
  ) {
    this.machine = new Machine(progress, () => this.onChange());
  }

  get photo(): Photo | null {
    return this.guest === undefined ? (this.photos[this.current] ?? null) : this.guest;
  }

  /** A project is being worked on, not the person's own photos. */
  get isGuest(): boolean {
    return this.guest !== undefined;
  }

  get scene(): Scene {
    return this.photo?.scene ?? EMPTY;
  }

  get isBusy(): boolean {
    return this.edits.isPending || this.search.isRunning;
  }

  newKey(): number {
    return this.nextKey++;
  }

  async open(files: readonly { blob: Blob; name: string }[]): Promise<void> {
    let first = true;
    const task = this.progress.start("Opening");
    try {
      for (const { blob, name } of files) {
        if (this.photos.length >= MOST_PHOTOS) {
          toast(`Up to ${MOST_PHOTOS} photos can be open at once.`, "bad");
          break;
        }
        try {
          const photo = await openPhoto(blob, name, this.newKey(), await this.machine.side());
          this.photos.push(photo);
          if (first) this.show(this.photos.length - 1);
          first = false;
        } catch (error) {
          toast(error instanceof NotAPhoto ? error.message : `${name} could not be opened: ${String(error)}`, "bad");
        }
      }
    } finally {
      task.done();
      this.onChange();
    }
  }

  show(index: number): void {
    if (!this.photos[index]) return;
    this.current = index;
    this.put(this.photo!);
  }

  step(by: number): void {
    if (this.photos.length > 1) this.show((this.current + by + this.photos.length) % this.photos.length);
  }

  /** Put a project's photo on the table; null: there is none, undefined: back to the person's own. */
  showGuest(photo: Photo | null | undefined): void {
    this.guest = photo;
    this.put(this.photo);
  }

  private put(photo: Photo | null): void {
    this.hover.reset();
    this.view.show(photo);
    this.onChange();
    if (!photo) return;
    announce(`${photo.name}, ${photo.width} by ${photo.height} pixels.`);
    void this.machine.encoded(photo).catch(() => {});
    performance.mark("anymask:photo-shown");
  }

  changed(photo: Photo): void {
    if (photo === this.photo) this.view.show(photo);
    this.onScene(photo);
    this.onChange();
  }

  // --- words --------------------------------------------------------------------------------------------------

  share(rings: Rings): number {
    return this.photo ? (100 * ringsArea(rings)) / (this.photo.width * this.photo.height) : 0;
  }

  describe(candidate: Candidate | undefined, index: number, count: number): string {
    if (!candidate) return "No mask.";
    const iou = candidate.predictedIou === null ? "" : `, predicted IoU ${candidate.predictedIou.toFixed(2)}`;
    return `Mask ${index + 1} of ${count}${iou}, ${this.share(candidate.rings).toFixed(1)} percent of the photo.`;
  }

  isInsideDraft(xy: Xy): boolean {
    const draft = this.scene.draft;
    return draft !== null && this.photo !== null && contains(shapeOf(draft), this.photo.frame, xy);
  }
}
