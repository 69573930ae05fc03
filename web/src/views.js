// @ts-check
// The pages: host, VMs, one VM, operations, posture, leftovers.

import { useMemo, useState } from "preact/hooks";
import * as api from "./api.js";
import { actionsOf, ago, duration, filtered, memory, stateOf, steps } from "./format.js";
import { Card, Facts, Graph, Mark, Spark, Sure, Trouble, html, useCall, useStore } from "./parts.js";
import { cpuOf, memoryOf } from "./store.js";

/** @param {any} vm */
const nameOf = (vm) => vm.name ?? "(no name)";

/** The memory of the host as one bar: each VM, and what is free. */
function MemoryBar({ host, vms }) {
  const whole = host.total_memory * 1024;
  const parts = vms.filter((vm) => vm.domid !== null).map((vm) => ({ name: nameOf(vm), kib: vm.memory_kib + (vm.claimed_kib ?? 0) }));
  const free = host.free_memory * 1024;
  let at = 0;
  const boxes = parts.map((part, index) => {
    const box = html`<rect x=${(at / whole) * 100} y="0" width=${(part.kib / whole) * 100} height="10" class="part p${index % 4}"><title>${part.name}: ${memory(part.kib)}</title></rect>`;
    at += part.kib;
    return box;
  });
  return html`<div>
    <svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="Memory: ${memory(free)} of ${memory(whole)} free">${boxes}</svg>
    <p>${memory(free)} free of ${memory(whole)}. ${host.outstanding_claims > 0 ? `Claimed: ${memory(host.outstanding_claims * 1024)}.` : ""}</p>
    <ul class="legend">${parts.map((part, index) => html`<li><span class="dot p${index % 4}" aria-hidden="true"></span>${part.name}: ${memory(part.kib)}</li>`)}</ul>
  </div>`;
}

