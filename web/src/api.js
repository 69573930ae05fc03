// @ts-check
// Calls of the API. An error is a Problem with the code, the remedy and the causes that the daemon gives.

export class Problem extends Error {
  /** @param {any} facts */
  constructor(facts) {
    super(facts.detail ?? "the daemon does not answer");
    this.code = facts.code ?? "unreachable";
    this.remedy = facts.remedy ?? null;
    this.causes = facts.causes ?? [];
    this.step = facts.step ?? null;
  }
}

/** @param {string} path @param {RequestInit} [options] */
export async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new Problem({ detail: "the daemon cannot be reached", remedy: "the page tries again by itself" });
  }
  const type = response.headers.get("content-type") ?? "";
  const body = type.includes("json") ? await response.json().catch(() => ({})) : await response.text();
  if (!response.ok && !(path === "/readyz" && response.status === 503)) {
    throw new Problem(typeof body === "object" ? body : { detail: `status ${response.status}` });
  }
  return body;
}

const json = { "Content-Type": "application/json" };

export const host = () => call("/v1/host");
export const vms = () => call("/v1/vms");
export const posture = () => call("/v1/posture");
export const leftovers = () => call("/v1/leftovers");
export const operations = () => call("/v1/operations");
/** @param {string} vm */
export const operationsOf = (vm) => call(`/v1/operations?vm=${encodeURIComponent(vm)}`);
/** @param {string} id */
export const operation = (id) => call(`/v1/operations/${encodeURIComponent(id)}`);
/** @param {string} id */
export const cancel = (id) => call(`/v1/operations/${encodeURIComponent(id)}`, { method: "DELETE" });
/** @param {string} vm */
export const explain = (vm) => call(`/v1/vms/${encodeURIComponent(vm)}/explain`);

/** @param {string} text */
export const check = (text) => call("/v1/vms:check", { method: "POST", headers: { "Content-Type": "text/x-xl-cfg" }, body: text });

/** Has an action done. The key is made once, so a repeated call has no second effect.
 * @param {string} vm @param {string} action @param {string} key */
export async function act(vm, action, key) {
  const path = `/v1/vms/${encodeURIComponent(vm)}/actions/${action}`;
  const options = { method: "POST", headers: { ...json, "Idempotency-Key": key, Prefer: "wait=20" }, body: "{}" };
  for (let tries = 0; ; tries += 1) {
    try {
      return await call(path, options);
    } catch (problem) {
      if (!(problem instanceof Problem) || problem.code !== "unreachable" || tries >= 5) throw problem;
      await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** tries));
    }
  }
}
