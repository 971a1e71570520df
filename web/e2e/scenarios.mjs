// What a person does in the app, in a real browser. Each scenario gets a fresh page; `assert` says what must be true.

import assert from "node:assert/strict";
import { join } from "node:path";

export const scenarios = {};

const items = (page) => page.evaluate(() => window.anymask.studio.scene.items.length);
export const scene = (page) =>
  page.evaluate(() => {
    const { items, draft, selected } = window.anymask.studio.scene;
    return {
      items: items.map(({ id, name, hidden, shape }) => ({ id, name, hidden, strokes: shape.strokes.length })),
      draft: draft && {
        clicks: draft.clicks.length,
        box: draft.box,
        candidates: draft.candidates.length,
        chosen: draft.chosen,
        strokes: draft.strokes.length,
        edits: draft.edits,
      },
      selected,
    };
  });
/** Buttons and counts show what is so: the page paints them on the frame after a change. */
export const painted = (page) =>
  page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
/** All that was asked is done, and the page shows it. */
export async function idle(page) {
  await page.waitForFunction(() => !window.anymask.studio.isBusy, null, { timeout: 400_000 });
  await painted(page);
}
const share = (page) =>
  page.evaluate(() => {
    const { draft } = window.anymask.studio.scene;
    return draft?.rings ? window.anymask.studio.share(draft.rings) : 0;
  });

/** Client coordinates of a place of the photo, given as shares of its sides. */
export const at = (page, x, y) =>
  page.evaluate(
    ([x, y]) => {
      const { studio, view } = window.anymask;
      return view.toClient([x * studio.photo.width, y * studio.photo.height]);
    },
    [x, y],
  );

export async function open(page, url, ...files) {
  await page.goto(url);
  await page.setInputFiles("#files", files);
  await page.waitForFunction(() => window.anymask.studio.photo?.status === "ready", null, { timeout: 400_000 });
  // a coarse search is a search: the tests need not wait for a fine one
  await page.evaluate(() => Object.assign(window.anymask.studio.search, { serverGrid: 8, ownGrid: 5 }));
  await page.evaluate(() => Object.assign(window.anymask.studio.drafting, { restMs: null })); // see `closer`
}

export async function click(page, x, y, options = {}) {
  await page.mouse.click(...(await at(page, x, y)), options);
  await idle(page);
}

export async function drag(page, from, to, button = "left") {
  await page.mouse.move(...(await at(page, ...from)));
  await page.mouse.down({ button });
  await page.mouse.move(...(await at(page, (from[0] + to[0]) / 2, (from[1] + to[1]) / 2)), { steps: 3 });
  await page.mouse.move(...(await at(page, ...to)), { steps: 3 });
  await page.mouse.up({ button });
  await idle(page);
}

export async function press(page, key) {
  await page.keyboard.press(key);
  await idle(page);
}

scenarios.click = async ({ page, url, photo }) => {
  await open(page, url, photo);
  assert.equal(await page.evaluate(() => crossOriginIsolated), true, "threads need isolation");
  await click(page, 0.55, 0.5);
  let now = await scene(page);
  assert.equal(now.draft.clicks, 1);
  assert.equal(now.draft.candidates, 3);
  const alone = await share(page);
  assert.ok(alone > 3 && alone < 60, `the disc is about a sixth of the photo, the mask ${alone} %`);
  for (const key of ["2", "3", "1"]) {
    await press(page, key);
    assert.equal((await scene(page)).draft.chosen, Number(key) - 1);
  }
  const fed = page.evaluate(
    () =>
      new Promise((resolve) => {
        const { studio } = window.anymask;
        const ask = studio.machine.client.ask.bind(studio.machine.client);
        const before = studio.scene.draft.candidates[studio.scene.draft.chosen].base.logits;
        studio.machine.client.ask = (request, options) => {
          if (request.kind === "decode") resolve(request.prompt.mask?.every((v, i) => v === before[i]) ?? false);
          return ask(request, options);
        };
      }),
  );
  await click(page, 0.05, 0.05, { button: "right" });
  assert.equal(await fed, true, "the low-resolution logits of click 1 are the mask prompt of click 2");
  now = await scene(page);
  assert.deepEqual([now.draft.clicks, now.draft.candidates], [2, 1]);
  await page.keyboard.down("Shift");
  await click(page, 0.95, 0.95);
  await page.keyboard.up("Shift");
  const signs = await page.evaluate(() => window.anymask.studio.scene.draft.clicks.map((c) => c.adds));
  assert.deepEqual(signs, [true, false, false]);
  await press(page, "Enter");
  assert.equal(await items(page), 1);
  assert.equal((await scene(page)).draft, null);
  await click(page, 0.5, 0.45);
  await press(page, "n");
  assert.equal(await items(page), 2);
  await click(page, 0.5, 0.45);
  await press(page, "Escape");
  assert.equal((await scene(page)).draft, null);
  const status = await page.textContent("footer.status");
  assert.match(status, /encode \d+ ms/);
  assert.match(status, /decode \d+ ms · drawn \d+ ms/);
};

