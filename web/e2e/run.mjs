// node e2e/run.mjs SCENARIO JSON: runs one scenario; exit code 0 if all of it was true.

import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";
import { FLAGS } from "./flags.mjs";
import { deskScenarios } from "./desk.mjs";
import { scenarios } from "./scenarios.mjs";

const [name, json] = process.argv.slice(2);
const given = JSON.parse(json);
const browser = await chromium.launch({ executablePath: given.chromium, args: FLAGS });
const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, acceptDownloads: true });
const page = await context.newPage();
page.setDefaultTimeout(200_000);
const errors = [];
context.on("weberror", (error) => errors.push(String(error.error())));
const killServer = async () => {
  process.kill(given.serverPid, "SIGKILL");
  for (let i = 0; i < 100; i++) {
    const answers = await fetch(given.url).then(
      () => true,
      () => false,
    );
    if (!answers) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error("the server lives");
};
try {
  const photoBytes = given.photo ? [...readFileSync(given.photo)] : [];
  await { ...scenarios, ...deskScenarios }[name]({ ...given, photoBytes, page, context, browser, killServer });
  if (errors.length) throw new Error(`errors in the page: ${errors.join("; ")}`);
  console.log("ok");
} catch (error) {
  await page.screenshot({ path: `${given.folder}/failed.png` }).catch(() => {});
  console.error(error);
  console.error(errors.join("\n"));
  process.exitCode = 1;
} finally {
  await browser.close();
}
