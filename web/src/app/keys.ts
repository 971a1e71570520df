// The keyboard: shortcuts, and a cross that stands in for the pointer.

import type { Xy } from "../core/geometry";
import type { Kind } from "./api";
import type { Gestures } from "./gestures";
import { $ } from "./panels";
import type { Studio } from "./studio";
import type { View } from "./view";

export interface Commands {
  readonly [name: string]: () => void;
}

// key, with its modifiers, to the command and what the help says
const KEYS: readonly (readonly [keys: readonly string[], command: string])[] = [
  [["Ctrl+z"], "undo"],
  [["Ctrl+Shift+z", "Ctrl+y"], "redo"],
  [["Enter", "n"], "accept"],
  [["Escape"], "discard"],
  [["h"], "hide"],
  [["d"], "next"],
  [["a"], "previous"],
  [["v"], "click"],
  [["b"], "box"],
  [["p"], "brush"],
  [["e"], "eraser"],
  [["s"], "subtract"],
  [["g"], "everything"],
  [["["], "smaller"],
  [["]"], "larger"],
  [["+", "="], "zoomIn"],
  [["-"], "zoomOut"],
  [["0"], "fit"],
  [["?"], "help"],
  [["Ctrl+o"], "open"],
  [["Ctrl+s"], "export"],
  [["Delete"], "delete"],
  [["x"], "skip"],
  [["r"], "reject"],
  [["c"], "correct"],
  [["j"], "nextMask"],
  [["k"], "previousMask"],
];

type Help = readonly (readonly [what: string, keys: string])[];

const HELP: Help = [
  ["Add to the object", "click"],
  ["Take away", "right click|Shift+click"],
  ["Box around an object", "drag"],
  ["Choose an object", "Alt+click"],
  ["Choose a candidate", "1|2|3"],
  ["Accept, start the next", "Enter|N"],
  ["Clear", "Esc"],
  ["Undo, redo", "Ctrl+Z|Ctrl+Shift+Z"],
  ["Next, previous photo", "D|A"],
  ["Hide masks", "H"],
  ["Zoom", "wheel|+|−|0"],
  ["Pan", "Space+drag"],
  ["Select, box, brush, eraser", "V|B|P|E"],
  ["Size of the brush", "[|]"],
  ["Clicks subtract", "S"],
  ["Everything", "G"],
  ["Open, export", "Ctrl+O|Ctrl+S"],
  ["Delete the chosen object", "Delete"],
  ["Cross by keyboard", "arrows"],
  ["Add, subtract at the cross", "Space|Backspace"],
];

const DESK_HELP: Record<Kind, Help> = {
  annotate: [
    ["Done, next photo", "D"],
    ["Skip the photo", "X"],
    ["Correct the chosen object", "C"],
    ["Next, previous object", "J|K"],
  ],
  review: [
    ["Accept the mask", "Enter"],
    ["Reject it", "R"],
    ["Correct it", "C"],
    ["Next, previous mask", "J|K"],
    ["Done, next photo", "D"],
    ["Skip the photo", "X"],
  ],
};
const STUDIO_ONLY = ["Next, previous photo", "Everything", "Open, export"];

/** The keys of the room. */
export function showHelp(room: Kind | null): void {
  const general = HELP.filter(([what]) => !room || !STUDIO_ONLY.includes(what));
  const entries = [...(room ? DESK_HELP[room] : []), ...general];
  const keysOf = (keys: string) => keys.split("|").map((key) => `<kbd>${key}</kbd>`);
  $("keys").innerHTML = entries.map(([what, keys]) => `<div>${what}<span>${keysOf(keys).join("")}</span></div>`).join("");
  $<HTMLDialogElement>("help-dialog").showModal();
}

export function setUpKeys(studio: Studio, view: View, gestures: Gestures, commands: Commands): void {
  const table = new Map(KEYS.flatMap(([keys, command]) => keys.map((key) => [key, command] as const)));
  let cross: Xy | null = null;

  const isTyping = (target: EventTarget | null): boolean =>
    target instanceof HTMLElement && target.matches("input:not([type=range]):not([type=checkbox]):not([type=radio]), select");

  window.addEventListener("keydown", (event) => {
    if (isTyping(event.target) || document.querySelector("dialog[open]")) return;
    const onButton = event.target instanceof HTMLElement && event.target.matches("button, input, a");
    if (event.key === " " && !onButton) {
      event.preventDefault();
      if (!event.repeat) gestures.space(true);
      return;
    }
    if (event.key === "Backspace" && document.activeElement === view.canvas && cross) {
      event.preventDefault();
      void studio.drafting.click(cross, false);
      return;
    }
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (arrow && document.activeElement === view.canvas && studio.photo) {
      event.preventDefault();
      const { photo } = studio;
      const step = (event.shiftKey ? 1 : 12) / view.zoom;
      cross ??= [photo.width / 2, photo.height / 2];
      cross = view.clamp([cross[0] + arrow[0] * step, cross[1] + arrow[1] * step]);
      view.reveal(cross);
      view.set({ cross });
      studio.hover.over(cross);
      return;
    }
    if (/^[1-9]$/.test(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey) {
      studio.drafting.choose(Number(event.key) - 1);
      return;
    }
    if (event.altKey || (event.key === "Enter" && onButton)) return;
    const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const modifiers = `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${event.shiftKey && /^[a-z]$/.test(letter) ? "Shift+" : ""}`;
    const command = table.get(modifiers + letter) ?? (modifiers === "Shift+" ? table.get(letter) : undefined);
    if (!command || (event.repeat && !["undo", "redo", "smaller", "larger", "zoomIn", "zoomOut"].includes(command))) return;
    event.preventDefault();
    commands[command]();
  });
  window.addEventListener("keyup", (event) => {
    if (event.key !== " ") return;
    const dragged = gestures.space(false);
    if (!dragged && document.activeElement === view.canvas && cross && studio.photo) void studio.drafting.click(cross, true);
  });
  window.addEventListener("blur", () => gestures.space(false));
  view.canvas.addEventListener("pointerdown", () => {
    cross = null;
  });
}