export function HostView() {
  const { vms, operations, version, missing } = useStore();
  const host = useCall(api.host, [Math.floor(version / 10)]);
  const guests = vms.filter((vm) => vm.domid !== 0);
  const care = [
    ...guests.filter((vm) => vm.vm_state === "given-up").map((vm) => `${nameOf(vm)}: its restart was given up. ${vm.given_up?.why ?? ""}`),
    ...guests.filter((vm) => vm.bare_pv32).map((vm) => `${nameOf(vm)} is a bare 32-bit PV guest`),
    ...operations.filter((one) => one.state === "stuck" || one.state === "interrupted").map((one) => `${one.operation} of ${one.vm ?? one.uuid} is ${one.state}`),
    ...missing.map((part) => `${part.what} cannot be read: ${part.why}`),
  ];
  const facts = host.value;
  return html`<h1>Host</h1><${Trouble} problem=${host.problem} />
    <div class="cards">
      <${Card} title="Needs attention">${care.length ? html`<ul class="plain">${care.map((text) => html`<li><${Mark} word=${text} tone="bad" /></li>`)}</ul>` : html`<p>Nothing.</p>`}<//>
      ${facts && html`<${Card} title="Memory"><${MemoryBar} host=${facts} vms=${vms} /><//>
      <${Card} title="Xen"><${Facts} rows=${[
        ["Host", `${facts.host}${facts.is_simulated ? " (simulated)" : ""}`],
        ["Xen", facts.xen_version],
        ["Kernel", facts.release],
        ["CPUs", `${facts.nr_cpus}, ${Math.round(facts.cpu_mhz)} MHz`],
        ["Scheduler", facts.xen_scheduler],
        ["Guests", String(guests.length)],
        ["Xyl", facts.xyl_version],
      ]} /><//>`}
    </div>`;
}

export function VmsView() {
  const { vms } = useStore();
  const [words, setWords] = useState("");
  const shown = filtered(vms, words);
  return html`<h1>VMs</h1>
    <p><label>Filter <input type="search" value=${words} onInput=${(/** @type {any} */ event) => setWords(event.target.value)} /></label></p>
    <div class="scroll" tabindex="0" role="region" aria-label="Table of VMs"><table>
      <thead><tr><th>Name</th><th>State</th><th>CPU</th><th>Memory</th><th>vCPUs</th><th>Type</th></tr></thead>
      <tbody>${shown.map((vm) => html`<tr key=${`${vm.uuid}/${vm.domid}`}>
        <th scope="row"><a href="#/vm/${vm.uuid}">${nameOf(vm)}</a></th>
        <td><${Mark} word=${stateOf(vm)} /></td>
        <td><${Spark} values=${cpuOf(vm.uuid)[1]} /></td>
        <td>${memory(vm.memory_kib)}</td><td>${vm.vcpus_online}</td><td>${vm.kind ?? "unknown"}</td></tr>`)}
      </tbody></table></div>
    ${shown.length === 0 && html`<p>No VM fits.</p>`}
    <p><a href="#/create">Check a new configuration</a></p>`;
}

const SURE = { destroy: "Its domain ends at once, and what it has not written is lost." };

function Power({ vm }) {
  const [wait, setWait] = useState("");
  const [outcome, setOutcome] = useState(/** @type {{text: string, problem: any}} */ ({ text: "", problem: null }));
  const actions = actionsOf(vm);
  /** @param {string} action */
  async function act(action) {
    const key = crypto.randomUUID();
    setWait(action);
    setOutcome({ text: `${action}: under way`, problem: null });
    try {
      const answer = await api.act(vm.uuid, action, key);
      setOutcome({ text: `${action}: ${answer.state}`, problem: null });
    } catch (problem) {
      setOutcome({ text: "", problem });
    }
    setWait("");
  }
  return html`<${Card} title="Power">
    <p><${Mark} word=${stateOf(vm)} /></p>
    <p class="buttons">${actions.map((action) => SURE[action]
      ? html`<${Sure} key=${action} label=${action} question=${SURE[action]} disabled=${wait !== ""} act=${() => act(action)} />`
      : html`<button type="button" key=${action} disabled=${wait !== ""} onClick=${() => act(action)}>${action}</button>`)}</p>
    ${actions.length === 0 && html`<p>There is no action for it now.</p>`}
    <p role="status" aria-live="polite">${outcome.text}</p><${Trouble} problem=${outcome.problem} /><//>`;
}

/** An operation with its steps, which are read when it is opened. */
function Steps({ id, last }) {
  const { value, problem } = useCall(() => api.operation(id), [id, last]);
  if (problem) return html`<${Trouble} problem=${problem} />`;
  if (!value) return html`<p>Loading.</p>`;
  if (value.problem) return html`<${Trouble} problem=${{ ...value.problem, message: value.problem.detail }} />`;
  return html`<ol class="steps">${steps(value.entries ?? []).map((step) => html`<li>
    <${Mark} word=${step.state} /> ${step.name}
    ${step.ended !== null && html` <span class="soft">${step.ended - step.began} ms</span>`}
    ${step.cause && html`<p class="cause">${step.cause}</p>`}</li>`)}</ol>`;
}

export function OperationRow({ one, withVm }) {
  const [isOpen, open] = useState(false);
  const [problem, setProblem] = useState(null);
  const isUnderWay = ["under way", "requested", "interrupted"].includes(one.state);
  const failure = one.failure;
  return html`<li class="operation">
    <div><button type="button" class="plain" aria-expanded=${isOpen} onClick=${() => open(!isOpen)} disabled=${!one.id}>
      ${isOpen ? "▾" : "▸"} <strong>${one.operation ?? "restart"}</strong></button>
      ${withVm && html` <a href="#/vm/${one.uuid}">${one.vm ?? one.uuid}</a>`}
      ${" "}<${Mark} word=${one.state ?? (one.given_up ? "given up" : "unknown")} />
      <span class="soft"> ${ago(one.last_ms, Date.now())}${one.pid && isUnderWay ? `, process ${one.pid}` : ""}</span>
      ${isUnderWay && one.step && html` <span>${one.step}</span>`}
      ${isUnderWay && html` <button type="button" onClick=${() => api.cancel(one.id).catch(setProblem)}>Cancel</button>`}</div>
    ${failure && html`<p class="cause">${failure.step ? `${failure.step}: ` : ""}${failure.cause}</p>`}
    ${one.given_up && html`<p class="cause">${one.given_up.why}. Its configuration is kept in ${one.given_up.configuration}</p>`}
    ${one.restart_waits_s !== null && one.restart_waits_s !== undefined && html`<p>The restart waits ${duration(one.restart_waits_s)}: ${one.restart_waits_why}</p>`}
    <${Trouble} problem=${problem} />
    ${isOpen && html`<${Steps} id=${one.id} last=${one.last_ms} />`}</li>`;
}

