import { createReadStream, readFileSync } from "node:fs";
import { copyFile, mkdir } from "node:fs/promises";
import { resolve } from "node:path";
import { defaultClientConditions, defineConfig, type Plugin } from "vite";

// ONNX Runtime's WebAssembly is served beside the app under its own names, so that threads find each other; in a folder
// with its version, so that a browser keeps it.
const PACKAGE = resolve(__dirname, "node_modules/onnxruntime-web");
const ORT = resolve(PACKAGE, "dist");
const PLACE = `assets/ort-${JSON.parse(readFileSync(resolve(PACKAGE, "package.json"), "utf8")).version}`;
const ORT_FILES = [
  "ort-wasm-simd-threaded.mjs",
  "ort-wasm-simd-threaded.wasm",
  "ort-wasm-simd-threaded.asyncify.mjs",
  "ort-wasm-simd-threaded.asyncify.wasm",
  "ort.wasm.min.mjs", // for benchmarks/browser.py, which runs bare graphs
];
const OUT = resolve(__dirname, "../src/anymask/server/static");
const ISOLATED = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

function ortFiles(): Plugin {
  return {
    name: "ort-files",
    configureServer(server) {
      server.middlewares.use(`/${PLACE}/`, (request, response, next) => {
        const name = (request.url ?? "").split("?")[0].replace(/^\//, "");
        if (!ORT_FILES.includes(name)) return next();
        response.setHeader("content-type", name.endsWith(".wasm") ? "application/wasm" : "text/javascript");
        createReadStream(resolve(ORT, name)).pipe(response);
      });
    },
    async closeBundle() {
      await mkdir(resolve(OUT, PLACE), { recursive: true });
      await Promise.all(ORT_FILES.map((name) => copyFile(resolve(ORT, name), resolve(OUT, PLACE, name))));
    },
  };
}

export default defineConfig({
  base: "./",
  define: { ORT_PLACE: JSON.stringify(`${PLACE}/`) },
  plugins: [ortFiles()],
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", ...defaultClientConditions] },
  worker: { format: "es" },
  build: { outDir: OUT, emptyOutDir: true, target: "es2022", sourcemap: false, chunkSizeWarningLimit: 800 },
  server: { headers: ISOLATED, proxy: { "/api": "http://127.0.0.1:8765", "/models": "http://127.0.0.1:8765" } },
});
