// Puts the page together in dist/: the modules of src/, and those of other projects from node_modules/, each as a file of its own.
// Nothing is bundled or minified, so no tool is needed but Node. The size is printed, and one above the limit is an error.

import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync } from "node:zlib";

const root = dirname(fileURLToPath(import.meta.url));
const dist = join(root, "dist");

// Bytes of the whole page, compressed.
const LIMIT = 150 * 1024;

// Modules of other projects: their files, and the names under which modules import them.
const MODULES = [
  { name: "preact", from: "preact/dist/preact.mjs", to: "preact.js" },
  { name: "preact/hooks", from: "preact/hooks/dist/hooks.mjs", to: "hooks.js" },
  { name: "htm", from: "htm/dist/htm.module.js", to: "htm.js" },
  { name: "uplot", from: "uplot/dist/uPlot.esm.js", to: "uplot.js" },
];
const OTHERS = [{ from: "uplot/dist/uPlot.min.css", to: "uplot.css" }];
const PACKAGES = ["preact", "htm", "uplot"];

function read(path) {
  return readFileSync(join(root, path), "utf8");
}

// A browser finds a module by its address alone.
function withAddresses(code) {
  let text = code.replace(/\n?\/\/# sourceMappingURL=.*/g, "");
  for (const { name, to } of MODULES) {
    text = text.replaceAll(`from"${name}"`, `from"./${to}"`).replaceAll(`from "${name}"`, `from "./${to}"`);
  }
  return text;
}

function licences() {
  const parts = PACKAGES.map((name) => {
    const folder = join(root, "node_modules", name);
    const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    const text = file ? readFileSync(join(folder, file), "utf8") : `Licence: ${about.license}`;
    return `${about.name} ${about.version}\n\n${text.trim()}\n`;
  });
  return parts.join("\n----\n\n");
}

rmSync(dist, { recursive: true, force: true });
mkdirSync(dist);
const files = new Map();
for (const entry of readdirSync(join(root, "src"))) {
  const text = read(join("src", entry));
  files.set(entry, entry.endsWith(".js") ? withAddresses(text) : text);
}
for (const { from, to } of MODULES) files.set(to, withAddresses(read(join("node_modules", from))));
for (const { from, to } of OTHERS) files.set(to, read(join("node_modules", from)));
files.set("licences.txt", licences());

let whole = 0;
for (const [name, text] of files) {
  writeFileSync(join(dist, name), text);
  if (name !== "licences.txt") whole += brotliCompressSync(text).length;
}
console.log(`web/dist: ${files.size} files, ${(whole / 1024).toFixed(1)} KiB compressed; the limit is ${LIMIT / 1024} KiB`);
if (whole > LIMIT) process.exit(1);
