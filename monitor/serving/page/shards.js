// One canvas of all shards by state. A cell is one shard, or many where there are thousands; it opens what it stands for.

import { attribute, el, show, text } from "./dom.js";
import { bytes, count, duration, moment, plural } from "./format.js";
import { ask, mayChange } from "./server.js";

const LEAST = 5;
const MOST = 16;
const ROOM = 150;

export function shardMap(name) {
  const path = `/api/jobs/${encodeURIComponent(name)}/shards`;
  const canvas = el("canvas", { tabindex: "0", role: "application", "aria-label": "Shards by state. Arrow keys move, Enter opens." });
  const [pointed, total, back] = [el("p", { class: "pointed", role: "status" }), el("span", { class: "faint" }), el("button", { type: "button", class: "quiet", hidden: true }, "All shards")];
  const key = el("p", { class: "key" }, ...["committed", "running", "failed", "waiting"].map((state) => el("span", { class: state }, el("i", { "aria-hidden": "true" }), state)));
  const drawer = el("aside", { class: "drawer", hidden: true, "aria-label": "A shard", tabindex: "-1" });
  const node = el("section", { class: "shards" }, el("div", { class: "line" }, el("h2", {}, "Shards"), total, key, back), canvas, pointed, drawer);
  let cells = null;
  let range = { first: 0, count: 0 };
  let at = -1;
  let size = MOST;
  let columns = 1;

  async function refresh() {
    cells = await ask(`${path}?first=${range.first}&count=${range.count}`);
    text(total, range.count ? `${count(cells.first)} to ${count(cells.first + cells.count - 1)} of ${count(cells.shards)}` : `${count(cells.shards)}${cells.step > 1 ? `, ${count(cells.step)} to a cell` : ""}`);
    show(back, range.count > 0);
    draw();
  }
  back.addEventListener("click", () => {
    range = { first: 0, count: 0 };
    at = -1;
    refresh();
  });

  function draw() {
    const wide = canvas.clientWidth;
    if (!cells || !wide) return;
    const number = cells.done.length;
    size = MOST;
    while (size > LEAST && Math.ceil(number / Math.floor(wide / size)) * size > ROOM) size -= 1;
    columns = Math.max(1, Math.floor(wide / size));
    const [ratio, tall] = [devicePixelRatio || 1, Math.ceil(number / columns) * size];
    if (canvas.height !== Math.round(tall * ratio) || canvas.width !== Math.round(wide * ratio)) {
      canvas.width = Math.round(wide * ratio);
      canvas.height = Math.round(tall * ratio);
      canvas.style.height = `${tall}px`;
    }
    const paint = canvas.getContext("2d");
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.clearRect(0, 0, wide, tall);
    const style = getComputedStyle(document.documentElement);
    const tint = Object.fromEntries(["done", "run", "fail", "wait", "ink"].map((state) => [state, style.getPropertyValue(`--s-${state}`).trim()]));
    const gap = size > 7 ? 2 : 1;
    for (let cell = 0; cell < number; cell += 1) {
      const [x, y] = [(cell % columns) * size, Math.floor(cell / columns) * size];
      const held = Math.min(cells.step, cells.count - cell * cells.step);
      paint.fillStyle = tint.wait;
      paint.fillRect(x, y, size - gap, size - gap);
      if (cells.done[cell]) {
        paint.fillStyle = tint.done;
        const full = Math.max(1, Math.round(((size - gap) * cells.done[cell]) / held));
        paint.fillRect(x, y + size - gap - full, size - gap, full);
      }
      // what needs somebody, or moves, is seen however few it is among many
      if (cells.running[cell] || cells.failed[cell]) {
        paint.fillStyle = cells.failed[cell] ? tint.fail : tint.run;
        if (cells.step === 1) paint.fillRect(x, y, size - gap, size - gap);
        else paint.fillRect(x, y, size - gap, Math.max(2, Math.round((size - gap) / 2.5)));
      }
      if (cell === at) {
        paint.strokeStyle = tint.ink;
        paint.lineWidth = 2;
        paint.strokeRect(x, y, size - gap, size - gap);
      }
    }
  }
  new ResizeObserver(draw).observe(canvas);
  document.addEventListener("theme", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  function describe() {
    if (!cells || at < 0) return text(pointed, "");
    const first = cells.first + at * cells.step;
    const held = Math.min(cells.step, cells.count - at * cells.step);
    const [done, running, failed] = [cells.done[at], cells.running[at], cells.failed[at]];
    const waiting = held - done - running - failed;
    const parts = [[done, "committed"], [running, "running"], [failed, "failed"], [waiting, "waiting"]].filter(([some]) => some > 0);
    return text(pointed, cells.step === 1 ? `Shard ${first}: ${parts[0]?.[1] ?? "waiting"}` : `Shards ${count(first)} to ${count(first + held - 1)}: ${parts.map(([some, state]) => `${count(some)} ${state}`).join(", ")}`);
  }
  function point(cell) {
    const inside = cells && cell >= 0 && cell < cells.done.length ? cell : -1;
    if (inside === at) return;
    at = inside;
    describe();
    draw();
  }
  const cellOf = (event) => {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / size);
    return column < columns ? Math.floor((event.clientY - box.top) / size) * columns + column : -1;
  };
  function open() {
    if (!cells || at < 0) return;
    const first = cells.first + at * cells.step;
    if (cells.step === 1) openShard(first);
    else {
      range = { first, count: Math.min(cells.step, cells.count - at * cells.step) };
      at = 0;
      refresh();
    }
  }
  canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && point(cellOf(event)));
  canvas.addEventListener("pointerleave", () => document.activeElement !== canvas && point(-1));
  canvas.addEventListener("click", (event) => {
    point(cellOf(event));
    open();
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (step && cells) {
      event.preventDefault();
      point(Math.min(Math.max(at + step, 0), cells.done.length - 1));
    } else if (event.key === "Enter") open();
  });
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || drawer.hidden) return;
    drawer.hidden = true;
    canvas.focus();
  });

  async function openShard(shard) {
    try {
      const known = await ask(`${path}/${shard}`);
      drawer.replaceChildren(...shardFacts(known, () => {
        drawer.hidden = true;
        canvas.focus();
      }));
      drawer.hidden = false;
      drawer.focus({ preventScroll: false });
    } catch (error) {
      text(pointed, error.message);
    }
  }
  return { node, refresh, complain: (words) => text(pointed, words) };
}

