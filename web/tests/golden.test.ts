// Proves: geometry, resizing, upscaling, run lengths, outlines and mask prompts are those of the Python package.

import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { contours } from "../src/core/contours";
import { frameOf, scaledHw, toModelXy, toModelXyxy, toOriginalXy, type Hw, type Xy, type Xyxy } from "../src/core/geometry";
import { outlines } from "../src/core/outlines";
import { resizeToRgb } from "../src/core/resize";
import { coverage, decodeRle, encodeRle, fromRuns, measure, packRuns, toRuns, unpackRuns } from "../src/core/rle";
import { outlineRings, rasterize, toPrompt } from "../src/core/shape";
import { type Bitmap, upscaleMask } from "../src/core/upscale";
import { boxOfLogits, resample, windowAround } from "../src/model/closer";

const golden = (name: string) => JSON.parse(readFileSync(resolve(__dirname, "../../tests/golden", name), "utf8"));
const geometry = golden("geometry.json").cases as {
  original_hw: Hw; side: number; input_hw: Hw; points_xy: Xy[]; model_xy: Xy[]; boxes_xyxy: Xyxy[]; model_xyxy: Xyxy[];
}[];

describe("geometry", () => {
  it("has cases", () => expect(geometry.length).toBeGreaterThan(40));
  it.each(geometry.map((c) => [`${c.original_hw} in ${c.side}`, c] as const))("%s", (_, c) => {
    expect(scaledHw(c.original_hw, c.side)).toEqual(c.input_hw);
    const frame = frameOf(c.original_hw, c.side);
    c.points_xy.forEach((xy, i) => {
      expect(toModelXy(xy, frame)).toEqual(c.model_xy[i]);
      const back = toOriginalXy(c.model_xy[i], frame);
      expect(back[0]).toBeCloseTo(xy[0], 6);
      expect(back[1]).toBeCloseTo(xy[1], 6);
    });
    c.boxes_xyxy.forEach((box, i) => expect(toModelXyxy(box, frame)).toEqual(c.model_xyxy[i]));
  });
});

describe("run lengths", () => {
  const cases = golden("rle.json").cases as {
    size: [number, number]; rows: string[]; counts: string; runs: number[]; area: number; bbox_xywh: number[];
  }[];
  it("has cases", () => expect(cases.length).toBeGreaterThan(5));
  it.each(cases.map((c, i) => [i, c] as const))("case %i", (_, c) => {
    const bitmap = {
      height: c.size[0], width: c.size[1], data: Uint8Array.from(c.rows.join(""), (v) => Number(v)),
    };
    expect(toRuns(bitmap)).toEqual(c.runs);
    expect(packRuns(c.runs)).toBe(c.counts);
    expect(unpackRuns(c.counts)).toEqual(c.runs);
    expect(fromRuns(c.runs, c.size[0], c.size[1]).data).toEqual(bitmap.data);
    expect(measure(bitmap)).toEqual({ area: c.area, box: c.bbox_xywh });
  });
  it("refuses what does not fill the mask", () => {
    expect(() => fromRuns([3], 2, 2)).toThrow();
    expect(() => unpackRuns("\u0001")).toThrow();
  });
});

const web = golden("web.json");

describe("resizing", () => {
  it.each(web.resize as { hw: Hw; side: number; rgb: number[]; resized: number[] }[])("of $hw to $side", (c) => {
    const rgba = new Uint8Array(c.hw[0] * c.hw[1] * 4).fill(255);
    c.rgb.forEach((v, i) => (rgba[Math.floor(i / 3) * 4 + (i % 3)] = v));
    const got = resizeToRgb(rgba, c.hw, scaledHw(c.hw, c.side));
    expect(got.length).toBe(c.resized.length);
    const worst = c.resized.reduce((most, v, i) => Math.max(most, Math.abs(v - got[i])), 0);
    expect(worst).toBeLessThanOrEqual(1);
  });
});

const differing = (a: Bitmap, b: Bitmap): number => a.data.reduce((sum, v, i) => sum + (v === b.data[i] ? 0 : 1), 0);

describe("upscaling", () => {
  it.each(web.upscale)("to $hw from a square of $side", (...[c]: any[]) => {
    const frame = frameOf(c.hw, c.side);
    const want = decodeRle(c.mask);
    const got = upscaleMask(Float32Array.from(c.logits), c.cells, frame, c.hw[1], c.hw[0]);
    expect(measure(want).area).toBeGreaterThan(0);
    expect(differing(got, want)).toBeLessThanOrEqual(c.near);
  });
});

describe("outlines", () => {
  it.each(web.outlines)("of $islands islands", (...[c]: any[]) => {
    const rings = outlines(decodeRle(c.mask));
    expect(rings.length).toBe(c.islands);
    expect(encodeRle(evenOdd(rings, c.mask.size))).toEqual(c.filled);
    if (c.joined_points !== null) expect(rings[0].length / 2).toBe(c.joined_points);
  });
});

