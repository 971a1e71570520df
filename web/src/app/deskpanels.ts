// What stands around a project's photo: rooms, progress, time, verdicts, and whether all is saved.

import { type HistoryEvent, history } from "./api";
import { type Desk, LONG_SECONDS } from "./desk";
import { $ } from "./panels";
import { toast } from "./progress";
import type { Studio } from "./studio";

const STAGES: Record<number, string> = { 1: "assisted-manual", 2: "semi-automatic", 3: "automatic" };
const DID: Record<HistoryEvent["what"], string> = {
  saved: "saved",
  accept: "accepted",
  edit: "corrected",
  reject: "rejected",
  undo: "took back a review of",
};

const noObjects = $("no-objects").innerHTML; // in the studio
const NO_OBJECTS = {
  annotate:
    "<p><b>Begin with the most prominent object</b></p><p>Click it, then <kbd>Enter</kbd> keeps it. A name is not needed.</p>",
  review: "<p><b>Nothing was marked here</b></p><p>Add what is missing, or go on.</p>",
};

export function setUpDeskPanels(studio: Studio, desk: Desk): () => void {
  $("objects").addEventListener("history", (event) => void showHistory(studio, desk, (event as CustomEvent<number>).detail));
  $("objects").addEventListener("remove", (event) => {
    const id = (event as CustomEvent<number>).detail;
    if (desk.kind === "review") void desk.mark("rejected", id);
    else studio.objects.remove(id);
  });
  $("desk-done").addEventListener("click", () => void desk.done());
  $("desk-skip").addEventListener("click", () => void desk.done(true));
  $("desk-accept").addEventListener("click", () => void desk.mark("accepted"));
  $("desk-reject").addEventListener("click", () => void desk.mark("rejected"));
  $("desk-edit").addEventListener("click", () => editChosen(studio));
  $("desk-again").addEventListener("click", () => desk.kind && void desk.open(desk.kind, desk.worker));
  $("saving").addEventListener("click", () => desk.outbox.retry());
  $("save-refused").addEventListener("click", () => download(desk.refused(), "anymask-refused.json"));
  setInterval(() => paintTime(studio, desk), 250);
  return () => paintDesk(studio, desk);
}

export function editChosen(studio: Studio): void {
  if (studio.scene.selected !== null) studio.objects.editItem(studio.scene.selected);
}

