import assert from "node:assert/strict";
import test from "node:test";
import { actionsOf, ago, applied, carets, cpuPercent, duration, filtered, memory, stateOf, steps, toneOf } from "../src/format.js";

test("memory and times have the unit that fits", () => {
  assert.equal(memory(512 * 1024), "512 MiB");
  assert.equal(memory(1536 * 1024), "1.5 GiB");
  assert.equal(duration(59), "59 s");
  assert.equal(duration(3900), "1 h 5 min");
  assert.equal(ago(1000, 4000), "3 s ago");
  assert.equal(ago(null, 4000), "");
});

test("carets stand below the place, also behind tabs and wide characters", () => {
  const text = 'name = "a"\n\tmemory = abc\nname = "größe" x';
  assert.deepEqual(carets(text, { line: 2, column: 11, length: 3 }), { line: "\tmemory = abc", marks: "\t         ^^^" });
  assert.equal(carets(text, { line: 3, column: 16, length: 1 }).marks, `${" ".repeat(15)}^`);
  assert.equal(carets(text, { line: 3, column: 16, length: 99 }).marks.trim(), "^");
  assert.equal(carets(text, { line: 9, column: 1 }), null);
  assert.equal(carets(text, {}), null);
});

test("an edit changes its place alone", () => {
  assert.equal(applied("a\nmemroy = 1\nb", { line: 2, column: 1, length: 6, replacement: "memory" }), "a\nmemory = 1\nb");
  assert.equal(applied("a", { line: 7, column: 1, length: 1, replacement: "x" }), "a");
});

test("CPU use is the share of one CPU", () => {
  assert.equal(cpuPercent({ time: 0, cpu: 0 }, { time: 1000, cpu: 5e8 }), 50);
  assert.equal(cpuPercent({ time: 0, cpu: 9 }, { time: 1000, cpu: 1 }), null, "a new domain");
  assert.equal(cpuPercent({ time: 5, cpu: 1 }, { time: 5, cpu: 1 }), null);
});

test("VMs are found by name, UUID, type and state", () => {
  const vms = [{ name: "web", uuid: "u1", kind: "pvh", vm_state: "running" }, { name: null, uuid: "u2", kind: null, vm_state: "given-up" }];
  assert.deepEqual(filtered(vms, "WEB run"), [vms[0]]);
  assert.deepEqual(filtered(vms, "given"), [vms[1]]);
  assert.equal(filtered(vms, "").length, 2);
});

test("steps know their end and their undo", () => {
  const entry = (record, time) => ({ record, time_ms: time });
  const found = steps([
    entry({ begin: { id: "1" } }, 0), entry({ step: { name: "a" } }, 1), entry({ done: { name: "a", made: {} } }, 3),
    entry({ step: { name: "b" } }, 4), entry({ failed: { name: "b", cause: "no room" } }, 5), entry({ undo: { name: "a" } }, 6), entry({ undone: { name: "a" } }, 7),
  ]);
  assert.deepEqual(found.map((step) => [step.name, step.state, step.cause]), [["a", "undone", null], ["b", "failed", "no room"]]);
});

test("a state has a word and a tone, and each VM has the actions that fit", () => {
  assert.equal(stateOf({ domid: 0 }), "control domain");
  assert.equal(toneOf("given up"), "bad");
  assert.equal(toneOf("something new"), "busy");
  assert.deepEqual(actionsOf({ domid: 0, state: {} }), []);
  assert.deepEqual(actionsOf({ domid: 3, state: { paused: true } }), ["unpause", "destroy"]);
  assert.deepEqual(actionsOf({ domid: null }), []);
});
