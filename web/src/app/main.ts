// The page: wires buttons, keys, pointers and files to the studio.

import "./style.css";
import { Desk } from "./desk";
import { editChosen, setUpDeskPanels } from "./deskpanels";
import { setUpExport } from "./exporting";
import { Gestures, type Tool } from "./gestures";
import { icon, placeIcons } from "./icons";
import { setUpFiles } from "./files";
import { showHelp, setUpKeys } from "./keys";
import { $, paintPanels } from "./panels";
import { Progress } from "./progress";
import { Rating } from "./rating";
import { setUpRooms } from "./rooms";
import { Studio } from "./studio";
import { setUpTheme } from "./theme";
import { View } from "./view";

placeIcons(document);
setUpTheme();

const canvas = $<HTMLCanvasElement>("canvas");
const view = new View(canvas, (zoom) => {
  $("zoom-fit").textContent = `${Math.round(zoom * 100)} %`;
});
const progress = new Progress($("progress"));
const studio = new Studio(view, progress);
const openExport = setUpExport(studio, progress);

const desk = new Desk(studio);
const paintDesk = setUpDeskPanels(studio, desk);

let painting = false;
const paintSoon = (): void => {
  if (painting) return;
  painting = true;
  requestAnimationFrame(() => {
    painting = false;
    paintPanels(studio);
    paintDesk();
  });
};
studio.onChange = desk.onChange = paintSoon;

// --- tools --------------------------------------------------------------------------------------------------------

let tool: Tool = "click";
let subtracts = false;
let masksHidden = false;
const brushSize = $<HTMLInputElement>("brush-size");
const HINTS: Record<Tool, string> = {
  click: "Click an object · drag for a box · right click takes away",
  box: "Drag a box around an object",
  brush: "Paint what belongs to the object",
  eraser: "Paint what does not belong",
  pan: "Drag to move, wheel to zoom",
};

function chooseTool(next: Tool): void {
  tool = next;
  canvas.dataset.tool = next;
  for (const button of document.querySelectorAll<HTMLElement>("[data-tool]")) {
    if (button !== canvas) button.setAttribute("aria-pressed", String(button.dataset.tool === next));
  }
  $("brush-bar").hidden = next !== "brush" && next !== "eraser";
  $("hint").textContent = HINTS[next];
  studio.hover.over(null);
  view.set({ brush: null });
}

function setSubtracts(next: boolean): void {
  subtracts = next;
  const button = $("subtract");
  button.setAttribute("aria-pressed", String(next));
  button.querySelector("b")!.textContent = next ? "−" : "+";
  button.querySelector("span")!.textContent = next ? "Subtract" : "Add";
}

function sizeBrush(by: number): void {
  brushSize.value = String(Number(brushSize.value) * by + Math.sign(by - 1));
  $("brush-size-out").textContent = brushSize.value;
}

const gestures = new Gestures(view, {
  tool: () => tool,
  subtracts: () => subtracts,
  brushRadius: () => Number(brushSize.value) / 2 / view.zoom,
  onClick: (xy, adds) => {
    const isPick = desk.kind === "review" && !studio.scene.draft && adds && view.itemAt(xy);
    if (isPick) studio.objects.pick(xy);
    else void studio.drafting.click(xy, adds);
  },
  onPick: (xy) => studio.objects.pick(xy),
  onBox: (box) => void studio.drafting.box(box),
  onStroke: (stroke) => void studio.drafting.stroke(stroke),
  onHover: (xy) => studio.hover.over(desk.kind === "review" ? null : xy),
  onMove: (xy) => {
    $("status-place").textContent =
      xy && view.isInside(xy) ? `x ${Math.floor(xy[0])}  y ${Math.floor(xy[1])}` : "";
  },
});

const commands = {
  undo: () => void studio.edits.undo(),
  redo: () => void studio.edits.redo(),
  accept: () => void (desk.kind === "review" && !studio.scene.draft ? desk.mark("accepted") : studio.drafting.accept()),
  discard: () => studio.drafting.discard(),
  hide: () => {
    masksHidden = !masksHidden;
    view.hideMasks(masksHidden);
    const button = $("hide-masks");
    button.setAttribute("aria-pressed", String(masksHidden));
    button.innerHTML = icon(masksHidden ? "eye-off" : "eye");
  },
  next: () => (desk.kind ? void desk.done() : studio.step(1)),
  previous: () => !desk.kind && studio.step(-1),
  skip: () => desk.kind && void desk.done(true),
  reject: () => desk.kind === "review" && void desk.mark("rejected"),
  correct: () => desk.kind && editChosen(studio),
  nextMask: () => desk.kind && desk.choose(1),
  previousMask: () => desk.kind && desk.choose(-1),
  click: () => chooseTool("click"),
  box: () => chooseTool("box"),
  brush: () => chooseTool("brush"),
  eraser: () => chooseTool("eraser"),
  subtract: () => setSubtracts(!subtracts),
  everything: () => !desk.kind && studio.photo && !studio.isBusy && void studio.search.everything(),
  smaller: () => sizeBrush(1 / 1.2),
  larger: () => sizeBrush(1.2),
  zoomIn: () => view.zoomBy(1.25),
  zoomOut: () => view.zoomBy(0.8),
  fit: () => view.fit(),
  help: () => showHelp(desk.kind),
  open: () => !desk.kind && $("files").click(),
  export: () => !$<HTMLButtonElement>("export").disabled && openExport(),
  delete: () => {
    const { selected } = studio.scene;
    if (selected === null) return;
    if (desk.kind === "review") void desk.mark("rejected");
    else studio.objects.remove(selected);
  },
};
setUpKeys(studio, view, gestures, commands);

for (const [id, run] of Object.entries({
  undo: commands.undo,
  redo: commands.redo,
  accept: commands.accept,
  discard: commands.discard,
  "hide-masks": commands.hide,
  "photo-next": commands.next,
  "photo-previous": commands.previous,
  "zoom-in": commands.zoomIn,
  "zoom-out": commands.zoomOut,
  "zoom-fit": commands.fit,
  help: commands.help,
  "open-more": commands.open,
  choose: commands.open,
  export: commands.export,
  everything: commands.everything,
  subtract: commands.subtract,
  "delete-all": () => studio.objects.removeAll(),
})) {
  $(id).addEventListener("click", run);
}
for (const button of document.querySelectorAll<HTMLElement>("button[data-tool]")) {
  button.addEventListener("click", () => chooseTool(button.dataset.tool as Tool));
}
brushSize.addEventListener("input", () => sizeBrush(1));
$("panel-grip").addEventListener("click", () => {
  const panel = document.querySelector<HTMLElement>(".panel")!;
  const isOpen = panel.dataset.open !== "true";
  panel.dataset.open = String(isOpen);
  $("panel-grip").setAttribute("aria-expanded", String(isOpen));
});
$("words-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const phrase = $<HTMLInputElement>("words").value.trim();
  if (phrase && studio.photo && !studio.isBusy) void studio.search.words(phrase).then(() => canvas.focus());
});
window.addEventListener("beforeunload", (event) => {
  if (studio.photos.some((photo) => photo.scene.items.length) || desk.outbox.waiting) event.preventDefault();
});

const isLocal = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
$("privacy").textContent = isLocal ? "Nothing leaves this machine." : "Masks are made in your browser.";
document.body.classList.add("empty");
chooseTool("click");
setUpFiles(studio);
setUpRooms(desk, new Rating(desk.outbox));
paintSoon();

// for tests and benchmarks, and for the curious
Object.assign(window, { anymask: { studio, view, desk } });
