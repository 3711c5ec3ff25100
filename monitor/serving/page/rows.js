// Rows as they are written: what went in beside what came out.

import { attribute, el, show, text } from "./dom.js";
import { count, plural } from "./format.js";
import { ask } from "./server.js";

const SIZE = 10;
const EVERY_MS = 3000;
// told above the row, or where its output would be
const COUNTS = ["row", "finish_reason", "prompt_tokens", "output_tokens", "error"];

export function rowsPanel(name) {
  const path = `/api/jobs/${encodeURIComponent(name)}/rows`;
  const follow = el("input", { type: "checkbox", id: "follow", checked: true });
  const shard = el("input", { type: "number", min: "0", id: "shard", inputmode: "numeric" });
  const [back, place, next] = [el("button", { type: "button" }, "Previous"), el("span", { class: "faint" }), el("button", { type: "button" }, "Next")];
  const list = el("div", { class: "rows" });
  const note = el("p", { class: "empty", hidden: true });
  const node = el("section", { class: "panel", hidden: true },
    el("div", { class: "tools" }, el("label", { class: "check" }, follow, "Follow the newest shard"), el("label", {}, "Shard ", shard), el("span", { class: "pager" }, back, place, next)), note, list);
  let at = { shard: null, first: 0 };
  let seen = "";
  let askedAt = 0;
  let page = null;

  async function load() {
    askedAt = Date.now();
    try {
      const asked = at.shard === null ? "" : `&shard=${at.shard}`;
      page = await ask(`${path}?first=${at.first}&count=${SIZE}${asked}`);
      draw();
    } catch (error) {
      show(note, true);
      text(note, error.message);
      list.replaceChildren();
    }
  }
  function draw() {
    show(note, false);
    if (document.activeElement !== shard) shard.value = page.shard;
    text(place, page.total ? `${count(page.first + 1)} to ${count(page.first + page.rows.length)} of ${count(page.total)}` : "no row");
    back.disabled = page.first <= 0;
    next.disabled = page.first + page.rows.length >= page.total;
    const now = JSON.stringify(page);
    if (now === seen) return;
    seen = now;
    list.replaceChildren(...page.rows.map((row) => card(row, page)));
  }
  const stay = (to) => {
    follow.checked = false;
    at = { shard: page?.shard ?? 0, first: page?.first ?? 0, ...to };
    load();
  };
  back.addEventListener("click", () => stay({ first: Math.max(0, page.first - SIZE) }));
  next.addEventListener("click", () => stay({ first: page.first + SIZE }));
  shard.addEventListener("change", () => stay({ shard: Math.max(0, Number(shard.value) || 0), first: 0 }));
  follow.addEventListener("change", () => {
    at = follow.checked ? { shard: null, first: 0 } : { shard: page?.shard ?? 0, first: page?.first ?? 0 };
    load();
  });
  function heed() {
    const asked = new URLSearchParams(location.hash.split("?")[1] ?? "").get("shard");
    if (location.hash.startsWith("#rows") && asked !== null) stay({ shard: Number(asked), first: 0 });
  }
  addEventListener("hashchange", heed);
  heed();
  const isRead = () => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && list.contains(selection.anchorNode);
  };
  return {
    node,
    update(job) {
      attribute(shard, "max", Math.max(0, job.shards - 1));
      const isNew = page === null || (follow.checked && !job.ended);
      if (isNew && !isRead() && Date.now() - askedAt >= EVERY_MS) load();
    },
  };
}

function card(row, page) {
  const facts = [
    `row ${count(row.row)}`,
    row.finish_reason && `ended by ${row.finish_reason}`,
    typeof row.prompt_tokens === "number" && `${count(row.prompt_tokens)} prompt`,
    typeof row.output_tokens === "number" && `${plural(row.output_tokens, "output token")}`,
  ].filter(Boolean);
  const outputs = page.outputs.filter((name) => !COUNTS.includes(name));
  return el("article", { class: `row${row.error ? " failed" : ""}` },
    el("p", { class: "row-facts" }, facts.join(" · ")),
    el("div", { class: "beside" },
      el("div", { class: "in" }, ...page.inputs.map((name) => cell(name, row[name]))),
      el("div", { class: "out" }, row.error ? el("p", { class: "bad" }, row.error) : null, ...(row.error ? [] : outputs.map((name) => cell(name, row[name]))))));
}

export function cell(name, value) {
  return el("div", { class: "cell" }, el("small", {}, name), el("p", { class: value === null ? "faint" : null }, value === null ? "null" : String(value)));
}
