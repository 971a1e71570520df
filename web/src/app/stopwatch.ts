// A person's time on a photo and on one mask of it: it runs only while the page is in front of them.

export class Stopwatch {
  private total = 0; // seconds until `since`
  private since: number | null = null;
  private lapStart = 0;
  private runs = false;

  constructor() {
    for (const name of ["focus", "blur"]) window.addEventListener(name, () => this.look());
    document.addEventListener("visibilitychange", () => this.look());
  }

  /** Start from nought. */
  restart(): void {
    this.total = this.lapStart = 0;
    this.runs = true;
    this.since = null;
    this.look();
  }

  stop(): void {
    this.runs = false;
    this.look();
  }

  get seconds(): number {
    return this.total + (this.since === null ? 0 : (performance.now() - this.since) / 1000);
  }

  /** Since the last lap, or the start. */
  get lapSeconds(): number {
    return this.seconds - this.lapStart;
  }

  lap(): number {
    const seconds = this.lapSeconds;
    this.lapStart = this.seconds;
    return seconds;
  }

  private look(): void {
    const isSeen = this.runs && document.visibilityState === "visible" && document.hasFocus();
    if (isSeen && this.since === null) this.since = performance.now();
    if (!isSeen && this.since !== null) {
      this.total = this.seconds;
      this.since = null;
    }
  }
}
