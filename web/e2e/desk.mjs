// What people do with a project: annotate, review, lose their connection. As scenarios.mjs.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { at, click, drag, idle, painted, press, scene } from "./scenarios.mjs";

export const deskScenarios = {};

const PATIENCE = { timeout: 300_000 };
/** Something is so, and the page shows it. */
async function when(page, isSo) {
  await page.waitForFunction(isSo, null, PATIENCE);
  await painted(page);
}
const ready = (page) =>
  when(page, () => {
    const { desk, studio } = window.anymask;
    return desk.sheet && !desk.isWaiting && studio.photo?.status === "ready" && desk.watch.runs;
  });
const finished = (page) => when(page, () => window.anymask.desk.isFinished);
const saved = (page) => when(page, () => !window.anymask.desk.outbox.waiting);
const marks = (page) => page.evaluate(() => window.anymask.studio.scene.items.map((item) => item.mark ?? ""));

/** Into a room, by its tab, under a name. */
async function enter(page, url, room, name) {
  await page.goto(url);
  await page.click(`#rooms a[data-room=${room}]`);
  await page.waitForSelector("#name-dialog[open]");
  await page.fill("#worker", name);
  await page.keyboard.press("Enter");
  await ready(page);
}

async function next(page) {
  const before = await page.textContent("#photo-name");
  await page.keyboard.press("d");
  await page.waitForFunction((name) => document.getElementById("photo-name").textContent !== name, before, PATIENCE);
  await ready(page);
}

deskScenarios.annotate = async ({ page, url }) => {
  await page.goto(url);
  await page.click("#rooms a[data-room=annotate]");
  await page.waitForSelector("#name-dialog[open]");
  await page.click("#name-cancel");
  assert.equal(await page.isVisible("#welcome"), true, "who gives no name stays in the studio");
  await enter(page, url, "annotate", "anna");
  assert.match(await page.textContent("#photo-place"), /Stage 1 · assisted-manual/);
  assert.equal(await page.isVisible("#export"), false);

  await click(page, 0.55, 0.5);
  await press(page, "Enter"); // kept without a name
  await press(page, "Control+z"); // the draft is back, the mask gone
  await press(page, "Control+Shift+z");
  await page.keyboard.press("p");
  await drag(page, [0.1, 0.1], [0.3, 0.1]);
  await press(page, "Enter");
  await page.keyboard.press("v");
  await page.fill(".object input", "stripe"); // a name may be given
  await page.keyboard.press("Enter");
  await page.evaluate(() => document.activeElement.blur());
  await saved(page);
  assert.equal(await page.textContent("#saving span"), "all saved");
  assert.equal(await page.textContent("#desk-masks"), "2");

  // the clock stands still while the page is not in front of the person
  const reading = () => page.evaluate(() => window.anymask.desk.watch.seconds);
  await page.evaluate(() => {
    document.hasFocus = () => false;
    window.dispatchEvent(new Event("blur"));
  });
  const stood = await reading();
  await page.waitForTimeout(150);
  assert.equal(await reading(), stood);
  await page.evaluate(() => {
    delete document.hasFocus;
    window.dispatchEvent(new Event("focus"));
  });
  await page.waitForTimeout(150);
  assert.ok((await reading()) > stood);

  assert.equal(await page.isVisible("#nudge"), false);
  await page.evaluate(() => (window.anymask.desk.watch.lapStart -= 31));
  await page.waitForSelector("#nudge:not([hidden])");

  await page.waitForFunction(() => window.anymask.desk.fetched, null, PATIENCE);
  await next(page);
  const ms = await page.evaluate(() => performance.getEntriesByName("anymask:next")[0].duration);
  console.log(`next photo ready after ${ms.toFixed(0)} ms`);
  assert.equal((await scene(page)).items.length, 0);
  await page.click("#desk-skip");
  await ready(page);
  await drag(page, [0.35, 0.25], [0.78, 0.78]); // a box, and D keeps what is drafted
  await page.keyboard.press("d");
  await finished(page);
  await saved(page);
  assert.match(await page.textContent("#desk-empty"), /All photos are done/);
};

deskScenarios.newer = async ({ page, url, promote }) => {
  await enter(page, url, "annotate", "anna");
  const before = await page.evaluate(() => window.anymask.studio.machine.info.stamp);
  writeFileSync(promote, ""); // the test lets another model serve
  const serving = () => page.evaluate(async () => (await (await fetch("/api/project")).json()).model);
  while ((await serving()) === before) await page.waitForTimeout(200);
  await click(page, 0.55, 0.5);
  await next(page); // what is drafted is kept, and the page learns of the model
  await page.waitForFunction(
    (before) => {
      const { machine, photo } = window.anymask.studio;
      return machine.info.stamp !== before && machine.loaded && photo.status === "ready";
    },
    before,
    PATIENCE,
  );
  await ready(page);
  await click(page, 0.55, 0.5);
  await press(page, "Enter");
  await saved(page);
};