scenarios.closer = async ({ page, url, small, truth }) => {
  await open(page, url, small);
  const [x0, y0, x1, y1] = truth.box;
  const iou = () =>
    page.evaluate(([cx, cy, radius]) => {
      const { draft } = window.anymask.studio.scene;
      const { height, width } = window.anymask.studio.photo;
      const canvas = new OffscreenCanvas(width, height);
      const context = canvas.getContext("2d");
      context.beginPath();
      let start = 0;
      for (const end of draft.rings.ends) {
        for (let i = start; i < end; i++) context.lineTo(draft.rings.xy[2 * i], draft.rings.xy[2 * i + 1]);
        context.closePath();
        if (end < draft.rings.xy.length / 2) context.moveTo(draft.rings.xy[2 * end], draft.rings.xy[2 * end + 1]);
        start = end;
      }
      context.fill("evenodd");
      const { data } = context.getImageData(0, 0, width, height);
      let [both, either] = [0, 0];
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const truly = (x - cx) ** 2 + (y - cy) ** 2 < radius ** 2;
          const found = data[4 * (y * width + x) + 3] > 127;
          both += truly && found ? 1 : 0;
          either += truly || found ? 1 : 0;
        }
      }
      return both / either;
    }, truth.disc);
  await page.keyboard.press("b");
  await drag(page, [x0, y0], [x1, y1]);
  const first = await iou();
  const before = await scene(page);
  await page.keyboard.press("Escape");
  await page.evaluate(() => Object.assign(window.anymask.studio.drafting, { restMs: 0 }));
  await page.keyboard.press("b");
  await drag(page, [x0, y0], [x1, y1]);
  await page.waitForFunction(() => performance.getEntriesByName("anymask:closer").length, null, { timeout: 200_000 });
  const closer = await iou();
  assert.ok(closer > first + 0.02 && closer > 0.7, `IoU ${first} on the whole photo, ${closer} by a closer look`);
  assert.deepEqual(await scene(page), before, "the same draft, sharper");
  await page.evaluate(() => Object.assign(window.anymask.studio.drafting, { restMs: null }));
  await press(page, "Control+z");
  assert.equal((await scene(page)).draft, null, "a closer look is no step of its own");
};

scenarios.hover = async ({ page, url, photo }) => {
  await open(page, url, photo);
  await page.mouse.move(...(await at(page, 0.5, 0.5)));
  await page.mouse.move(...(await at(page, 0.56, 0.5)));
  await page.waitForFunction(() => window.anymask.view.preview.hover !== null, null, { timeout: 200_000 });
  await page.mouse.move(...(await at(page, -0.05, 0.5)));
  await page.waitForFunction(() => window.anymask.view.preview.hover === null);
  assert.equal((await scene(page)).draft, null, "looking changes nothing");
  assert.equal(await page.isDisabled("#undo"), true);
};

scenarios.undo = async ({ page, url, photo }) => {
  await open(page, url, photo);
  const states = [await scene(page)];
  const step = async (run) => {
    await run();
    await idle(page);
    states.push(await scene(page));
    assert.notDeepEqual(states.at(-1), states.at(-2), "the step changed something");
  };
  await step(() => click(page, 0.55, 0.5));
  await step(() => click(page, 0.05, 0.1, { button: "right" }));
  await step(() => drag(page, [0.35, 0.25], [0.78, 0.78]));
  await page.keyboard.press("p");
  await step(() => drag(page, [0.5, 0.5], [0.6, 0.5]));
  await page.keyboard.press("e");
  await step(() => drag(page, [0.5, 0.6], [0.6, 0.6]));
  await step(() => page.keyboard.press("Enter"));
  await page.keyboard.press("v");
  await step(() => click(page, 0.5, 0.5));
  await step(() => page.keyboard.press("2"));
  await step(() => page.click("#discard"));
  await step(async () => {
    await page.fill(".object input", "the disc");
    await page.keyboard.press("Enter");
  });
  await step(() => page.click(".object .hide"));
  await step(() => page.click(".object .edit"));
  await step(() => page.click("#discard"));
  await step(() => page.click("#everything"));
  await step(() => page.click(".object .remove"));
  const strip = ({ items, draft }) => ({ items, draft }); // a selection is no step
  for (let i = states.length - 2; i >= 0; i--) {
    await press(page, "Control+z");
    assert.deepEqual(strip(await scene(page)), strip(states[i]), `undo to step ${i}`);
  }
  assert.equal(await page.isDisabled("#undo"), true);
  for (let i = 1; i < states.length; i++) {
    await press(page, "Control+Shift+z");
    assert.deepEqual(strip(await scene(page)), strip(states[i]), `redo to step ${i}`);
  }
  assert.equal(await page.isDisabled("#redo"), true);
};

