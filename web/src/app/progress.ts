// A bar for whatever takes longer than 200 ms, and short messages.

import { icon } from "./icons";

const PATIENCE_MS = 200;

export interface Task {
  update(part: number | null, label?: string): void;
  done(): void;
}

interface Running {
  label: string;
  part: number | null;
  readonly cancel: (() => void) | null;
  readonly since: number;
}

export class Progress {
  private readonly running: Running[] = [];

  constructor(private readonly box: HTMLElement) {
    box.querySelector("button")!.addEventListener("click", () => this.shown()?.cancel?.());
  }

  start(label: string, cancel: (() => void) | null = null): Task {
    const entry: Running = { label, part: null, cancel, since: performance.now() };
    this.running.push(entry);
    const timer = setTimeout(() => this.paint(), PATIENCE_MS + 5);
    return {
      update: (part, text) => {
        entry.part = part;
        if (text) entry.label = text;
        this.paint();
      },
      done: () => {
        clearTimeout(timer);
        const at = this.running.indexOf(entry);
        if (at >= 0) this.running.splice(at, 1);
        this.paint();
      },
    };
  }

  private shown(): Running | undefined {
    const now = performance.now();
    return this.running.filter((entry) => now - entry.since >= PATIENCE_MS).at(-1);
  }

  private paint(): void {
    const entry = this.shown();
    this.box.hidden = !entry;
    if (!entry) return;
    this.box.querySelector<HTMLElement>(".label")!.textContent = entry.label;
    this.box.setAttribute("aria-label", entry.label);
    this.box.querySelector<HTMLElement>("button")!.hidden = !entry.cancel;
    this.box.toggleAttribute("data-unknown", entry.part === null);
    const bar = this.box.querySelector<HTMLElement>("i")!;
    if (entry.part === null) {
      bar.style.width = "";
      this.box.removeAttribute("aria-valuenow");
    } else {
      bar.style.width = `${Math.round(100 * entry.part)}%`;
      this.box.setAttribute("aria-valuenow", String(Math.round(100 * entry.part)));
    }
  }
}

export function toast(message: string, kind: "info" | "good" | "bad" = "info"): void {
  const box = document.getElementById("toasts")!;
  const element = document.createElement("div");
  element.className = "toast";
  element.dataset.kind = kind;
  const text = document.createElement("span");
  text.textContent = message;
  const close = document.createElement("button");
  close.className = "quiet";
  close.setAttribute("aria-label", "Close the message");
  close.innerHTML = icon("close");
  close.addEventListener("click", () => element.remove());
  element.append(text, close);
  box.append(element);
  while (box.children.length > 4) box.firstElementChild!.remove();
  setTimeout(() => element.remove(), kind === "bad" ? 12_000 : 5_000);
}

export function announce(message: string): void {
  document.getElementById("live")!.textContent = message;
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