deskScenarios.prefilled = async ({ page, url }) => {
  await enter(page, url, "annotate", "anna");
  assert.match(await page.textContent("#photo-place"), /Stage 2 · semi-automatic/);
  assert.deepEqual(await marks(page), ["prefilled", "prefilled", "prefilled"]);
  assert.equal(await page.locator('.object[data-mark="prefilled"]').count(), 3);
  const look = (mark) => page.evaluate((mark) => {
    const { studio, view } = window.anymask;
    const items = studio.scene.items.map((item) => ({ ...item, mark }));
    studio.photo.history.replace({ ...studio.scene, items });
    view.paint();
    return view.canvas.toDataURL();
  }, mark);
  assert.notEqual(await look(undefined), await look("prefilled"), "a proposal looks unlike a person's mask");

  const ids = (await scene(page)).items.map((item) => item.id);
  await page.evaluate((id) => window.anymask.studio.objects.select(id), ids[1]);
  await page.keyboard.press("Delete");
  await page.evaluate((id) => window.anymask.studio.objects.select(id), ids[2]);
  await page.keyboard.press("c");
  await page.keyboard.press("e");
  await drag(page, [0.75, 0.75], [0.9, 0.9]);
  await press(page, "Enter");
  await page.keyboard.press("v");
  await click(page, 0.55, 0.5);
  await press(page, "Enter");
  assert.deepEqual(await marks(page), ["prefilled", "", ""]);
  await page.keyboard.press("d");
  await finished(page);
  await saved(page);
};

deskScenarios.review = async ({ page, url }) => {
  await enter(page, url, "review", "ben");
  const { items, selected } = await scene(page);
  assert.equal(items.length, 3);
  assert.equal(selected, items[0].id, "the first is chosen");
  await press(page, "Enter");
  assert.equal((await scene(page)).selected, items[1].id, "and then the next");
  await press(page, "r");
  assert.deepEqual(await marks(page), ["accepted", "rejected", ""]);
  await press(page, "Control+z");
  assert.deepEqual(await marks(page), ["accepted", "", ""]);
  await page.click("#desk-accept");
  await idle(page);
  await page.keyboard.press("c");
  await page.keyboard.press("p");
  await drag(page, [0.2, 0.8], [0.4, 0.8]);
  await press(page, "Enter");
  assert.deepEqual(await marks(page), ["accepted", "accepted", "edited"]);
  await page.waitForSelector('#nudge[data-calm="true"]:not([hidden])');
  await saved(page);
  await page.click('.object[data-mark="edited"] .past');
  await page.waitForSelector("#history-dialog[open]");
  const history = await page.textContent("#history");
  assert.match(history, /saved version 1/);
  assert.match(history, /ben corrected version 2/);
  await page.keyboard.press("Escape");
  await page.keyboard.press("d");
  await finished(page);
  await saved(page);
};

deskScenarios.lostConnection = async ({ page, context, url, killServer, restart, env }) => {
  await enter(page, url, "annotate", "anna");
  let lost = 0;
  // the server saves it, and the answer never comes
  const loseAnswer = async (route) => {
    await route.fetch();
    lost++;
    await route.abort("connectionreset");
  };
  await page.route("**/api/tasks/*/masks", loseAnswer, { times: 1 });
  await click(page, 0.55, 0.5);
  await press(page, "Enter");
  await saved(page);
  assert.equal(lost, 1);

  await page.waitForFunction(() => window.anymask.desk.fetched, null, PATIENCE);
  await killServer();
  await click(page, 0.2, 0.2);
  await press(page, "Enter");
  await page.waitForFunction(() => /no connection/.test(document.getElementById("saving").textContent), null, PATIENCE);
  await next(page); // the next photo is there already
  await page.keyboard.press("p");
  await drag(page, [0.1, 0.1], [0.3, 0.1]);
  await press(page, "Enter");
  assert.equal(await page.evaluate(() => window.anymask.desk.outbox.waiting), 3, "two masks and the end of a task");
  await page.close({ runBeforeUnload: false });

  const server = spawn(restart[0], restart.slice(1), { env: { ...process.env, ...env }, stdio: "ignore" });
  try {
    const again = await context.newPage();
    again.setDefaultTimeout(PATIENCE.timeout);
    for (let i = 0; i < 600; i++) {
      const answer = await fetch(`${url}api/health`).catch(() => null);
      if (answer?.ok) break;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    await again.goto(`${url}#annotate`); // the name is remembered
    await ready(again);
    await saved(again);
    assert.equal((await scene(again)).items.length, 1, "the photo comes with what was kept for it");
    assert.equal(await again.isVisible("#save-refused"), false);
    await again.keyboard.press("d");
    await finished(again);
    await saved(again);
  } finally {
    server.kill("SIGTERM");
  }
};

deskScenarios.rate = async ({ page, url }) => {
  await page.goto(`${url}#rate`);
  await page.waitForSelector("#name-dialog[open]");
  await page.fill("#worker", "anna");
  await page.keyboard.press("Enter");
  const next = () => page.waitForSelector("#rate-buttons button:not(:disabled)", PATIENCE);
  await next();
  const drawn = (i) =>
    page.evaluate((i) => {
      const canvas = document.querySelectorAll("#rate figure canvas")[i];
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return [...new Set(new Uint32Array(data.buffer))].length;
    }, i);
  assert.equal(await drawn(2), 2, "the mask alone has two colours");
  assert.equal(await page.isVisible("#rate figure canvas >> nth=0"), true);
  await page.click("#rate figure >> nth=1");
  assert.equal(await page.locator("#rate figure.whole").count(), 1);
  await page.keyboard.press("Escape");
  await page.click("#rate-buttons button >> nth=7");
  await page.waitForFunction(() => /1 of 2 masks/.test(document.getElementById("rate-count").textContent), null, PATIENCE);
  await next();
  await page.keyboard.press("0"); // ten
  await page.waitForSelector("#rate-over:not([hidden])", PATIENCE);
  assert.match(await page.textContent("#rate-count"), /2 of 2 masks rated · 2 by you now/);
};