scenarios.gestures = async ({ page, url, photo, other }) => {
  await open(page, url, photo, other);
  await drag(page, [0.35, 0.25], [0.78, 0.78]);
  let now = await scene(page);
  assert.ok(now.draft.box, "a drag is a box");
  const full = await page.evaluate(() => [window.anymask.studio.photo.width, window.anymask.studio.photo.height]);
  const near = (a, b) => assert.ok(Math.abs(a - b) < 0.03, `${a} is not ${b}`);
  near(now.draft.box[0] / full[0], 0.35);
  near(now.draft.box[3] / full[1], 0.78);
  await press(page, "Enter");

  await page.mouse.move(...(await at(page, 0.5, 0.5)));
  const zoom = () => page.evaluate(() => window.anymask.view.zoom);
  const before = await zoom();
  const place = await at(page, 0.5, 0.5);
  await page.mouse.wheel(0, -240);
  await page.waitForTimeout(100);
  assert.ok((await zoom()) > before, "the wheel zooms");
  const after = await at(page, 0.5, 0.5);
  assert.ok(Math.hypot(after[0] - place[0], after[1] - place[1]) < 2, "at the pointer");
  await page.keyboard.down(" ");
  await page.mouse.down();
  await page.mouse.move(after[0] + 60, after[1] + 40, { steps: 4 });
  await page.mouse.up();
  await page.keyboard.up(" ");
  const moved = await at(page, 0.5, 0.5);
  assert.ok(Math.abs(moved[0] - after[0] - 60) < 2 && Math.abs(moved[1] - after[1] - 40) < 2, "space and drag pans");
  assert.equal((await scene(page)).draft, null, "and is no click");
  await page.keyboard.press("0");

  await page.keyboard.press("p");
  await drag(page, [0.1, 0.1], [0.3, 0.1]);
  const painted = await share(page);
  assert.ok(painted > 0.1, "the brush alone makes an object");
  await page.keyboard.press("]");
  await page.keyboard.press("e");
  await drag(page, [0.2, 0.1], [0.3, 0.1]);
  assert.ok((await share(page)) < painted, "the eraser takes away");
  await press(page, "Enter");
  assert.equal(await items(page), 2);
  await page.keyboard.press("v");

  await press(page, "h");
  assert.equal(await page.getAttribute("#hide-masks", "aria-pressed"), "true");
  await press(page, "h");
  await press(page, "d");
  assert.match(await page.textContent("#photo-place"), /2 of 2/);
  assert.equal(await items(page), 0);
  await page.keyboard.press("a");
  assert.equal(await items(page), 2);
  await page.keyboard.down("Alt");
  await click(page, 0.55, 0.5);
  await page.keyboard.up("Alt");
  assert.notEqual((await scene(page)).selected, null, "Alt+click chooses");
  await page.keyboard.press("Delete");
  assert.equal(await items(page), 1);
  await page.keyboard.press("?");
  assert.equal(await page.isVisible("#help-dialog"), true);
  await page.keyboard.press("Escape");
  assert.equal(await items(page), 1);
};

scenarios.drop = async ({ page, url, photoBytes }) => {
  await page.goto(url);
  const transfer = await page.evaluateHandle((bytes) => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(bytes)], "dropped.png", { type: "image/png" }));
    return data;
  }, photoBytes);
  await page.dispatchEvent("body", "dragover", { dataTransfer: transfer });
  assert.equal(await page.isVisible("#veil"), true);
  await page.dispatchEvent("body", "drop", { dataTransfer: transfer });
  await page.waitForFunction(() => window.anymask.studio.photo?.status === "ready", null, { timeout: 400_000 });
  assert.equal(await page.textContent("#photo-name"), "dropped.png");
};

