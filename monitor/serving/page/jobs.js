// The list of jobs: searched, filtered and paged by the server.

import { attribute, byId, el, keyed, show, text } from "./dom.js";
import { ago, amount, count, duration, percent, plural, shortName } from "./format.js";
import { badge, bar, timeLeft } from "./phase.js";
import { listen } from "./server.js";

const STATES = ["", "running", "paused", "failed", "done", "cancelled"];
const names = { "": "All" };

export function showJobs(view) {
  document.title = "Jobs · parquetry";
  const asked = new URLSearchParams(location.search);
  const query = { search: asked.get("search") ?? "", state: asked.get("state") ?? "", page: Number(asked.get("page")) || 1 };

  const search = el("input", { type: "search", id: "search", placeholder: "Search id, name, model, output", "aria-label": "Search jobs", value: query.search });
  const chips = el("div", { class: "chips", role: "group", "aria-label": "Filter by state" });
  const rows = el("tbody");
  const table = el("table", { class: "jobs" },
    el("thead", {}, el("tr", {}, ...["State", "Job", "Progress", "Speed", "Time", "Errors"].map((name) => el("th", { scope: "col" }, name)))), rows);
  const empty = el("div", { class: "empty", hidden: true });
  const pager = el("nav", { class: "pager", "aria-label": "Pages" });
  const fleet = el("p", { class: "fleet" });
  view.append(
    el("div", { class: "head" }, el("h1", {}, "Jobs"), fleet),
    el("div", { class: "tools" }, search, chips), table, empty, pager);

  const address = () => {
    const kept = Object.entries(query).filter(([name, value]) => value && !(name === "page" && value === 1));
    return new URLSearchParams(kept.map(([name, value]) => [name, String(value)])).toString();
  };
  const drawRows = keyed(rows, jobRow);
  let stream = null;
  const go = (change) => {
    Object.assign(query, change);
    const asks = address();
    history.replaceState(null, "", asks ? `?${asks}` : location.pathname);
    drawChips.last && drawChips(drawChips.last);
    stream.reopen(`/api/stream?${asks}`);
  };
  const drawChipList = keyed(chips, (state) => ({
    node: el("button", { type: "button", class: "chip", onclick: () => go({ state, page: 1 }) }, el("span", {}, names[state] ?? state), el("b")),
  }));
  function drawChips(counts) {
    drawChips.last = counts;
    drawChipList(STATES, (state) => state);
    STATES.forEach((state, place) => {
      const chip = chips.children[place];
      attribute(chip, "aria-pressed", String(query.state === state));
      const total = state ? counts[state] ?? 0 : Object.values(counts).reduce((sum, value) => sum + value, 0);
      text(chip.lastElementChild, count(total));
    });
  }
  const [back, place, next] = [
    el("button", { type: "button", onclick: () => go({ page: query.page - 1 }) }, "Previous"),
    el("span"),
    el("button", { type: "button", onclick: () => go({ page: query.page + 1 }) }, "Next"),
  ];
  pager.append(back, place, next);

  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => go({ search: search.value, page: 1 }), 200);
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || /INPUT|TEXTAREA/.test(document.activeElement.tagName)) return;
    event.preventDefault();
    search.focus();
  });

  function seen(found) {
    drawChips(found.counts);
    drawRows(found.jobs, (job) => job.job);
    query.page = found.page;
    const first = (found.page - 1) * found.size + 1;
    text(place, `${count(first)} to ${count(first + found.jobs.length - 1)} of ${count(found.total)}`);
    back.disabled = found.page <= 1;
    next.disabled = found.page >= found.pages;
    show(pager, found.pages > 1);
    show(table, found.jobs.length > 0);
    show(empty, found.jobs.length === 0);
    if (!found.jobs.length) sayEmpty(empty, query);
    fleetLine(fleet, found.workers);
  }
  stream = listen(`/api/stream?${address()}`, seen);
}

function sayEmpty(empty, query) {
  const isFiltered = Boolean(query.search || query.state);
  if (empty.dataset.filtered === String(isFiltered)) return;
  empty.dataset.filtered = String(isFiltered);
  empty.replaceChildren(
    ...(isFiltered
      ? [el("h2", {}, "No job matches"), el("p", {}, "Try fewer words, or another state.")]
      : [
          el("h2", {}, "No job yet"),
          el("p", {}, "Write a job file and hand it in:"),
          el("pre", {}, "parquetry init\nparquetry submit job.yaml\nparquetry worker"),
        ]));
}

function fleetLine(node, workers) {
  const rate = workers.reduce((sum, { engine_view: view }) => sum + (view ? view.prompt_tokens_per_s + view.output_tokens_per_s : 0), 0);
  text(node, workers.length ? `${count(workers.length)} live worker${workers.length === 1 ? "" : "s"}${rate ? `, ${amount(rate)} tok/s` : ""}` : "No live worker");
}

function jobRow(first) {
  const [state, progress] = [badge(), bar()];
  const link = el("a", { href: `/job/${encodeURIComponent(first.job)}` }, first.name || first.job);
  const about = el("small");
  const [share, rows, speed, unit, time, when, errors] = Array.from({ length: 7 }, () => el("span"));
  const why = el("small", { class: "why" });
  const node = el("tr", {},
    el("td", { class: "c-state" }, state.node),
    el("th", { scope: "row", class: "c-job" }, link, about, why),
    el("td", { class: "c-progress" }, el("div", { class: "both" }, share, rows), progress.node),
    el("td", { class: "c-speed" }, speed, el("small", {}, unit)),
    el("td", { class: "c-time" }, time, el("small", {}, when)),
    el("td", { class: "c-errors" }, errors));
  return {
    node,
    update(job) {
      state.update(job.phase.phase);
      progress.update(job);
      text(about, job.damage ? "" : `${job.name ? `${job.job} · ` : ""}${job.task} with ${shortName(job.model)} into ${job.output}`);
      text(why, ["stalled", "loading", "queued", "paused"].includes(job.phase.phase) || job.damage ? job.phase.reason : "");
      text(share, job.damage ? "" : percent(job.progress.fraction));
      text(rows, job.damage ? "" : `${count(job.progress.rows_done)} of ${count(job.rows)} rows`);
      show(progress.node, !job.damage);
      const isRunning = job.phase.phase === "running";
      const rate = isRunning || job.ended ? job.progress.tokens_per_s ?? job.progress.rows_per_s : null;
      text(speed, job.damage ? "" : amount(rate));
      text(unit, rate === null ? "" : job.progress.tokens_per_s === null ? "rows/s" : "tok/s");
      text(time, timeLeft(job) || (job.damage ? "" : duration(job.progress.elapsed_s)));
      text(when, job.ended ? `ended ${ago(job.now - job.ended)}` : job.damage ? "" : `since ${ago(job.now - job.created).replace(" ago", "")}`);
      const bad = [job.progress.error_rows && plural(job.progress.error_rows, "row"), job.shards_failed && plural(job.shards_failed, "shard")];
      text(errors, job.damage ? "" : bad.filter(Boolean).join(", ") || "none");
      attribute(errors, "class", bad.some(Boolean) ? "bad" : "faint");
    },
  };
}