function Timeline({ vm, stamp }) {
  const { value, problem } = useCall(() => api.operationsOf(vm.uuid), [vm.uuid, stamp]);
  return html`<${Card} title="Operations" wide><${Trouble} problem=${problem} />
    ${value && (value.operations.length
      ? html`<ul class="plain">${value.operations.map((one) => html`<${OperationRow} key=${one.id} one=${one} />`)}</ul>`
      : html`<p>No operation of Xyl is recorded for it.</p>`)}<//>`;
}

function DecisionText({ decision }) {
  return html`<p><${Mark} word=${decision.outcome} /> ${decision.guest && html`as ${decision.guest}`}</p>
    ${[["Reason", decision.reasons], ["Warning", decision.warnings], ["Remedy", decision.remedies]].map(([what, texts]) => texts.map((text) => html`<p>${what}: ${text}</p>`))}`;
}

function ExplainCard({ vm }) {
  const { value, problem } = useCall(() => api.explain(vm.uuid), [vm.uuid, vm.domid]);
  if (problem?.code === "no-decision") return html`<${Card} title="Policy"><p>${problem.message}</p><//>`;
  return html`<${Card} title="Policy"><${Trouble} problem=${problem} />
    ${value && html`<${DecisionText} decision=${value.decision} />
      ${value.changed && html`<p><strong>The policy would decide differently now:</strong></p><${DecisionText} decision=${value.now} />`}
      <${Facts} rows=${[["Kernel", value.kernel], ["Image", value.image], ["Shim", value.shim], ["Decided", new Date(value.decided_s * 1000).toLocaleString()]]} />
      ${value.unseen && html`<p>${value.unseen}</p>`}`}<//>`;
}

export function VmView({ id }) {
  const { vms, operations, version } = useStore();
  const vm = vms.filter((one) => one.uuid === id).sort((a, b) => Number(a.state?.dying ?? false) - Number(b.state?.dying ?? false))[0];
  const stamp = operations.filter((one) => one.uuid === id).map((one) => `${one.id} ${one.state} ${one.last_ms}`).join();
  const cpu = useMemo(() => cpuOf(id), [id, version]);
  const used = useMemo(() => memoryOf(id), [id, version]);
  if (!vm) return html`<h1>VM</h1><p>There is no such VM now.</p><${Timeline} vm=${{ uuid: id }} stamp=${stamp} />`;
  return html`<h1>${nameOf(vm)}</h1>
    <div class="cards">
      <${Power} vm=${vm} />
      <${Card} title="Facts"><${Facts} rows=${[
        ["UUID", vm.uuid],
        ["Type", vm.kind],
        ["Domain", vm.domid === null ? "none now" : String(vm.domid)],
        ["Memory", memory(vm.memory_kib)],
        ["vCPUs", String(vm.vcpus_online)],
        ["Shut down", vm.shutdown_reason],
        ["Restart in", vm.restart_waits_s === null ? null : duration(vm.restart_waits_s)],
        ["Given up", vm.given_up?.why],
      ]} /><//>
      <${Card} title="Last ten minutes"><${Graph} key=${`cpu ${id}`} title="CPU" unit="%" data=${cpu} colour="--accent" />
        <${Graph} key=${`memory ${id}`} title="Memory" unit="MiB" data=${used} colour="--second" />
        <p class="soft">The graphs begin when this page is opened.</p><//>
      ${vm.domid !== 0 && html`<${ExplainCard} vm=${vm} />`}
      <${Timeline} vm=${vm} stamp=${stamp} />
    </div>`;
}

