// What stands around the photo: objects, candidates, status. Painted from the studio's state, never the other way.

import { placeIcons } from "./icons";
import { colourOf, type Item } from "./state";
import type { Studio } from "./studio";
import { paintThumb } from "./thumb";
import { nextColour } from "./painter";

export const $ = <T extends HTMLElement = HTMLElement>(id: string): T => document.getElementById(id) as T;

const shownRings = new WeakMap<HTMLElement, unknown>();

export function paintPanels(studio: Studio): void {
  const { photo, scene } = studio;
  const isStudio = !studio.isGuest;
  document.body.classList.toggle("empty", !photo);
  $("welcome").hidden = photo !== null || !isStudio;
  $("photo-nav").hidden = !photo;
  $("photo-nav").toggleAttribute("data-one", !isStudio || studio.photos.length < 2);
  if (photo) {
    $("photo-name").textContent = photo.name;
    $("photo-place").textContent = `${studio.current + 1} of ${studio.photos.length}`;
    const what = scene.items.length === 1 ? "1 object" : `${scene.items.length} objects`;
    $("canvas").setAttribute("aria-label", `${photo.name}, ${what}`);
  }
  disable("undo", !photo?.history.canUndo);
  disable("redo", !photo?.history.canRedo);
  disable("export", !studio.photos.some((p) => p.scene.items.length || p.scene.draft?.rings));
  disable("everything", !photo || studio.isBusy || photo.status === "failed");
  const canFind = studio.machine.info?.words === true && studio.machine.serverIsThere;
  $<HTMLInputElement>("words").disabled = !photo || !canFind || studio.isBusy;
  $("words-note").hidden = !studio.machine.info || canFind;
  $("words-note").textContent = studio.machine.serverIsThere
    ? "Words need models on the server: pip install 'anymask[text]'"
    : "Words need the server, which does not answer.";
  paintObjects(studio);
  paintCandidates(studio);
  paintStatus(studio);
}

function disable(id: string, is: boolean): void {
  $<HTMLButtonElement>(id).disabled = is;
}

// --- objects ----------------------------------------------------------------------------------------------------

function paintObjects(studio: Studio): void {
  const { scene, photo } = studio;
  const list = $("objects");
  $("object-count").textContent = String(scene.items.length);
  $("no-objects").hidden = scene.items.length > 0;
  $("delete-all").hidden = scene.items.length < 2;
  const known = new Map([...list.children].map((e) => [Number((e as HTMLElement).dataset.id), e as HTMLElement]));
  const wanted = [...scene.items].reverse(); // the topmost first
  wanted.forEach((item, i) => {
    const element = known.get(item.id) ?? objectElement(studio, item.id);
    known.delete(item.id);
    if (list.children[i] !== element) list.insertBefore(element, list.children[i] ?? null);
    paintObject(studio, element, item);
  });
  for (const element of known.values()) element.remove();
  if (!photo) list.replaceChildren();
}

function objectElement(studio: Studio, id: number): HTMLElement {
  const element = document.createElement("li");
  element.className = "object";
  element.dataset.id = String(id);
  element.innerHTML = `
    <button class="pick"><canvas width="46" height="40"></canvas></button>
    <div class="what"><input spellcheck="false" maxlength="80" aria-label="Name" /><small></small></div>
    <div class="tools">
      <button class="quiet past desk-only" title="History" data-icon="clock"></button>
      <button class="quiet edit" title="Edit" data-icon="edit"></button>
      <button class="quiet hide" data-icon="eye"></button>
      <button class="quiet remove" title="Delete" data-icon="trash"></button>
    </div>`;
  placeIcons(element);
  const name = element.querySelector("input")!;
  const on = (selector: string, run: () => void) =>
    element.querySelector(selector)!.addEventListener("click", (event) => {
      event.stopPropagation();
      run();
    });
  on(".pick", () => studio.objects.select(studio.scene.selected === id ? null : id));
  on(".edit", () => studio.objects.editItem(id));
  on(".past", () => element.dispatchEvent(new CustomEvent("history", { bubbles: true, detail: id })));
  on(".hide", () => studio.objects.toggleHidden(id));
  on(".remove", () => element.dispatchEvent(new CustomEvent("remove", { bubbles: true, detail: id })));
  name.addEventListener("change", () => studio.objects.rename(id, name.value));
  name.addEventListener("keydown", (event) => {
    if (event.key === "Enter") name.blur();
    if (event.key === "Escape") {
      name.value = studio.scene.items.find((item) => item.id === id)?.name ?? "";
      name.blur();
    }
  });
  return element;
}

