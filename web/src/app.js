// @ts-check
// The frame of the page: navigation, the state of the connection, and the view that the address names.

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { CreateView } from "./create.js";
import { Trouble, html, useStore } from "./parts.js";
import { start } from "./store.js";
import { HostView, LeftoversView, OperationsView, PostureView, VmView, VmsView } from "./views.js";

const PAGES = [
  ["", "Host", HostView],
  ["vms", "VMs", VmsView],
  ["create", "New VM", CreateView],
  ["operations", "Operations", OperationsView],
  ["posture", "Posture", PostureView],
  ["leftovers", "Left over", LeftoversView],
];

const LINKS = { connecting: "connecting", live: "", reconnecting: "The daemon is away. Reconnecting." };

function App() {
  const [address, setAddress] = useState(location.hash);
  useEffect(() => {
    const moved = () => setAddress(location.hash);
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  const store = useStore();
  const [page = "", id = ""] = address.replace(/^#\/?/, "").split("/");
  const known = PAGES.find(([path]) => path === page);
  const view = page === "vm" ? html`<${VmView} key=${id} id=${decodeURIComponent(id)} />` : known ? html`<${known[2]} />` : html`<h1>No such page</h1>`;
  useEffect(() => {
    document.title = `Xyl: ${known?.[1] ?? (page === "vm" ? "VM" : "no such page")}`;
  }, [page]);
  return html`<a class="skip" href="#main" onClick=${(/** @type {any} */ event) => (event.preventDefault(), document.querySelector("main")?.focus())}>To the content</a>
    <header><a class="brand" href="#/">Xyl</a><nav aria-label="Pages">${PAGES.map(([path, title]) =>
      html`<a href="#/${path}" aria-current=${path === page || (page === "vm" && path === "vms") ? "page" : null}>${title}</a>`)}</nav>
      <p class="link" role="status">${LINKS[store.link]}</p></header>
    <main tabindex="-1"><${Trouble} problem=${store.link === "live" ? store.problem : null} />${view}</main>`;
}

start();
const place = document.getElementById("app");
if (place) {
  place.replaceChildren();
  render(html`<${App} />`, place);
}
