// @ts-check
// Small parts that all views use. Every text is a text node: nothing here makes HTML from strings.

import { h } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import htm from "htm";
import uPlot from "uplot";
import { state, watch } from "./store.js";
import { toneOf } from "./format.js";

export const html = htm.bind(h);

/** The state of the page, which is drawn anew after each change. */
export function useStore() {
  const [, draw] = useState(0);
  useEffect(() => watch(() => draw((count) => count + 1)), []);
  return state;
}

/** The result of a call, with its error. @param {() => Promise<any>} load @param {any[]} needs */
export function useCall(load, needs) {
  const [result, set] = useState(/** @type {{value: any, problem: any}} */ ({ value: null, problem: null }));
  useEffect(() => {
    let isWanted = true;
    load().then(
      (value) => isWanted && set({ value, problem: null }),
      (problem) => isWanted && set((old) => ({ value: old.value, problem })),
    );
    return () => {
      isWanted = false;
    };
  }, needs);
  return result;
}

const SIGNS = { good: "●", calm: "◼", busy: "◔", bad: "▲" };

/** A state with a sign and a word, so that no colour alone shows it. */
export function Mark({ word, tone = toneOf(word) }) {
  return html`<span class="mark ${tone}"><span aria-hidden="true">${SIGNS[tone]}</span> ${word}</span>`;
}

/** An error with its causes and its remedy. */
export function Trouble({ problem }) {
  if (!problem) return null;
  return html`<div class="trouble" role="alert">
    <p><strong>${problem.message}</strong> <code>${problem.code}</code></p>
    ${problem.step && html`<p>Step: ${problem.step}</p>`}
    ${(problem.causes ?? []).map((cause) => html`<p>Cause: ${cause}</p>`)}
    ${problem.remedy && html`<p>Remedy: ${problem.remedy}</p>`}
  </div>`;
}

export function Card({ title, children, wide = false }) {
  return html`<section class="card ${wide ? "wide" : ""}"><h2>${title}</h2>${children}</section>`;
}

/** Names and values, one below the other. */
export function Facts({ rows }) {
  return html`<dl class="facts">${rows
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A small line of values, without axes. */
export function Spark({ values }) {
  const known = values.filter((value) => value !== null).slice(-40);
  if (known.length < 2) return html`<span class="spark none">–</span>`;
  const most = Math.max(100, ...known);
  const points = known.map((value, at) => `${(at / (known.length - 1)) * 100},${24 - (value / most) * 22}`);
  const last = Math.round(known[known.length - 1]);
  return html`<span class="spark"><svg viewBox="0 0 100 25" preserveAspectRatio="none" role="img" aria-label="CPU use now: ${last} per cent">
    <polyline points=${points.join(" ")} /></svg> ${last} %</span>`;
}

/** A graph over time. @param {{title: string, unit: string, data: any, colour: string}} options */
export function Graph({ title, unit, data, colour }) {
  const place = useRef(null);
  const plot = useRef(/** @type {any} */ (null));
  useEffect(() => {
    const box = place.current;
    if (!box) return undefined;
    const width = () => Math.max(200, box.clientWidth);
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink-soft");
    const grid = { stroke: getComputedStyle(document.documentElement).getPropertyValue("--line"), width: 1 };
    const axis = { stroke: ink, grid, ticks: grid };
    plot.current = new uPlot(
      {
        width: width(),
        height: 160,
        legend: { show: false },
        cursor: { show: false },
        scales: { y: { range: (_, low, high) => [0, Math.max(high ?? 0, unit === "%" ? 10 : 1) * 1.1] } },
        axes: [axis, { ...axis, size: 76, values: (_, ticks) => ticks.map((tick) => `${tick} ${unit}`) }],
        series: [{}, { stroke: getComputedStyle(document.documentElement).getPropertyValue(colour), width: 2, spanGaps: false, points: { show: false } }],
      },
      data,
      box,
    );
    const observer = new ResizeObserver(() => plot.current.setSize({ width: width(), height: 160 }));
    observer.observe(box);
    return () => {
      observer.disconnect();
      plot.current.destroy();
    };
  }, []);
  useEffect(() => plot.current?.setData(data), [data]);
  const values = data[1].filter((/** @type {any} */ value) => value !== null);
  const now = values.length ? `${Math.round(values[values.length - 1])} ${unit}` : "not known yet";
  return html`<figure class="graph"><figcaption>${title}: ${now}</figcaption><div ref=${place} role="img" aria-label="${title} over the last minutes; now ${now}"></div></figure>`;
}

/** A button that asks again before it acts. */
export function Sure({ label, question, act, disabled }) {
  const [asks, ask] = useState(false);
  if (!asks) return html`<button type="button" class="danger" disabled=${disabled} onClick=${() => ask(true)}>${label}</button>`;
  return html`<span class="sure" role="group" aria-label=${question}>${question}
    <button type="button" class="danger" autofocus onClick=${() => (ask(false), act())}>Yes, ${label}</button>
    <button type="button" onClick=${() => ask(false)}>No</button></span>`;
}
