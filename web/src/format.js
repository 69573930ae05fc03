// @ts-check
// Values as texts for people. These functions use nothing of a browser.

/** @param {number} kib */
export function memory(kib) {
  if (kib >= 1024 * 1024) return `${trimmed(kib / 1024 / 1024)} GiB`;
  return `${trimmed(kib / 1024)} MiB`;
}

/** @param {number} number */
function trimmed(number) {
  return number >= 100 || Number.isInteger(number) ? String(Math.round(number)) : number.toFixed(1);
}

/** A time in seconds, such as `2 h 5 min`. @param {number} seconds */
export function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** The time since a moment. @param {number | null | undefined} ms @param {number} now */
export function ago(ms, now) {
  return ms ? `${duration((now - ms) / 1000)} ago` : "";
}

/** The state of a VM in one word. @param {any} vm */
export function stateOf(vm) {
  if (vm.domid === 0) return "control domain";
  return String(vm.vm_state ?? "unknown").replaceAll("-", " ");
}

/** How a state is to look: good, calm, busy, or bad. @param {string} state */
export function toneOf(state) {
  if (["running", "control domain", "done", "allow", "protected", "not-affected", "ok"].includes(state)) return "good";
  if (["given up", "failed", "stuck", "unfinished", "refuse", "unprotected", "affected", "dying"].includes(state)) return "bad";
  if (["paused", "ended", "undone", "cancelled"].includes(state)) return "calm";
  return "busy";
}

/** The share of one CPU between two samples, in per cent. @param {{time: number, cpu: number}} before @param {{time: number, cpu: number}} after */
export function cpuPercent(before, after) {
  const elapsed = (after.time - before.time) * 1e6;
  if (elapsed <= 0 || after.cpu < before.cpu) return null;
  return ((after.cpu - before.cpu) / elapsed) * 100;
}

/** The places of a search in VMs. @param {any[]} vms @param {string} words */
export function filtered(vms, words) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  return vms.filter((vm) => {
    const text = `${vm.name ?? ""} ${vm.uuid} ${vm.kind ?? ""} ${stateOf(vm)}`.toLowerCase();
    return wanted.every((word) => text.includes(word));
  });
}

/** The line of a text that a diagnostic is about, and the carets below it; null without a place.
 * Tabs stay tabs, so that the carets stand where the text does.
 * @param {string} text @param {{line?: number | null, column?: number | null, length?: number | null}} diagnostic */
export function carets(text, diagnostic) {
  if (!diagnostic.line) return null;
  const line = text.split("\n")[diagnostic.line - 1];
  if (line === undefined) return null;
  const characters = Array.from(line);
  const start = Math.max(0, (diagnostic.column ?? 1) - 1);
  const before = characters.slice(0, start).map((c) => (c === "\t" ? "\t" : " ")).join("");
  const room = Math.max(1, characters.length - start);
  const count = Math.min(Math.max(1, diagnostic.length ?? 1), room);
  return { line, marks: before + "^".repeat(count) };
}

/** The text with a suggestion's edit, if it is within one line. @param {string} text @param {any} suggestion */
export function applied(text, suggestion) {
  const lines = text.split("\n");
  const line = lines[suggestion.line - 1];
  if (line === undefined) return text;
  const characters = Array.from(line);
  characters.splice(suggestion.column - 1, suggestion.length, suggestion.replacement);
  lines[suggestion.line - 1] = characters.join("");
  return lines.join("\n");
}

/** The steps of an operation, from the entries of its journal. @param {any[]} entries */
export function steps(entries) {
  /** @type {{name: string, state: string, began: number, ended: number | null, cause: string | null}[]} */
  const found = [];
  const last = (/** @type {string} */ name) => found.findLast((step) => step.name === name);
  for (const { record, time_ms: time } of entries) {
    const [type, facts] = Object.entries(record)[0] ?? ["", {}];
    const step = last(facts?.name);
    if (type === "step") found.push({ name: facts.name, state: "under way", began: time, ended: null, cause: null });
    if (type === "undo" && step) step.state = "being undone";
    const end = { done: "done", failed: "failed", undone: "undone", undo_failed: "undo failed" }[type];
    if (end && step) Object.assign(step, { state: end, ended: time, cause: facts.cause ?? step.cause });
  }
  return found;
}

/** The actions that fit a VM. @param {any} vm */
export function actionsOf(vm) {
  if (vm.domid === 0 || !vm.state || vm.state.dying) return [];
  if (vm.state.paused) return ["unpause", "destroy"];
  if (vm.state.shutdown) return ["destroy"];
  return ["shutdown", "reboot", "pause", "destroy"];
}
