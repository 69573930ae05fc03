// @ts-check
// What the page knows of the host: VMs and operations, kept up to date by the stream of events, and the samples for the graphs.

import * as api from "./api.js";
import { cpuPercent } from "./format.js";

const SAMPLES_MAX = 300;
const SAMPLE_EVERY_MS = 2000;

/** @type {Set<() => void>} */
const watchers = new Set();

export const state = {
  /** @type {"connecting" | "live" | "reconnecting"} */
  link: "connecting",
  /** @type {any[]} */
  vms: [],
  /** @type {{what: string, why: string}[]} */
  missing: [],
  /** @type {any[]} */
  operations: [],
  /** @type {api.Problem | null} */
  problem: null,
  version: 0,
  /** Samples of each VM: times in ms, CPU time in ns, memory in KiB. @type {Map<string, {time: number, cpu: number, memory: number}[]>} */
  samples: new Map(),
};

function changed() {
  state.version += 1;
  for (const watcher of watchers) watcher();
}

/** Calls a function after each change. @param {() => void} watcher */
export function watch(watcher) {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

async function list() {
  try {
    const [vms, operations] = await Promise.all([api.vms(), api.operations()]);
    take(vms);
    state.operations = operations.operations;
    state.problem = null;
  } catch (problem) {
    state.problem = problem instanceof api.Problem ? problem : new api.Problem({ detail: String(problem) });
  }
  changed();
}

/** @param {any} answer */
function take(answer) {
  state.vms = answer.vms;
  state.missing = answer.missing;
  const time = Date.now();
  for (const vm of answer.vms) {
    if (vm.cpu_time_ns === undefined) continue;
    const samples = state.samples.get(vm.uuid) ?? [];
    samples.push({ time, cpu: vm.cpu_time_ns, memory: vm.memory_kib });
    state.samples.set(vm.uuid, samples.slice(-SAMPLES_MAX));
  }
}

/** @param {any[]} rows @param {any} row @param {(one: any) => boolean} isSame */
function replaced(rows, row, isSame) {
  const others = rows.filter((one) => !isSame(one));
  const at = rows.findIndex(isSame);
  others.splice(at < 0 ? others.length : at, 0, row);
  return others;
}

/** @param {string} kind @param {any} data */
function heard(kind, data) {
  const isVm = (/** @type {any} */ vm) => vm.uuid === data.uuid;
  const isOperation = (/** @type {any} */ one) => one.uuid === data.uuid && (one.id === data.id || (!data.request && !one.request));
  if (kind === "vm") state.vms = replaced(state.vms, data, isVm);
  if (kind === "operation") state.operations = replaced(state.operations, data, isOperation);
  if (kind === "operation-gone") state.operations = state.operations.filter((one) => !(one.uuid === data.uuid && one.id === data.id));
  // A VM with two domains is still there when one of them goes.
  if (kind === "vm-gone") return list();
  changed();
}

function listen() {
  const source = new EventSource("/v1/events");
  source.addEventListener("hello", () => {
    state.link = "live";
    list();
  });
  source.addEventListener("reset", () => {
    state.link = "live";
    list();
  });
  for (const kind of ["vm", "vm-gone", "operation", "operation-gone"]) {
    source.addEventListener(kind, (event) => {
      state.link = "live";
      heard(kind, JSON.parse(event.data));
    });
  }
  source.onerror = () => {
    if (state.link === "live") state.link = "reconnecting";
    changed();
    if (source.readyState === EventSource.CLOSED) {
      source.close();
      setTimeout(listen, 1000);
    }
  };
}

async function sample() {
  if (!document.hidden && state.link === "live") {
    try {
      take(await api.vms());
      changed();
    } catch {
      // The stream of events shows that the daemon is away.
    }
  }
  setTimeout(sample, SAMPLE_EVERY_MS);
}

export function start() {
  list();
  listen();
  setTimeout(sample, SAMPLE_EVERY_MS);
}

/** The CPU use of a VM as columns: times in s, and per cent of one CPU. @param {string} uuid */
export function cpuOf(uuid) {
  const samples = state.samples.get(uuid) ?? [];
  const times = [];
  const values = [];
  for (let at = 1; at < samples.length; at += 1) {
    times.push(samples[at].time / 1000);
    values.push(cpuPercent(samples[at - 1], samples[at]));
  }
  return [times, values];
}

/** The memory of a VM as columns: times in s, and MiB. @param {string} uuid */
export function memoryOf(uuid) {
  const samples = state.samples.get(uuid) ?? [];
  return [samples.map((one) => one.time / 1000), samples.map((one) => one.memory / 1024)];
}
