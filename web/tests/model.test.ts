// Proves: the page's own search keeps what the package would keep, specks go, formats and zips are well formed.

import { readFileSync, writeFileSync, mkdtempSync } from "node:fs";
import { execFileSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inflateSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { feather } from "../src/core/feather";
import { writeFormat } from "../src/core/formats";
import { frameOf } from "../src/core/geometry";
import { encodeMaskPng } from "../src/core/png";
import { tidy } from "../src/core/tidy";
import { zip } from "../src/core/zip";
import { boxIou, cellBox, Collector, gridPoints, nms, stability } from "../src/model/everything";
import { EMPTY, History, type Scene } from "../src/app/state";

const square = (cells: number, x0: number, y0: number, x1: number, y1: number, value = 4): Float32Array => {
  const field = new Float32Array(cells * cells).fill(-4);
  for (let y = y0; y <= y1; y++) for (let x = x0; x <= x1; x++) field[y * cells + x] = value;
  return field;
};

describe("everything", () => {
  it("clicks the centres of the cells", () => {
    expect(gridPoints(2, 100, 60)).toEqual([[25, 15], [75, 15], [25, 45], [75, 45]]);
  });
  it("removes boxes that say the same, the better one stays", () => {
    const boxes = [[0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]] as const;
    expect(nms([...boxes], [0.5, 0.9, 0.1], 0.7)).toEqual([1, 2]);
    expect(nms([...boxes], [0.5, 0.9, 0.1], 1)).toEqual([1, 0, 2]);
    expect(boxIou([0, 0, 10, 10], [0, 0, 10, 5])).toBe(0.5);
  });
  it("measures stability where the photo is, not in the padding", () => {
    const logits = square(8, 0, 0, 7, 3);
    expect(stability(logits, 8, frameOf([32, 64], 64), 1)).toBe(1);
    logits.fill(0.5, 4 * 8);
    expect(stability(logits, 8, frameOf([32, 64], 64), 1)).toBe(1);
    expect(stability(logits, 8, frameOf([64, 64], 64), 1)).toBe(0.5);
    expect(stability(new Float32Array(64).fill(-9), 8, frameOf([64, 64], 64), 1)).toBeNaN();
  });
  it("keeps what passes every filter, once", () => {
    const limits = { grid: 2, predictedIou: 0.5, stability: 0.9, stabilityOffset: 1, boxNms: 0.7 };
    const collector = new Collector(frameOf([64, 64], 64), 16, limits);
    collector.add(square(16, 2, 2, 9, 9), 0.8, [1, 1]);
    collector.add(square(16, 2, 2, 9, 10), 0.9, [2, 2]);
    collector.add(square(16, 12, 12, 14, 14), 0.4, [3, 3]); // predicted IoU
    collector.add(square(16, 12, 12, 14, 14, 0.5), 0.9, [4, 4]); // unstable
    collector.add(new Float32Array(256).fill(-5), 0.9, [5, 5]); // empty
    const kept = collector.finish((logits, predictedIou) => ({ logits, predictedIou, rings: null as never }));
    expect(kept.map((mask) => mask.pointXy)).toEqual([[2, 2]]);
    expect(cellBox(kept[0].logits, 16)).toEqual([2, 2, 9, 10]);
  });
});

describe("tidying", () => {
  it("turns specks and pinholes over and leaves the rest alone", () => {
    const logits = square(16, 2, 2, 11, 11);
    logits[14 * 16 + 14] = 3; // a speck
    logits[5 * 16 + 5] = -3; // a pinhole
    const before = logits.slice();
    tidy(logits, 16, 5);
    expect(logits[14 * 16 + 14]).toBeLessThan(0);
    expect(logits[5 * 16 + 5]).toBeGreaterThan(0);
    before.forEach((v, i) => {
      if (i !== 14 * 16 + 14 && i !== 5 * 16 + 5) expect(logits[i]).toBe(v);
    });
  });
  it("a hole in a speck goes with the speck", () => {
    const logits = square(16, 8, 8, 15, 15);
    for (const [x, y] of [[1, 1], [2, 1], [3, 1], [1, 2], [3, 2], [1, 3], [2, 3], [3, 3]]) logits[y * 16 + x] = 2;
    tidy(logits, 16, 20);
    expect(logits.filter((v) => v > 0).length).toBe(64);
  });
  it("keeps the largest island however small", () => {
    const logits = square(16, 3, 3, 3, 3);
    expect(tidy(logits, 16, 5)[3 * 16 + 3]).toBe(4);
  });
});

describe("files", () => {
  const bitmap = { width: 5, height: 4, data: Uint8Array.from("00000011100111000000", Number) };
  const photo = { fileName: "a,b.jpg", width: 5, height: 4, masks: [{ bitmap, label: "cup", predictedIou: 0.5, pointXy: null }] };
  it("PNG is what was drawn", async () => {
    const png = await encodeMaskPng(bitmap);
    const view = new DataView(png.buffer, png.byteOffset);
    expect([view.getUint32(16), view.getUint32(20)]).toEqual([5, 4]);
    const length = view.getUint32(33);
    const rows = inflateSync(png.subarray(41, 41 + length));
    expect([...rows].filter((_, i) => i % 6).map((v) => v / 255)).toEqual([...bitmap.data]);
  });
  it("zip opens elsewhere", () => {
    const path = join(mkdtempSync(join(tmpdir(), "anymask-")), "a.zip");
    writeFileSync(path, zip([{ name: "é/x.txt", bytes: new TextEncoder().encode("one") }, { name: "y", bytes: new Uint8Array(0) }]));
    const read = "import sys,zipfile; z=zipfile.ZipFile(sys.argv[1]); print(z.testzip(), z.namelist(), z.read('é/x.txt'))";
    expect(execFileSync("python3", ["-c", read, path], { encoding: "utf8", env: { ...process.env, PYTHONUTF8: "1" } })).toBe(
      "None ['é/x.txt', 'y'] b'one'\n",
    );
  });
  it("every format names the photo and the label", () => {
    for (const name of ["coco", "coco_polygons", "yolo", "sa1b", "labelme", "cvat", "label_studio"] as const) {
      const all = writeFormat(name, [photo]).map((file) => new TextDecoder().decode(file.bytes)).join("\n");
      expect(all).toContain("a,b.jpg");
      expect(all).toContain("cup");
    }
  });
  it("a feathered edge is soft, symmetric and ends", () => {
    const half = { width: 40, height: 1, data: Uint8Array.from({ length: 40 }, (_, i) => (i < 20 ? 1 : 0)) };
    const alpha = feather(half, 4);
    expect(alpha[0]).toBe(255);
    expect(alpha[39]).toBe(0);
    expect(Math.abs(alpha[19] + alpha[20] - 255)).toBeLessThanOrEqual(2);
    expect([...feather(half, 0)]).toEqual([...half.data].map((v) => v * 255));
  });
});

describe("history", () => {
  const scene = (n: number): Scene => ({ ...EMPTY, selected: n });
  it("goes back and forth, and a new step ends the future", () => {
    const history = new History();
    history.commit(scene(1));
    history.commit(scene(2));
    expect(history.undo()).toBe(true);
    expect(history.present.selected).toBe(1);
    expect(history.redo()).toBe(true);
    expect(history.present.selected).toBe(2);
    history.undo();
    history.commit(scene(3));
    expect(history.canRedo).toBe(false);
    history.undo();
    history.undo();
    expect(history.present).toBe(EMPTY);
    expect(history.undo()).toBe(false);
  });
});

it("the page asks no other host", () => {
  const html = readFileSync(join(__dirname, "../index.html"), "utf8");
  expect(html).not.toMatch(/https?:\/\//);
});