export function OperationsView() {
  const { operations } = useStore();
  const sorted = [...operations].sort((a, b) => (b.last_ms ?? 0) - (a.last_ms ?? 0));
  return html`<h1>Operations</h1><p>The last operation of each VM, and the requests that wait.</p>
    ${sorted.length ? html`<ul class="plain">${sorted.map((one) => html`<${OperationRow} key=${`${one.uuid}/${one.id}`} one=${one} withVm />`)}</ul>` : html`<p>There are none.</p>`}`;
}

export function PostureView() {
  const { value, problem } = useCall(api.posture, []);
  if (!value) return html`<h1>Posture</h1><${Trouble} problem=${problem} />${!problem && html`<p>Loading.</p>`}`;
  const types = value.runs_here;
  const families = [...new Set(value.rows.map((row) => row.family))];
  const worst = ["unprotected", "unknown", "partly", "protected", "not-affected"];
  const of = (/** @type {string} */ guest, /** @type {string} */ family) => {
    const found = value.rows.filter((row) => row.guest === guest && row.family === family).map((row) => row.standing);
    return worst.find((word) => found.includes(word)) ?? found[0] ?? "unknown";
  };
  const open = value.advisories.filter((row) => row.verdict !== "not-affected" && row.verdict !== "fixed");
  return html`<h1>Posture</h1><p>What protects this host against each family of speculative execution attacks, for each type of guest. A cell shows the worst result.</p>
    <div class="scroll" tabindex="0" role="region" aria-label="Table of families and types of guests"><table>
      <thead><tr><th>Family</th>${types.map((type) => html`<th>${type}</th>`)}</tr></thead>
      <tbody>${families.map((family) => html`<tr><th scope="row">${family}</th>${types.map((type) => html`<td><${Mark} word=${of(type, family)} /></td>`)}</tr>`)}</tbody></table></div>
    <div class="cards">
      <${Card} title="Advisories">${open.length ? html`<ul>${open.map((row) => html`<li><${Mark} word=${row.verdict} /> <strong>${row.id}</strong> ${row.title}</li>`)}</ul>` : html`<p>None applies.</p>`}<//>
      <${Card} title="Running guests">${value.running.length ? html`<ul>${value.running.map((one) => html`<li>${one.name}: ${one.guest}${one.changed ? " (the policy would decide differently now)" : ""}</li>`)}</ul>` : html`<p>No guest runs.</p>`}<//>
      ${value.facts?.missing?.length > 0 && html`<${Card} title="Not known"><ul>${value.facts.missing.map((text) => html`<li>${text}</li>`)}</ul><//>`}
    </div>`;
}

export function LeftoversView() {
  const [looks, look] = useState(0);
  const { value, problem } = useCall(api.leftovers, [looks]);
  return html`<h1>Left over</h1><p>What dead domains of any toolstack have left on the host. <code>xyl fsck --repair</code> removes it.</p>
    <p><button type="button" onClick=${() => look(looks + 1)}>Look again</button></p><${Trouble} problem=${problem} />
    ${!value && !problem && html`<p role="status">Looking.</p>`}
    ${value && (value.leftovers.length === 0 ? html`<p role="status">Nothing is left over.</p>` : html`<ul class="plain">${value.leftovers.map((one) => html`<li class="operation">
      <strong>${one.object}</strong> <span class="soft">${one.kind}</span>
      ${one.cause.map((cause) => html`<p>Cause: ${cause}</p>`)}<p>Remedy: ${one.remedy}</p></li>`)}</ul>`)}`;
}

export { DecisionText };
