// node e2e/bench.mjs JSON: medians of the app and of bare graphs in Chromium; the last line is JSON.

import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";
import { open } from "./scenarios.mjs";
import { FLAGS } from "./flags.mjs";

const given = JSON.parse(process.argv[2]);
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const ort = JSON.parse(readFileSync("node_modules/onnxruntime-web/package.json", "utf8")).version;
const found = {};
const browser = await chromium.launch({ executablePath: given.chromium, args: FLAGS });

// --- the app --------------------------------------------------------------------------------------------------

const page = await (await browser.newContext({ viewport: { width: 1280, height: 800 } })).newPage();
page.setDefaultTimeout(300_000);
const began = Date.now();
await open(page, given.url, given.photo);
const place = await page.evaluate(() => {
  const { studio, view } = window.anymask;
  return view.toClient([studio.photo.width / 2, studio.photo.height / 2]);
});
await page.mouse.click(...place);
await page.waitForFunction(() => performance.getEntriesByName("anymask:first").length);
found["first load to first mask, ms (cold)"] = Date.now() - began;
await page.waitForFunction(() => !window.anymask.studio.isBusy);
found["app, encode 1024 px photo, ms (first)"] = await page.evaluate(() => window.anymask.studio.photo.encodeMs);
const [first, drawn, decoded] = [[], [], []];
for (let i = 0; i < given.rounds; i++) {
  const [quick, total, decode] = await page.evaluate(async (i) => {
    const { studio } = window.anymask;
    studio.drafting.discard();
    await new Promise((resolve) => setTimeout(resolve, 200)); // the page is at rest when a person clicks
    performance.clearMeasures();
    const { width, height } = studio.photo;
    await studio.drafting.click([width * (0.3 + 0.02 * i), height * 0.5], true);
    const entry = performance.getEntriesByName("anymask:prompt")[0];
    return [performance.getEntriesByName("anymask:first")[0].duration, entry.duration, entry.detail.decodeMs];
  }, i);
  first.push(quick);
  drawn.push(total);
  decoded.push(decode);
}
found["app, prompt to first outline drawn, ms"] = median(first);
found["app, prompt to mask drawn, ms"] = median(drawn);
found["app, of that in the worker, ms"] = median(decoded);
const encoded = [];
for (let i = 0; i < 5; i++) {
  encoded.push(
    await page.evaluate(async () => {
      const { studio } = window.anymask;
      const bitmap = await createImageBitmap(studio.photo.view);
      const request = { kind: "encode", photo: studio.photo.key, frame: studio.photo.frame, bitmap };
      return (await studio.machine.client.ask(request, { transfer: [bitmap] })).ms;
    }),
  );
}
found["app, encode 1024 px photo, ms"] = median(encoded);
const again = Date.now();
await page.reload();
await page.setInputFiles("#files", given.photo);
await page.waitForFunction(() => window.anymask.studio.photo?.status === "ready");
await page.mouse.click(...place);
await page.waitForFunction(() => performance.getEntriesByName("anymask:first").length);
found["reload to first mask, ms"] = Date.now() - again;
await page.close();

// --- annotating: from `D` to the next photo, shown and ready to click ---------------------------------------------

const desk = await (await browser.newContext({ viewport: { width: 1280, height: 800 } })).newPage();
desk.setDefaultTimeout(300_000);
await desk.addInitScript(() => localStorage.setItem("anymask-worker", "bench"));
await desk.goto(`${given.url}#annotate`);
for (let i = 0; i < given.queue - 1; i++) {
  await desk.waitForFunction((i) => {
    const { desk } = window.anymask;
    return performance.getEntriesByName("anymask:next").length === i && desk.watch.runs && desk.fetched;
  }, i);
  await desk.evaluate(async () => {
    const { desk, studio } = window.anymask;
    await studio.machine.encoded(desk.fetched.photo); // a person takes longer than the next embedding
    await studio.drafting.click([studio.photo.width / 2, studio.photo.height / 2], true);
    await studio.drafting.accept();
  });
  await desk.keyboard.press("d");
}
await desk.waitForFunction((n) => performance.getEntriesByName("anymask:next").length === n, given.queue - 1);
const waits = await desk.evaluate(() => performance.getEntriesByName("anymask:next").map((entry) => entry.duration));
found["annotate, done to next photo ready, ms (median)"] = median(waits);
found["annotate, done to next photo ready, ms (most)"] = Math.max(...waits);
await desk.close();

