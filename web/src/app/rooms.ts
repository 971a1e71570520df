// Studio, Annotate, Review: the address says which, so that each can be kept as a bookmark.

import type { Kind } from "./api";
import type { Desk } from "./desk";
import { $ } from "./panels";

const NAME = "anymask-worker";

export function setUpRooms(desk: Desk): void {
  window.addEventListener("hashchange", () => void enter(desk));
  $("desk-name").addEventListener("click", async () => {
    const name = await askName(desk.worker);
    if (name && name !== desk.worker && desk.kind) void desk.open(desk.kind, name);
  });
  $("name-cancel").addEventListener("click", () => $<HTMLDialogElement>("name-dialog").close());
  void desk.refresh().then(() => {
    $("rooms").hidden = !desk.project;
    if (desk.project) void enter(desk);
  });
}

async function enter(desk: Desk): Promise<void> {
  const room = location.hash.slice(1);
  if (room !== "annotate" && room !== "review") {
    if (desk.kind) desk.leave();
    return;
  }
  const name = storedName() ?? (await askName(""));
  if (name) await desk.open(room satisfies Kind, name);
  else location.hash = "";
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
