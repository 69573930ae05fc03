// @ts-check
// A configuration is checked while it is written: each error with its place, and the policy's decision.

import { useEffect, useState } from "preact/hooks";
import * as api from "./api.js";
import { applied, carets, memory } from "./format.js";
import { Card, Facts, Mark, Trouble, html } from "./parts.js";
import { DecisionText } from "./views.js";

const EXAMPLE = `# An xl.cfg
name = "web"
type = "pvh"
kernel = "/boot/vmlinuz"
memory = 512
vcpus = 2
`;
const PAUSE_MS = 300;

function Finding({ text, one, apply }) {
  const place = carets(text, one);
  return html`<li class="finding">
    <p><${Mark} word=${one.severity} tone=${one.severity === "error" ? "bad" : "busy"} />${one.line ? ` in line ${one.line}` : ""}: ${one.message} ${one.code && html`<code>${one.code}</code>`}</p>
    ${place && html`<pre>${place.line}${"\n"}<span class="carets" aria-hidden="true">${place.marks}</span></pre>`}
    ${one.remedy && html`<p>Remedy: ${one.remedy}
      ${one.suggestion && html` <button type="button" onClick=${() => apply(one.suggestion)}>Do it</button>`}</p>`}</li>`;
}

export function CreateView() {
  const [text, setText] = useState(sessionStorage.getItem("configuration") ?? EXAMPLE);
  const [result, setResult] = useState(/** @type {{text: string, value: any, problem: any}} */ ({ text: "", value: null, problem: null }));
  useEffect(() => {
    sessionStorage.setItem("configuration", text);
    let isWanted = true;
    const timer = setTimeout(() => {
      api.check(text).then(
        (value) => isWanted && setResult({ text, value, problem: null }),
        (problem) => isWanted && setResult({ text, value: null, problem }),
      );
    }, PAUSE_MS);
    return () => {
      isWanted = false;
      clearTimeout(timer);
    };
  }, [text]);
  const value = result.value;
  return html`<h1>New VM</h1>
    <p>Paste an xl.cfg. It is checked on this host while you write; nothing is started. <code>xyl create FILE</code> starts it: the page cannot do that yet.</p>
    <div class="create">
      <label class="editor">Configuration
        <textarea spellcheck="false" rows="18" value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)}></textarea></label>
      <div aria-live="polite">
        <${Trouble} problem=${result.problem} />
        ${value && html`<${Card} title="Result"><p>${value.valid ? html`<${Mark} word="It can be created." tone="good" />` : html`<${Mark} word="It cannot be created." tone="bad" />`}</p>
          ${value.vm && html`<${Facts} rows=${[["Name", value.vm.name], ["Type", value.vm.kind], ["Memory", memory(value.vm.memory_kib)], ["vCPUs", String(value.vm.vcpus)]]} />`}<//>
          ${value.policy && html`<${Card} title="Policy"><${DecisionText} decision=${value.policy} /><//>`}
          ${value.diagnostics.length > 0 && html`<${Card} title="Findings"><ul class="plain">${value.diagnostics.map((one) =>
            html`<${Finding} text=${result.text} one=${one} apply=${(/** @type {any} */ edit) => setText(applied(text, edit))} />`)}</ul><//>`}`}
      </div></div>`;
}