/** Pixels whose centre lies inside an outline. */
function evenOdd(rings: number[][], [height, width]: Hw): Bitmap {
  const data = new Uint8Array(width * height);
  for (const ring of rings) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        let crossings = 0;
        for (let i = 0; i < ring.length; i += 2) {
          const j = (i + 2) % ring.length;
          const low = Math.min(ring[i + 1], ring[j + 1]);
          const high = Math.max(ring[i + 1], ring[j + 1]);
          if (ring[i] === ring[j] && low <= y && y < high && ring[i] > x) crossings++;
        }
        if (crossings % 2) data[y * width + x] = 1;
      }
    }
  }
  return { width, height, data };
}

describe("mask prompts", () => {
  it.each(web.prompts)("of $hw", (...[c]: any[]) => {
    const got = toPrompt({ base: { kind: "rle", rle: c.mask }, strokes: [] }, frameOf(c.hw, c.side), c.cells)!;
    c.logits.forEach((v: number, i: number) => expect(got[i]).toBeCloseTo(v, 3));
  });
});

describe("shapes", () => {
  const frame = frameOf([48, 64], 64);
  it("strokes add and take away, in order", () => {
    const base = { kind: "none" } as const;
    const dot = { adds: true, radius: 10, xy: [32, 24] };
    const hole = { adds: false, radius: 4, xy: [32, 24] };
    const full = measure(rasterize({ base, strokes: [dot] }, frame, 64, 48)).area;
    expect(full).toBeCloseTo(Math.PI * 100, -1);
    const ring = measure(rasterize({ base, strokes: [dot, hole] }, frame, 64, 48)).area;
    expect(full - ring).toBeCloseTo(Math.PI * 16, -1);
    expect(measure(rasterize({ base, strokes: [hole, dot] }, frame, 64, 48)).area).toBe(full);
  });
  it("lines run around the mask where it is", () => {
    const strokes = [{ adds: true, radius: 10, xy: [32, 24] }];
    const { xy, ends } = outlineRings({ base: { kind: "none" }, strokes }, frame);
    expect(ends.length).toBe(1);
    for (let i = 0; i < xy.length; i += 2) expect(Math.abs(Math.hypot(xy[i] - 32, xy[i + 1] - 24) - 10)).toBeLessThan(1);
  });
  it("coverage is a share", () => {
    const all = { size: [7, 5] as const, counts: [0, 35] };
    expect([...coverage(all, 2, 3)]).toEqual([1, 1, 1, 1, 1, 1]);
  });
});

describe("contours", () => {
  it("close on every field, and their area is that of the mask", () => {
    let seed = 1;
    const random = () => ((seed = (seed * 16807) % 2147483647) / 2147483647) * 2 - 1;
    for (let round = 0; round < 20; round++) {
      const field = Float32Array.from({ length: 12 * 9 }, random);
      const { xy, ends } = contours(field, 12, 9);
      let start = 0;
      for (const end of ends) {
        for (let i = start; i < end; i++) {
          const j = i + 1 < end ? i + 1 : start;
          expect(Math.hypot(xy[2 * i] - xy[2 * j], xy[2 * i + 1] - xy[2 * j + 1])).toBeLessThan(1.5);
        }
        start = end;
      }
      expect(ends.at(-1)).toBe(xy.length / 2);
    }
  });
});

describe("a closer look", () => {
  it.each(web.closer as {
    hw: Hw; side: number; box: Xyxy; margin: number; window: number[]; cells: number; logits: number[]; back: number[]; into: number[];
  }[])("at $box of $hw", (c) => {
    const frame = frameOf(c.hw, c.side);
    const window = windowAround(c.box, frame, c.side, c.margin)!;
    expect(window).toEqual(c.window);
    const crop = frameOf([window[3] - window[1], window[2] - window[0]], c.side);
    const photo = { frame, cells: c.cells, at: [0, 0] as const };
    const part = { frame: crop, cells: c.cells, at: [window[0], window[1]] as const };
    const logits = Float32Array.from(c.logits);
    resample(logits, part, photo).forEach((v, i) => expect(Math.abs(v - c.back[i])).toBeLessThan(2e-3));
    resample(logits, photo, part).forEach((v, i) => expect(Math.abs(v - c.into[i])).toBeLessThan(2e-3));
  });
  it("is not to be had of what fills the photo, or of nothing", () => {
    const frame = frameOf([300, 400], 64);
    expect(windowAround([5, 5, 390, 290], frame, 64, 1.3)).toBeNull();
    expect(boxOfLogits(new Float32Array(256).fill(-1), 16, frame)).toBeNull();
    const logits = new Float32Array(256).fill(-1);
    logits[3 * 16 + 5] = 1; // a cell is 25 pixels
    expect(boxOfLogits(logits, 16, frame)).toEqual([125, 75, 149, 99]);
  });
});
