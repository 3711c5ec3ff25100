// Rates over time. Colours come from the style sheet, so that charts follow the theme.
/* global uPlot */

import { el, text } from "./dom.js";
import { amount, clock, percent } from "./format.js";

const KINDS = [
  { title: "Tokens per second", read: amount, series: [["output", "output_tokens_per_s", "--c1"], ["prompt", "prompt_tokens_per_s", "--c2"]] },
  { title: "Waste and cache", read: (value) => percent(value), share: true, series: [["padding", "padding", "--c3"], ["prefix hits", "cached", "--c1"], ["KV cache in use", "kv_use", "--c2"]] },
  { title: "Rows per second, workers", read: amount, series: [["rows", "rows_per_s", "--c1"], ["workers", "workers", "--c4", "count"]] },
];

export function charts() {
  const node = el("div", { class: "charts" });
  const made = KINDS.map((kind) => chart(kind));
  node.append(...made.map((one) => one.node));
  let latest = null;
  const redraw = () => latest && made.forEach((one) => one.update(latest, true));
  document.addEventListener("theme", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  return {
    node,
    update(rates) {
      latest = rates;
      made.forEach((one) => one.update(rates, false));
    },
  };
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function chart(kind) {
  const place = el("div", { class: "plot", role: "img" });
  const legend = el("p", { class: "legend" });
  const none = el("p", { class: "faint none" }, "Nothing was measured yet.");
  const node = el("figure", { class: "chart" }, el("figcaption", {}, kind.title), legend, place, none);
  const values = kind.series.map(([label, , tint]) => {
    const value = el("b");
    legend.append(el("span", { class: tint.slice(2) }, el("i", { "aria-hidden": "true" }), `${label} `, value));
    return value;
  });
  let plot = null;
  let wide = 0;
  const say = (data, place) =>
    values.forEach((value, number) => text(value, data[number + 1].length ? (kind.series[number][3] === "count" ? String(data[number + 1][place] ?? 0) : kind.read(data[number + 1][place] ?? null)) : "–"));

  function build(data) {
    plot?.destroy();
    const [ink, line] = [colour("--axis"), colour("--grid")];
    const axis = { stroke: ink, font: "11px system-ui", grid: { stroke: line, width: 1 }, ticks: { show: false }, border: { show: false } };
    const top = (self, low, high) => [0, kind.share ? 1 : Math.max(high * 1.12, 1)];
    plot = new uPlot({
      width: (wide = place.clientWidth || 320), height: 170, legend: { show: false }, padding: [8, 10, 0, 0],
      cursor: { y: false, sync: { key: "rates" }, drag: { x: false, y: false } },
      scales: { y: { range: top }, count: { range: top } },
      axes: [
        { ...axis, space: 80, size: 26, grid: { show: false }, values: (self, times) => times.map((time) => clock(time).slice(0, 5)) },
        { ...axis, size: 46, space: 34, values: (self, ticks) => ticks.map((tick) => (kind.share ? percent(tick) : amount(tick).replace(" ", ""))) },
      ],
      series: [{}, ...kind.series.map(([label, , tint, scale]) => ({
        label, scale: scale ?? "y", stroke: colour(tint), width: 1.8, points: { show: data[0].length < 3 }, spanGaps: true,
        fill: tint === "--c1" ? `${colour(tint)}22` : undefined,
        paths: scale ? uPlot.paths.stepped({ align: 1 }) : undefined,
      }))],
      hooks: { setCursor: [(self) => say(self.data, self.cursor.idx ?? self.data[0].length - 1)] },
    }, data, place);
  }
  new ResizeObserver(() => {
    if (plot && place.clientWidth && place.clientWidth !== wide) plot.setSize({ width: (wide = place.clientWidth), height: 170 });
  }).observe(place);
  return {
    node,
    update(rates, isNewTheme) {
      const data = [rates.at, ...kind.series.map(([, column]) => rates[column])];
      const isKnown = data[0].length > 0 && data.slice(1).some((column) => column.some((value) => value !== null));
      none.hidden = isKnown;
      place.hidden = legend.hidden = !isKnown;
      if (!isKnown) return;
      if (!plot || isNewTheme) build(data);
      else plot.setData(data);
      say(data, data[0].length - 1);
      place.setAttribute("aria-label", `${kind.title}, lately: ${legend.textContent}`);
    },
  };
}
