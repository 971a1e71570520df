// Pointers on the canvas to what is meant: a click, a box, a stroke, a pan, a pinch, a look.

import { boxOf, type Xy, type Xyxy } from "../core/geometry";
import type { Stroke } from "../core/shape";
import type { View } from "./view";

export type Tool = "click" | "box" | "brush" | "eraser" | "pan";

export interface Hands {
  tool(): Tool;
  subtracts(): boolean; // the switch for those without a right button
  brushRadius(): number; // in pixels of the photo
  onClick(xy: Xy, adds: boolean): void;
  onPick(xy: Xy): void; // Alt+click: choose an object
  onBox(box: Xyxy): void;
  onStroke(stroke: Stroke): void;
  onHover(xy: Xy | null): void;
  onMove(xy: Xy | null): void;
}

const DRAG_PX = { mouse: 5, pen: 6, touch: 12 } as Record<string, number>;

interface Held {
  readonly id: number;
  readonly kind: string;
  readonly adds: boolean;
  readonly picks: boolean;
  readonly start: readonly [number, number]; // client
  last: readonly [number, number];
  mode: "undecided" | "box" | "stroke" | "pan";
  xy: number[];
}

export class Gestures {
  private held: Held | null = null;
  private readonly touches = new Map<number, readonly [number, number]>();
  private spaceDown = false;
  private spaceDragged = false;

  constructor(
    private readonly view: View,
    private readonly hands: Hands,
  ) {
    const canvas = view.canvas;
    canvas.addEventListener("pointerdown", (e) => this.down(e));
    canvas.addEventListener("pointermove", (e) => this.move(e));
    canvas.addEventListener("pointerup", (e) => this.up(e));
    canvas.addEventListener("pointercancel", (e) => this.cancel(e));
    canvas.addEventListener("pointerleave", () => {
      hands.onHover(null);
      hands.onMove(null);
      view.set({ brush: null });
    });
    canvas.addEventListener("contextmenu", (e) => e.preventDefault());
    canvas.addEventListener("wheel", (e) => this.wheel(e), { passive: false });
  }

  /** Space is held: drags pan. Returned on release: whether it was used for that. */
  space(isDown: boolean): boolean {
    if (isDown && !this.spaceDown) this.spaceDragged = false;
    this.spaceDown = isDown;
    this.view.canvas.dataset.panning = String(isDown);
    return this.spaceDragged;
  }

  private down(e: PointerEvent): void {
    e.preventDefault();
    this.view.canvas.focus({ preventScroll: true });
    this.view.canvas.setPointerCapture(e.pointerId);
    this.view.set({ cross: null });
    if (e.pointerType === "touch") {
      this.touches.set(e.pointerId, [e.clientX, e.clientY]);
      if (this.touches.size > 1) {
        this.drop(); // a second finger: this was never a click
        return;
      }
    }
    const tool = this.hands.tool();
    const adds = !(e.button === 2 || e.shiftKey || this.hands.subtracts());
    const pans = this.spaceDown || e.button === 1 || tool === "pan";
    const paints = !pans && (tool === "brush" || tool === "eraser");
    const at = [e.clientX, e.clientY] as const;
    this.held = {
      id: e.pointerId,
      kind: e.pointerType,
      adds: paints ? (tool === "brush") === adds : adds,
      picks: e.altKey,
      start: at,
      last: at,
      mode: pans ? "pan" : paints ? "stroke" : "undecided",
      xy: paints ? [...this.view.toPhoto(...at)] : [],
    };
    if (paints) this.showStroke(this.held);
  }

  private move(e: PointerEvent): void {
    const xy = this.view.toPhoto(e.clientX, e.clientY);
    if (this.touches.has(e.pointerId) && this.touches.size > 1) {
      this.pinch(e);
      return;
    }
    this.hands.onMove(xy);
    this.showBrush(xy, e);
    const held = this.held;
    if (!held || held.id !== e.pointerId) {
      if (e.pointerType === "mouse" && this.hands.tool() === "click" && !this.spaceDown) this.hands.onHover(xy);
      return;
    }
    const [dx, dy] = [e.clientX - held.last[0], e.clientY - held.last[1]];
    held.last = [e.clientX, e.clientY];
    if (held.mode === "undecided") {
      const far = Math.hypot(e.clientX - held.start[0], e.clientY - held.start[1]);
      if (far > (DRAG_PX[held.kind] ?? 6)) held.mode = "box";
    }
    if (held.mode === "pan") {
      this.spaceDragged = true;
      this.view.panBy(dx, dy);
    } else if (held.mode === "box") {
      this.hands.onHover(null);
      this.view.set({ box: this.boxTo(held) });
    } else if (held.mode === "stroke") {
      for (const event of e.getCoalescedEvents?.() ?? [e]) held.xy.push(...this.view.toPhoto(event.clientX, event.clientY));
      this.showStroke(held);
    }
  }

  private up(e: PointerEvent): void {
    this.touches.delete(e.pointerId);
    const held = this.held;
    if (!held || held.id !== e.pointerId) return;
    this.held = null;
    this.view.set({ box: null, stroke: null });
    const xy = this.view.toPhoto(...held.start);
    if (held.mode === "box") {
      const box = this.boxTo(held);
      if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) this.hands.onBox(box);
    } else if (held.mode === "stroke") {
      this.hands.onStroke({ adds: held.adds, radius: this.hands.brushRadius(), xy: held.xy });
    } else if (held.mode === "undecided" && this.view.isInside(xy) && this.hands.tool() !== "box") {
      if (held.picks) this.hands.onPick(xy);
      else this.hands.onClick(xy, held.adds);
    }
  }

  private cancel(e: PointerEvent): void {
    this.touches.delete(e.pointerId);
    this.drop();
  }

  private drop(): void {
    this.held = null;
    this.view.set({ box: null, stroke: null, brush: null });
  }

  private pinch(e: PointerEvent): void {
    const before = [...this.touches.values()];
    this.touches.set(e.pointerId, [e.clientX, e.clientY]);
    const after = [...this.touches.values()];
    const spread = (p: (readonly [number, number])[]) => Math.hypot(p[0][0] - p[1][0], p[0][1] - p[1][1]);
    const middle = (p: (readonly [number, number])[]) => [(p[0][0] + p[1][0]) / 2, (p[0][1] + p[1][1]) / 2];
    const [ax, ay] = middle(before);
    const [bx, by] = middle(after);
    this.view.panBy(bx - ax, by - ay);
    this.view.zoomBy(spread(after) / Math.max(spread(before), 1), bx, by);
  }

  private wheel(e: WheelEvent): void {
    e.preventDefault();
    const lines = e.deltaMode === 1 ? 16 : 1;
    this.view.zoomBy(Math.exp(-Math.min(Math.max(e.deltaY * lines, -240), 240) * 0.0022), e.clientX, e.clientY);
  }

  private boxTo(held: Held): Xyxy {
    const corner = (at: readonly [number, number]) => this.view.clamp(this.view.toPhoto(...at));
    return boxOf(corner(held.start), corner(held.last));
  }

  private showStroke(held: Held): void {
    this.view.set({ stroke: { adds: held.adds, radius: this.hands.brushRadius(), xy: held.xy.slice() } });
  }

  private showBrush(xy: Xy, e: PointerEvent): void {
    const tool = this.hands.tool();
    const paints = (tool === "brush" || tool === "eraser") && !this.spaceDown;
    const brush = paints ? { xy, radius: this.hands.brushRadius(), adds: (tool === "brush") === !e.shiftKey } : null;
    this.view.set({ brush });
  }
}
