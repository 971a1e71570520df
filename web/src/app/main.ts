// The page: wires buttons, keys, pointers and files to the studio.

import "./style.css";
import * as api from "./api";
import { setUpExport } from "./exporting";
import { Gestures, type Tool } from "./gestures";
import { icon, placeIcons } from "./icons";
import { HELP, setUpKeys } from "./keys";
import { $, paintPanels } from "./panels";
import { Progress, toast } from "./progress";
import { Studio } from "./studio";
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

let painting = false;
studio.onChange = () => {
  if (painting) return;
  painting = true;
  requestAnimationFrame(() => {
    painting = false;
    paintPanels(studio);
  });
};

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
  studio.hover(null);
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
  onClick: (xy, adds) => void studio.click(xy, adds),
  onPick: (xy) => studio.pick(xy),
  onBox: (box) => void studio.box(box),
  onStroke: (stroke) => void studio.stroke(stroke),
  onHover: (xy) => studio.hover(xy),
  onMove: (xy) => {
    $("status-place").textContent =
      xy && view.isInside(xy) ? `x ${Math.floor(xy[0])}  y ${Math.floor(xy[1])}` : "";
  },
});

const commands = {
  undo: () => void studio.undo(),
  redo: () => void studio.redo(),
  accept: () => void studio.accept(),
  discard: () => studio.discard(),
  hide: () => {
    masksHidden = !masksHidden;
    view.hideMasks(masksHidden);
    const button = $("hide-masks");
    button.setAttribute("aria-pressed", String(masksHidden));
    button.innerHTML = icon(masksHidden ? "eye-off" : "eye");
  },
  next: () => studio.step(1),
  previous: () => studio.step(-1),
  click: () => chooseTool("click"),
  box: () => chooseTool("box"),
  brush: () => chooseTool("brush"),
  eraser: () => chooseTool("eraser"),
  subtract: () => setSubtracts(!subtracts),
  everything: () => studio.photo && !studio.isBusy && void studio.everything(),
  smaller: () => sizeBrush(1 / 1.2),
  larger: () => sizeBrush(1.2),
  zoomIn: () => view.zoomBy(1.25),
  zoomOut: () => view.zoomBy(0.8),
  fit: () => view.fit(),
  help: () => $<HTMLDialogElement>("help-dialog").showModal(),
  open: () => $("files").click(),
  export: () => !$<HTMLButtonElement>("export").disabled && openExport(),
  delete: () => studio.scene.selected !== null && studio.remove(studio.scene.selected),
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
  "delete-all": () => studio.removeAll(),
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
$("keys").innerHTML = HELP.map(
  ([what, keys]) =>
    `<div>${what}<span>${keys
      .split("|")
      .map((key) => `<kbd>${key}</kbd>`)
      .join("")}</span></div>`,
).join("");

// --- files --------------------------------------------------------------------------------------------------------

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
  $("veil").hidden = false;
});
window.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("veil").hidden = true;
});
window.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  $("veil").hidden = true;
  void studio.open(toOpen(event.dataTransfer!.files));
});
window.addEventListener("paste", (event) => {
  const pasted = [...(event.clipboardData?.files ?? [])];
  if (pasted.length) void studio.open(toOpen(pasted));
});
window.addEventListener("beforeunload", (event) => {
  if (studio.photos.some((photo) => photo.scene.items.length)) event.preventDefault();
});

async function showSamples(): Promise<void> {
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

function setUpTheme(): void {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = (): string | null => {
    try {
      return localStorage.getItem("anymask-theme");
    } catch {
      return null; // storage may be forbidden
    }
  };
  const apply = (): void => {
    const theme = stored() ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    $("theme").innerHTML = icon(theme === "dark" ? "sun" : "moon");
  };
  dark.addEventListener("change", apply);
  $("theme").addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("anymask-theme", next);
    } catch {
      // then it lasts until the page is left
    }
    document.documentElement.dataset.theme = next;
    $("theme").innerHTML = icon(next === "dark" ? "sun" : "moon");
  });
  apply();
}

const isLocal = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
$("privacy").textContent = isLocal ? "Nothing leaves this machine." : "Masks are made in your browser.";
document.body.classList.add("empty");
chooseTool("click");
paintPanels(studio);
void showSamples();

// for tests and benchmarks, and for the curious
Object.assign(window, { anymask: { studio, view } });