scenarios.wrongFiles = async ({ page, url, photo, folder }) => {
  await page.goto(url);
  for (const [name, says] of [
    ["text.jpg", /not a photo/],
    ["drawing.svg", /not a photo/],
    ["page.html", /not a photo/],
    ["empty.png", /not a photo/],
    ["cut.png", /not a photo/],
    ["bomb.png", /10,000 megapixels/],
  ]) {
    await page.setInputFiles("#files", join(folder, name));
    await page.waitForSelector(".toast[data-kind=bad]", { timeout: 200_000 });
    assert.match(await page.textContent(".toast[data-kind=bad]"), says, name);
    await page.click(".toast button");
    assert.equal(await page.evaluate(() => window.anymask.studio.photos.length), 0, name);
  }
  await open(page, url, photo);
  await click(page, 0.55, 0.5);
  assert.equal((await scene(page)).draft.clicks, 1);
};

scenarios.hundredMegapixels = async ({ page, url, folder }) => {
  await page.goto(url);
  await page.setInputFiles("#files", join(folder, "huge.png"));
  await page.waitForFunction(() => window.anymask.studio.photo?.status === "ready", null, { timeout: 400_000 });
  const [width, height, view] = await page.evaluate(() => {
    const { photo } = window.anymask.studio;
    return [photo.width, photo.height, Math.max(photo.view.width, photo.view.height)];
  });
  assert.deepEqual([width, height], [12_500, 8_000]);
  assert.ok(view <= 4096, "the screen's copy is bounded");
  await click(page, 0.5, 0.5);
  assert.equal((await scene(page)).draft.clicks, 1);
};

scenarios.serverKilled = async ({ page, url, photo, other, killServer }) => {
  await open(page, url, photo);
  await click(page, 0.55, 0.5);
  await killServer();
  await click(page, 0.05, 0.05, { button: "right" });
  assert.equal((await scene(page)).draft.clicks, 2, "prompts go on");
  await press(page, "Enter");
  await page.setInputFiles("#files", other);
  await page.waitForFunction(
    () => window.anymask.studio.photo?.name === "other.png" && window.anymask.studio.photo.status === "ready",
    null,
    { timeout: 400_000 },
  );
  await drag(page, [0.3, 0.2], [0.8, 0.8]);
  assert.ok((await scene(page)).draft.candidates > 0, "new photos too");
  await press(page, "Escape");
  await page.evaluate(() => {
    Object.assign(window.anymask.studio.machine.info.automatic, { pred_iou_thresh: 0.01, stability_score_thresh: 0.01 });
  });
  await page.click("#everything");
  await page.waitForSelector("#progress:not([hidden])");
  assert.match(await page.textContent("#progress"), /in the browser/);
  await idle(page);
  assert.ok((await items(page)) > 0, "everything as well, by the browser itself");
};

scenarios.stop = async ({ page, url, photo, killServer }) => {
  await open(page, url, photo);
  await killServer();
  await page.click("#everything");
  await page.click("#progress-cancel", { timeout: 200_000 });
  await idle(page);
  await click(page, 0.55, 0.5);
  assert.equal((await scene(page)).draft.clicks, 1, "after a stop all goes on");
};

scenarios.twoTabs = async ({ page, context, url, photo, other }) => {
  const second = await context.newPage();
  await Promise.all([open(page, url, photo), open(second, url, other)]);
  await page.bringToFront();
  await click(page, 0.55, 0.5);
  await press(page, "Enter");
  await second.bringToFront();
  await click(second, 0.5, 0.5);
  assert.deepEqual([await items(page), await items(second)], [1, 0]);
  await second.click("#everything");
  await idle(second);
  await page.bringToFront();
  await page.click("#everything");
  await idle(page);
  assert.ok((await items(page)) >= 1);
};

scenarios.exports = async ({ page, url, photo, folder }) => {
  await open(page, url, photo);
  await click(page, 0.55, 0.5);
  await press(page, "Enter");
  await page.fill(".object input", "disc");
  await page.keyboard.press("Enter");
  await page.keyboard.press("p");
  await drag(page, [0.05, 0.1], [0.2, 0.1]);
  await press(page, "Enter");
  for (const kind of ["coco", "coco_polygons", "yolo", "sa1b", "labelme", "cvat", "label_studio", "mask", "cutout"]) {
    await page.click("#export");
    await page.check(`[name=format][value=${kind}]`, { force: true });
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#export-go")]);
    await download.saveAs(join(folder, `${kind}-${download.suggestedFilename()}`));
    console.log(`download ${kind}-${download.suggestedFilename()}`);
  }
};

