// The paper's rating study: one mask after the other, five views of each, a number from 1 to 10. Nobody learns whose it is.

import { type Bitmap } from "../core/upscale";
import { decodeRle, rleBox } from "../core/rle";
import { nextJob, type RatingJob, study, studyPhoto } from "./api";
import type { Outbox } from "./outbox";
import { $ } from "./panels";
import { announce, sleep, toast } from "./progress";
import { Stopwatch } from "./stopwatch";

const LONGEST = 1000; // pixels a side of a view
const ZOOM = 1.6; // times the mask's box
const BLUE = "#1e88ff";

/** A part of the photo (x, y, w, h) and whether the mask lies over it, or stands alone. */
interface Look {
  readonly part: readonly [number, number, number, number];
  readonly paint: "nothing" | "over" | "alone";
}

export class Rating {
  private rater = "";
  private job: RatingJob | null = null;
  private visit = 0;
  private numRated = 0;
  private readonly watch = new Stopwatch();

  constructor(private readonly outbox: Outbox) {
    const buttons = Array.from({ length: 10 }, (_, i) => {
      const button = document.createElement("button");
      button.textContent = String(i + 1);
      button.title = `Rate ${i + 1} (${(i + 1) % 10})`;
      button.addEventListener("click", () => this.give(i + 1));
      return button;
    });
    $("rate-buttons").append(...buttons);
    for (const figure of document.querySelectorAll<HTMLElement>("#rate figure")) {
      figure.addEventListener("click", () => figure.classList.toggle("whole"));
    }
    window.addEventListener("keydown", (event) => {
      if (!this.rater || document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") document.querySelector("#rate .whole")?.classList.remove("whole");
      if (/^[0-9]$/.test(event.key)) this.give(Number(event.key) || 10);
    });
  }

  async open(rater: string): Promise<void> {
    this.rater = rater;
    const visit = ++this.visit;
    document.body.dataset.room = "rate";
    $("rate").hidden = false;
    await this.outbox.empty(); // what was rated before must not come again
    if (visit === this.visit) await this.next();
  }

  leave(): void {
    this.visit++;
    this.rater = "";
    this.job = null;
    $("rate").hidden = true;
  }

  private give(rating: number): void {
    const { job } = this;
    if (!job) return;
    this.job = null;
    this.numRated++;
    this.watch.stop();
    const body = { rater: this.rater, job: job.key, rating, seconds: this.watch.seconds };
    this.outbox.put({ key: this.outbox.newKey(), path: "/api/study/ratings", body });
    announce(`Rated ${rating}.`);
    void this.outbox.empty().then(() => this.next());
  }

  private async next(): Promise<void> {
    const { visit } = this;
    this.enable(false);
    for (;;) {
      try {
        const job = await nextJob(this.rater);
        if (visit !== this.visit) return;
        const about = await study();
        $("rate-count").textContent = about ? `${about.rated} of ${about.jobs} masks rated · ${this.numRated} by you now` : "";
        $("rate-over").hidden = job !== null;
        $("rate-views").hidden = job === null;
        if (!job) return;
        const bitmap = await createImageBitmap(await studyPhoto(job.photo), { imageOrientation: "from-image" });
        if (visit !== this.visit) return bitmap.close();
        this.show(job, bitmap);
        bitmap.close();
        this.job = job;
        this.watch.restart();
        this.enable(true);
        return;
      } catch (error) {
        toast(`The next mask could not be fetched: ${error instanceof Error ? error.message : error}`, "bad");
        await sleep(4000);
        if (visit !== this.visit) return;
      }
    }
  }

  private enable(is: boolean): void {
    for (const button of document.querySelectorAll<HTMLButtonElement>("#rate-buttons button")) button.disabled = !is;
  }

  private show(job: RatingJob, photo: ImageBitmap): void {
    const mask = decodeRle(job.segmentation);
    const [x, y, w, h] = rleBox(job.segmentation) ?? [0, 0, photo.width, photo.height];
    const side = Math.max(w, h, 48) * ZOOM;
    const left = Math.max(0, x + w / 2 - side / 2);
    const top = Math.max(0, y + h / 2 - side / 2);
    const near = [left, top, Math.min(side, photo.width - left), Math.min(side, photo.height - top)] as const;
    const all = [0, 0, photo.width, photo.height] as const;
    const looks: Look[] = [
      { part: all, paint: "nothing" },
      { part: all, paint: "over" },
      { part: all, paint: "alone" },
      { part: near, paint: "nothing" },
      { part: near, paint: "over" },
    ];
    document.querySelectorAll<HTMLElement>("#rate figure").forEach((figure, i) => {
      figure.classList.remove("whole");
      paint(figure.querySelector("canvas")!, photo, mask, job.point ?? null, looks[i]);
    });
  }
}

function paint(canvas: HTMLCanvasElement, photo: ImageBitmap, mask: Bitmap, point: readonly number[] | null, look: Look): void {
  const [left, top, w, h] = look.part;
  const scale = Math.min(LONGEST / Math.max(w, h), 8);
  [canvas.width, canvas.height] = [Math.round(w * scale), Math.round(h * scale)];
  const c = canvas.getContext("2d")!;
  c.imageSmoothingEnabled = scale < 3;
  c.setTransform(scale, 0, 0, scale, -left * scale, -top * scale);
  c.drawImage(photo, 0, 0);
  c.imageSmoothingEnabled = scale < 1; // enlarged, the mask shows its own pixels
  if (look.paint !== "nothing") c.drawImage(maskImage(mask, look.paint === "alone"), 0, 0);
  if (!point || look.paint === "alone") return;
  c.beginPath();
  c.arc(point[0], point[1], 7 / scale, 0, 7);
  c.fillStyle = BLUE;
  c.strokeStyle = "#fff";
  c.lineWidth = 2 / scale;
  c.fill();
  c.stroke();
}

function maskImage({ width, height, data }: Bitmap, alone: boolean): OffscreenCanvas {
  const canvas = new OffscreenCanvas(width, height);
  const c = canvas.getContext("2d")!;
  const image = c.createImageData(width, height);
  const [inside, outside] = alone
    ? [0xff25e7fd, 0xff540144] // yellow on purple, as bytes from the last to the first: alpha, blue, green, red
    : [0x8c2020ff, 0];
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < data.length; i++) pixels[i] = data[i] ? inside : outside;
  c.putImageData(image, 0, 0);
  return canvas;
}