// --- bare graphs in one page, in turn ---------------------------------------------------------------------------

const bare = await (await browser.newContext()).newPage();
bare.setDefaultTimeout(600_000);
bare.on("pageerror", (error) => console.error(error));
await bare.goto(`${given.url}api/health`);
Object.assign(
  found,
  await bare.evaluate(async ({ rounds, threads, url, place }) => {
    const ort = await import(`${place}ort.wasm.min.mjs`);
    ort.env.wasm.wasmPaths = place;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    const info = await (await fetch(`${url}api/model`)).json();
    const session = async (role) =>
      ort.InferenceSession.create(new Uint8Array(await (await fetch(url + info.files[role].slice(1))).arrayBuffer()), {
        executionProviders: ["wasm"],
      });
    const tensor64 = (values) => new ort.Tensor("int64", BigInt64Array.from(values), [values.length]);
    const tensor = (data, dims) => new ort.Tensor("float32", Float32Array.from(data), dims);
    const [c, h, w] = info.embedding_shape;
    let seed = 1;
    const noise = () => (seed = (seed * 16807) % 2147483647) / 2147483647 - 0.5;
    const image_embeddings = tensor(Array.from({ length: c * h * w }, noise), [1, c, h, w]);
    const roles = ["positions", "prepare", "decode", "official"];
    const [positions, prepare, decode, official] = await Promise.all(roles.map(session));
    const count = (n) => new ort.Tensor("int64", BigInt64Array.from({ length: n }, (_, i) => BigInt(i)), [n]);
    const prompt = {
      point_coords: tensor([256, 200, 0, 0], [1, 2, 2]),
      point_labels: tensor([1, -1], [1, 2]),
      has_mask_input: tensor([0], [1]),
    };
    const mask_input = tensor(new Float32Array(16 * h * w), [1, 1, 4 * h, 4 * w]);
    const feeds = {}; // by the number of cells a side; the photo is 1024×768, three quarters of the square
    for (const n of [h, h / 2]) {
      const places = await positions.run({ rows: count(n), columns: count(n) });
      const image_embeddings = tensor(Array.from({ length: c * n * n }, noise), [1, c, n, n]);
      const shown = { rows: count(0.75 * n + 1), columns: count(n), wanted: tensor64([1n, 2n, 3n]) };
      const prepared = await prepare.run({ image_embeddings, pe: places.pe });
      const unread = { mask_input: tensor(new Float32Array(16), [1, 1, 4, 4]) };
      feeds[n] = { ...prepared, ...places, ...prompt, ...shown, ...unread };
      if (n === h) feeds.prepare = { image_embeddings, pe: places.pe };
    }
    const jobs = {
      "ours, decode ms": () => decode.run(feeds[h]),
      "ours, decode with half the cells a side, ms": () => decode.run(feeds[h / 2]),
      "official, decode ms": () =>
        official.run({ image_embeddings, ...prompt, mask_input, orig_im_size: tensor([768, 1024], [2]) }),
      "ours, prepare once a photo, ms": () => prepare.run(feeds.prepare),
    };
    const times = Object.fromEntries(Object.keys(jobs).map((name) => [name, []]));
    for (let i = -2; i < rounds; i++) {
      for (const [name, run] of Object.entries(jobs)) {
        const began = performance.now();
        await run();
        if (i >= 0) times[name].push(performance.now() - began);
      }
    }
    const middle = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
    return { threads, ...Object.fromEntries(Object.entries(times).map(([name, values]) => [name, middle(values)])) };
  }, { ...given, place: `${given.url}assets/ort-${ort}/` }),
);
console.log(JSON.stringify(found));
await browser.close();