scenarios.keyboard = async ({ page, url, photo }) => {
  await open(page, url, photo);
  await page.focus("#canvas");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Shift+ArrowDown");
  await press(page, " ");
  assert.equal((await scene(page)).draft?.clicks, 1, "space adds at the cross");
  assert.match(await page.textContent("#live"), /Mask 1 of 3, predicted IoU/);
  for (let i = 0; i < 5; i++) await page.keyboard.press("ArrowLeft");
  await press(page, "Backspace");
  assert.equal((await scene(page)).draft.clicks, 2);
  await press(page, "Enter");
  assert.equal(await items(page), 1);
  // each control can be reached by Tab and has a name
  const unnamed = await page.evaluate(() =>
    [...document.querySelectorAll("button, input, select, canvas[tabindex], [role=radio]")]
      .filter((e) => e.checkVisibility() && e.id !== "files")
      .filter(
        (e) =>
          !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.[0]?.textContent.trim() || e.title),
      )
      .map((e) => e.outerHTML),
  );
  assert.deepEqual(unnamed, []);
  await page.keyboard.press("Shift+Tab");
  const reached = new Set();
  for (let i = 0; i < 60; i++) {
    await page.keyboard.press("Tab");
    reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.className));
  }
  for (const id of ["canvas", "undo", "export", "everything", "quiet remove", "help"]) {
    assert.ok(reached.has(id), `${id} is reached by Tab: ${[...reached]}`);
  }
  await page.keyboard.press("Control+s");
  assert.equal(await page.isVisible("#export-dialog"), true);
  await page.keyboard.press("Escape");
  assert.equal(await page.isVisible("#export-dialog"), false);
};

scenarios.touch = async ({ browser, url, photo }) => {
  const context = await browser.newContext({ viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true });
  const page = await context.newPage();
  await open(page, url, photo);
  const [x, y] = await at(page, 0.55, 0.5);
  await page.touchscreen.tap(x, y);
  await idle(page);
  assert.equal((await scene(page)).draft?.clicks, 1, "a tap is a click");
  await page.tap("#subtract");
  await page.touchscreen.tap(...(await at(page, 0.05, 0.05)));
  await idle(page);
  assert.deepEqual(
    await page.evaluate(() => window.anymask.studio.scene.draft.clicks.map((c) => c.adds)),
    [true, false],
  );
  const client = await context.newCDPSession(page);
  const before = await page.evaluate(() => window.anymask.view.zoom);
  const fingers = (spread) => [
    { x: x - spread, y, id: 1 },
    { x: x + spread, y, id: 2 },
  ];
  await client.send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: fingers(30) });
  for (const spread of [40, 55, 70]) {
    await client.send("Input.dispatchTouchEvent", { type: "touchMove", touchPoints: fingers(spread) });
  }
  await client.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
  const after = await page.evaluate(() => window.anymask.view.zoom);
  assert.ok(after > before * 1.5, `two fingers zoom: ${before} to ${after}`);
  assert.equal((await scene(page)).draft.clicks, 2, "and are no click");
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, "nothing hangs over the side");
  await page.tap("#accept");
  await idle(page);
  await page.tap("#panel-grip");
  assert.equal(await page.isVisible(".object"), true);
  await context.close();
};

scenarios.serverEncodes = async ({ page, url, photo }) => {
  await open(page, url, photo);
  assert.equal(await page.evaluate(() => window.anymask.studio.machine.loaded.encodes), false);
  await click(page, 0.55, 0.5);
  assert.equal((await scene(page)).draft.candidates, 3);
  const alone = await share(page);
  assert.ok(alone > 3 && alone < 60, `the mask covers ${alone} %`);
};

scenarios.token = async ({ page, url, photo, token }) => {
  const refused = await page.goto(url);
  assert.equal(refused.status(), 401);
  await open(page, `${url}?token=${token}`, photo);
  assert.ok(!page.url().includes(token), "the token leaves the address");
  await page.goto(url);
  await page.waitForFunction(() => window.anymask?.studio.machine.loaded, null, { timeout: 400_000 });
};