function paintObject(studio: Studio, element: HTMLElement, item: Item): void {
  element.dataset.selected = String(studio.scene.selected === item.id);
  element.dataset.hidden = String(item.hidden);
  element.style.setProperty("--colour", colourOf(item.colour));
  const input = element.querySelector("input")!;
  if (document.activeElement !== input) input.value = item.name;
  const iou = item.predictedIou === null ? "" : ` · IoU ${item.predictedIou.toFixed(2)}`;
  element.dataset.mark = item.mark ?? "";
  element.querySelector("small")!.textContent = item.mark ?? `${studio.share(item.rings).toFixed(1)} %${iou}`;
  element.querySelector(".past")!.setAttribute("aria-label", `History of ${item.name}`);
  const pick = element.querySelector<HTMLButtonElement>(".pick")!;
  pick.setAttribute("aria-label", `Select ${item.name}`);
  pick.setAttribute("aria-pressed", String(studio.scene.selected === item.id));
  element.querySelector(".edit")!.setAttribute("aria-label", `Edit ${item.name}`);
  element.querySelector(".remove")!.setAttribute("aria-label", `Delete ${item.name}`);
  const hide = element.querySelector<HTMLButtonElement>(".hide")!;
  const action = item.hidden ? "Show" : "Hide";
  if (hide.title !== action) {
    hide.title = action;
    hide.querySelector("svg")?.remove();
    hide.dataset.icon = item.hidden ? "eye-off" : "eye";
    placeIcons(element);
  }
  hide.setAttribute("aria-label", `${action} ${item.name}`);
  if (shownRings.get(element) !== item.rings) {
    shownRings.set(element, item.rings);
    const canvas = element.querySelector("canvas")!;
    const { photo } = studio;
    requestAnimationFrame(() => photo && paintThumb(canvas, photo, item.rings, colourOf(item.colour)));
  }
}

// --- candidates -------------------------------------------------------------------------------------------------

function paintCandidates(studio: Studio): void {
  const { draft, items } = studio.scene;
  const box = $("draft");
  box.hidden = !draft?.rings;
  $("hint").hidden = !studio.photo || draft !== null || studio.photo.scene.items.length > 0;
  const list = $("candidates");
  if (!draft?.rings || !studio.photo) {
    list.replaceChildren();
    return;
  }
  const count = Math.max(draft.candidates.length, 1);
  while (list.children.length > count) list.lastElementChild!.remove();
  while (list.children.length < count) list.append(candidateElement(studio, list.children.length));
  const edited = items.find((item) => item.id === draft.edits);
  const colour = colourOf(edited?.colour ?? nextColour(items));
  for (let i = 0; i < count; i++) {
    const element = list.children[i] as HTMLElement;
    const candidate = draft.candidates[i];
    const isChosen = i === draft.chosen;
    const rings = isChosen ? draft.rings : candidate.rings;
    element.setAttribute("aria-checked", String(isChosen));
    element.tabIndex = isChosen ? 0 : -1;
    element.setAttribute("aria-label", studio.describe(candidate && { ...candidate, rings }, i, count));
    element.querySelector("b")!.innerHTML = count > 1 ? `Mask <kbd>${i + 1}</kbd>` : edited ? "Editing" : "Mask";
    const iou = candidate?.predictedIou ?? null;
    element.querySelector("small")!.textContent =
      `${studio.share(rings).toFixed(1)} %${iou === null ? "" : ` · IoU ${iou.toFixed(2)}`}`;
    if (shownRings.get(element) !== rings) {
      shownRings.set(element, rings);
      const { photo } = studio;
      const canvas = element.querySelector("canvas")!;
      requestAnimationFrame(() => paintThumb(canvas, photo, rings, colour));
    }
  }
}

function candidateElement(studio: Studio, index: number): HTMLElement {
  const element = document.createElement("button");
  element.className = "candidate";
  element.setAttribute("role", "radio");
  element.innerHTML = "<canvas></canvas><b></b><small></small>";
  element.addEventListener("click", () => studio.drafting.choose(index));
  element.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const count = studio.scene.draft?.candidates.length ?? 1;
    studio.drafting.choose((index + step + count) % count);
    ($("candidates").children[(index + step + count) % count] as HTMLElement).focus();
  });
  return element;
}

// --- status -----------------------------------------------------------------------------------------------------

function paintStatus(studio: Studio): void {
  const { photo } = studio;
  const { loaded, info } = studio.machine;
  $("dot").dataset.state = studio.machine.failure ? "failed" : loaded && photo?.status !== "encoding" ? "ready" : "busy";
  const where = loaded ? `${loaded.provider}${loaded.threads > 1 ? ` · ${loaded.threads} threads` : ""}` : "loading…";
  $("model-text").textContent = studio.machine.failure ? "no model" : info ? `${info.name} · ${where}` : "loading…";
  $("status-encode").textContent =
    photo?.status === "encoding" ? "encoding…" : photo?.encodeMs ? `encode ${Math.round(photo.encodeMs)} ms` : "";
  $("status-decode").textContent =
    studio.decodeMs === null
      ? ""
      : `decode ${Math.round(studio.decodeMs)} ms${studio.drawnMs === null ? "" : ` · drawn ${Math.round(studio.drawnMs)} ms`}`;
  $("status-size").textContent = photo ? `${photo.width} × ${photo.height}` : "";
}
