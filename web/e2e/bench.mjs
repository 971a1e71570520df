// node e2e/bench.mjs JSON: medians of the app and of bare graphs in Chromium; the last line is JSON.

import { chromium } from "playwright-core";
import { open } from "./scenarios.mjs";
import { FLAGS } from "./flags.mjs";

const given = JSON.parse(process.argv[2]);
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
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
await page.waitForFunction(() => performance.getEntriesByName("anymask:prompt").length);
found["first load to first mask, ms (cold)"] = Date.now() - began;
found["app, encode 1024 px photo, ms (first)"] = await page.evaluate(() => window.anymask.studio.photo.encodeMs);
const drawn = [];
const decoded = [];
for (let i = 0; i < given.rounds; i++) {
  const [total, decode] = await page.evaluate(async (i) => {
    const { studio } = window.anymask;
    studio.drafting.discard();
    performance.clearMeasures("anymask:prompt");
    const { width, height } = studio.photo;
    await studio.drafting.click([width * (0.3 + 0.02 * i), height * 0.5], true);
    const entry = performance.getEntriesByName("anymask:prompt")[0];
    return [entry.duration, entry.detail.decodeMs];
  }, i);
  drawn.push(total);
  decoded.push(decode);
}
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
  await bare.evaluate(async ({ rounds, threads, url }) => {
    const ort = await import(`${url}ort/ort.wasm.min.mjs`);
    ort.env.wasm.wasmPaths = `${url}ort/`;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    const info = await (await fetch(`${url}api/model`)).json();
    const session = async (role) =>
      ort.InferenceSession.create(new Uint8Array(await (await fetch(url + info.files[role].slice(1))).arrayBuffer()), {
        executionProviders: ["wasm"],
      });
    const tensor = (data, dims) => new ort.Tensor("float32", Float32Array.from(data), dims);
    const [c, h, w] = info.embedding_shape;
    let seed = 1;
    const noise = () => (seed = (seed * 16807) % 2147483647) / 2147483647 - 0.5;
    const image_embeddings = tensor(Array.from({ length: c * h * w }, noise), [1, c, h, w]);
    const [prepare, decode, official] = [await session("prepare"), await session("decode"), await session("official")];
    const common = {
      mask_input: tensor(new Float32Array(16 * h * w), [1, 1, 4 * h, 4 * w]),
      has_mask_input: tensor([0], [1]),
      point_coords: tensor([256, 200, 0, 0], [1, 2, 2]),
      point_labels: tensor([1, -1], [1, 2]),
    };
    const prepared = await prepare.run({ image_embeddings });
    const jobs = {
      "ours, decode ms": () => decode.run({ ...prepared, ...common }),
      "official, decode ms": () =>
        official.run({ image_embeddings, ...common, orig_im_size: tensor([768, 1024], [2]) }),
      "ours, prepare once a photo, ms": () => prepare.run({ image_embeddings }),
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
  }, given),
);
console.log(JSON.stringify(found));
await browser.close();
