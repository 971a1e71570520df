// Photos come in by dialog, drop, paste, or as a sample.

import * as api from "./api";
import { $ } from "./panels";
import { toast } from "./progress";
import type { Studio } from "./studio";

export function setUpFiles(studio: Studio): void {
  const toOpen = (files: Iterable<File>) => [...files].map((file) => ({ blob: file as Blob, name: file.name }));
  const files = $<HTMLInputElement>("files");
  files.addEventListener("change", () => {
    void studio.open(toOpen(files.files ?? []));
    files.value = "";
  });
  const hasFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
  window.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    $("veil").hidden = studio.isGuest;
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("veil").hidden = true;
  });
  window.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    $("veil").hidden = true;
    if (!studio.isGuest) void studio.open(toOpen(event.dataTransfer!.files));
  });
  window.addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (pasted.length && !studio.isGuest) void studio.open(toOpen(pasted));
  });
  void showSamples(studio);
}

async function showSamples(studio: Studio): Promise<void> {
  const samples = await api.samples().catch(() => []);
  if (!samples.length) return;
  $("samples").hidden = false;
  for (const sample of samples) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.className = "sample";
    const picture = new Image();
    picture.src = sample.url;
    picture.alt = "";
    const text = document.createElement("span");
    const credit = document.createElement("small");
    text.textContent = sample.title;
    credit.textContent = sample.credit;
    text.append(credit);
    button.append(picture, text);
    button.addEventListener("click", async () => {
      try {
        await studio.open([{ blob: await api.sampleBlob(sample.url), name: `${sample.name}.jpg` }]);
      } catch {
        toast("The sample could not be fetched: the server does not answer.", "bad");
      }
    });
    item.append(button);
    $("sample-list").append(item);
  }
}