function paintDesk(studio: Studio, desk: Desk): void {
  const { kind, sheet, project, outbox } = desk;
  const room = kind ?? ($("rate").hidden ? "studio" : "rate");
  document.body.dataset.room = room;
  for (const link of document.querySelectorAll<HTMLElement>("#rooms a")) {
    if (link.dataset.room === room) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  paintSaving(desk);
  $("desk-empty").hidden = !kind || !desk.isFinished;
  $("no-objects").innerHTML = kind ? NO_OBJECTS[kind] : noObjects;
  if (!kind) return;
  const tasks = project?.[kind] ?? {};
  const done = (tasks.done ?? 0) + (tasks.skipped ?? 0);
  const all = done + (tasks.open ?? 0) + (tasks.leased ?? 0);
  const stage = sheet?.task.stage ?? project?.stage ?? 1;
  $("desk-stage").textContent = kind === "review" ? "Second look" : `Stage ${stage}`;
  $("desk-name").querySelector("span")!.textContent = desk.worker;
  $("desk-count").textContent = project ? `${done.toLocaleString("en")} of ${all.toLocaleString("en")} photos done in ${project.name}` : "";
  $("desk-bar").querySelector("i")!.style.width = `${all ? (100 * done) / all : 0}%`;
  $("desk-bar").setAttribute("aria-valuenow", String(done));
  $("desk-bar").setAttribute("aria-valuemax", String(all));
  $("desk-masks").textContent = String(desk.numMasks);
  $("desk-mean").textContent = desk.numMasks ? `${(desk.maskSeconds / desk.numMasks).toFixed(1)} s` : "–";
  if (sheet) $("photo-place").textContent = kind === "review" ? "Second look" : `Stage ${stage} · ${STAGES[stage]}`;
  const chosen = studio.scene.items.find((item) => item.id === studio.scene.selected);
  for (const id of ["desk-accept", "desk-edit", "desk-reject"]) $<HTMLButtonElement>(id).disabled = !chosen || studio.scene.draft !== null;
  $("desk-accept").setAttribute("aria-pressed", String(chosen?.mark === "accepted"));
  $("desk-reject").setAttribute("aria-pressed", String(chosen?.mark === "rejected"));
  $<HTMLButtonElement>("desk-done").disabled = $<HTMLButtonElement>("desk-skip").disabled = !sheet || desk.isWaiting;
  if (desk.isFinished) paintEmpty(desk);
  if (desk.isWaiting && outbox.isOffline) $("desk-count").textContent = "The server does not answer. Trying again …";
}

function paintEmpty(desk: Desk): void {
  const isReview = desk.kind === "review";
  const [own, other] = isReview ? (["review", "annotate"] as const) : (["annotate", "review"] as const);
  const held = desk.project?.[own].leased ?? 0;
  const left = desk.project?.[own].open ?? 0;
  $("desk-empty-title").textContent = isReview ? "No photo waits for your review" : "All photos are done";
  $("desk-empty-text").textContent = left
    ? `${left} ${left === 1 ? "is" : "are"} left for somebody else: nobody reviews their own photos.`
    : held
      ? `${held} ${held === 1 ? "is" : "are"} in other people's hands now.`
      : isReview
        ? "They come when somebody else finishes one."
        : "Thank you.";
  const link = $<HTMLAnchorElement>("desk-other");
  link.href = `#${other}`;
  link.textContent = isReview ? "Annotate instead" : "Review instead";
}

function paintSaving(desk: Desk): void {
  const { waiting, isOffline, refusals } = desk.outbox;
  const chip = $("saving");
  const steps = `${waiting} change${waiting === 1 ? "" : "s"}`;
  chip.querySelector<HTMLElement>(".dot")!.dataset.state = isOffline || refusals.length ? "failed" : waiting ? "busy" : "ready";
  chip.title = isOffline ? "Click to try again now" : "";
  chip.querySelector("span")!.textContent = isOffline
    ? `no connection · ${steps} kept here`
    : refusals.length
      ? `${refusals.length} not taken: ${refusals.at(-1)!.reason}`
      : waiting
        ? `saving ${steps}`
        : "all saved";
  $("save-refused").hidden = !refusals.length;
}

function paintTime(studio: Studio, desk: Desk): void {
  const nudge = $("nudge");
  nudge.dataset.calm = String(desk.kind === "review");
  if (desk.kind !== "annotate" || !desk.sheet) {
    nudge.hidden = desk.kind !== "review" || !desk.sheet || !desk.isLookedAt;
    nudge.textContent = "All masks of this photo are looked at. D takes you to the next.";
    return;
  }
  const seconds = desk.watch.lapSeconds;
  const whole = Math.floor(seconds);
  $("desk-lap").textContent = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  $("desk-lap").dataset.long = String(seconds > LONG_SECONDS);
  nudge.hidden = seconds <= LONG_SECONDS;
  if (!nudge.hidden) {
    nudge.textContent = studio.scene.draft
      ? "Half a minute on this one. Good enough? Enter keeps it, Esc leaves it out."
      : "Nothing prominent left? D takes you to the next photo.";
  }
}

async function showHistory(studio: Studio, desk: Desk, id: number): Promise<void> {
  const item = studio.scene.items.find((candidate) => candidate.id === id);
  const mask = item && desk.outbox.idOf(desk.sheet!.follower.refOf(item)!);
  if (!item || !mask) {
    toast("It is being saved; look again in a moment.");
    return;
  }
  try {
    const events = await history(mask);
    $("history-title").textContent = `History of ${item.name}`;
    $("history").replaceChildren(...events.map(eventElement));
    $<HTMLDialogElement>("history-dialog").showModal();
  } catch (error) {
    toast(`The history could not be fetched: ${studio.machine.reason(error)}`, "bad");
  }
}

function eventElement(event: HistoryEvent): HTMLElement {
  const element = document.createElement("li");
  element.dataset.what = event.what;
  const when = new Date(event.at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  const time = event.seconds ? ` · ${event.seconds.toFixed(1)} s` : "";
  const [who, what, about] = ["b", "span", "small"].map((tag) => document.createElement(tag));
  who.textContent = event.who;
  what.textContent = ` ${DID[event.what]} version ${event.version}`;
  about.textContent = `${when}${time}${event.note ? ` · ${event.note}` : ""}`;
  element.append(who, what, about);
  return element;
}

function download(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
