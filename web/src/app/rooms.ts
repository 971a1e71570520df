// Studio, Annotate, Review, Rate: the address says which, so that each can be kept as a bookmark.

import { type Kind, study } from "./api";
import type { Desk } from "./desk";
import { $ } from "./panels";
import type { Rating } from "./rating";

const NAME = "anymask-worker";

export function setUpRooms(desk: Desk, rating: Rating): void {
  window.addEventListener("hashchange", () => void enter(desk, rating));
  $("desk-name").addEventListener("click", async () => {
    const name = await askName(desk.worker);
    if (name && name !== desk.worker && desk.kind) void desk.open(desk.kind, name);
  });
  $("name-cancel").addEventListener("click", () => $<HTMLDialogElement>("name-dialog").close());
  void Promise.all([desk.refresh(), study().catch(() => null)]).then(([, rated]) => {
    $("rooms").hidden = !desk.project && !rated;
    for (const link of document.querySelectorAll<HTMLElement>("#rooms a")) {
      const room = link.dataset.room;
      link.hidden = (room === "rate" && !rated) || (!desk.project && (room === "annotate" || room === "review"));
    }
    if (desk.project || rated) void enter(desk, rating);
  });
}

async function enter(desk: Desk, rating: Rating): Promise<void> {
  const room = location.hash.slice(1);
  rating.leave();
  if (desk.kind) desk.leave();
  else desk.onChange();
  if (room !== "annotate" && room !== "review" && room !== "rate") return;
  const name = storedName() ?? (await askName(""));
  if (!name) location.hash = "";
  else if (room === "rate") await Promise.all([rating.open(name), desk.onChange()]);
  else await desk.open(room satisfies Kind, name);
}

async function askName(before: string): Promise<string | null> {
  const dialog = $<HTMLDialogElement>("name-dialog");
  const input = $<HTMLInputElement>("worker");
  input.value = before;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  const name = input.value.trim();
  if (dialog.returnValue !== "go" || !name) return null;
  try {
    localStorage.setItem(NAME, name);
  } catch {
    // then it lasts until the page is left
  }
  return name;
}

function storedName(): string | null {
  try {
    return localStorage.getItem(NAME);
  } catch {
    return null;
  }
}