const STATE_WORDS = { pending: "waiting", leased: "running", committed: "committed", failed: "failed" };

function shardFacts(shard, close) {
  const attempts = shard.state === "pending" ? shard.lost : shard.state === "failed" ? shard.lost : shard.lost + 1;
  const facts = [
    ["Rows", shard.first_row === undefined ? null : `${count(shard.first_row)} to ${count(shard.stop_row - 1)}`],
    ["Worker", shard.worker],
    ["Attempts", attempts ? count(attempts) : null],
    ["Fence", shard.fence ?? shard.footer?.fence],
    ["Finished", shard.rows === null ? null : `${plural(shard.rows, "row")}${shard.error_rows ? `, ${count(shard.error_rows)} with errors` : ""}`],
    ["Lease until", shard.lease_ends ? moment(shard.lease_ends) : null],
    ["Committed", shard.ended ? moment(shard.ended) : null],
    ["Took", shard.took_s ? duration(shard.took_s) : null],
    ["Part", shard.bytes ? bytes(shard.bytes) : null],
  ].filter(([, value]) => value !== null && value !== undefined);
  const events = (shard.events ?? []).map((event) => el("li", { class: `event ${event.kind}` }, el("time", {}, moment(event.at_ms / 1000)), el("b", {}, event.kind === "lost" ? "attempt lost" : event.kind.replace("-shard", "")), el("span", {}, event.text)));
  return [
    el("div", { class: "card-head" }, el("h3", {}, `Shard ${shard.shard}`), el("span", { class: `badge ${{ leased: "running", committed: "done", failed: "failed", pending: "queued" }[shard.state]}` }, STATE_WORDS[shard.state]), el("button", { type: "button", class: "quiet", onclick: close, "aria-label": "Close the shard" }, "Close")),
    shard.reason ? el("p", { class: "bad" }, shard.reason) : null,
    shard.unreadable ? el("p", { class: "faint" }, `Its output cannot be read here: ${shard.unreadable}`) : null,
    el("dl", { class: "pairs" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])),
    mayChange && shard.state === "committed" ? el("p", {}, el("a", { href: `#rows?shard=${shard.shard}` }, "Its rows")) : null,
    events.length ? el("ol", { class: "events" }, ...events) : null,
  ].filter(Boolean);
}
