// One job: its state and why on top, then tabs. What is not on show is not asked for.

import { attribute, el, keyed, show, text } from "./dom.js";
import { amount, count, duration, moment, percent } from "./format.js";
import { actions, badge, bar, sentence, timeLeft } from "./phase.js";
import { listen, mayChange } from "./server.js";
import { overview } from "./overview.js";
import { rowsPanel } from "./rows.js";
import { errorsPanel } from "./errors.js";
import { aboutPanel } from "./about.js";

// rows and spec are for operators
const TABS = [["overview", "Overview"], ["rows", "Rows"], ["errors", "Errors"], ["spec", "Spec and provenance"]].filter(
  ([key]) => mayChange || key === "overview" || key === "errors");

export function showJob(view, name) {
  document.title = `${name} · parquetry`;
  const [state, progress, buttons] = [badge(), bar(), actions()];
  const [title, id, say] = [el("h1", { class: "job-name" }), el("p", { class: "faint mono", hidden: true }), el("p", { class: "say" })];
  const about = el("p", { class: "faint about" });
  const facts = el("dl", { class: "facts" });
  const problem = el("div", { class: "empty", hidden: true });
  const body = el("div", { hidden: true });
  const report = el("a", { class: "button", href: `/api/jobs/${encodeURIComponent(name)}/report`, target: "_blank" }, "Report");
  buttons.node.append(report);
  const tablist = el("div", { class: "tabs", role: "tablist", "aria-label": "Of this job" });
  body.append(
    el("p", { class: "crumb" }, el("a", { href: "/" }, "Jobs"), " / ", el("span", {}, name)),
    el("div", { class: "head job-head" }, el("div", { class: "title" }, el("div", { class: "titled" }, title, state.node), id), buttons.node),
    say, progress.node, facts, about, tablist);
  view.append(body, problem);

  const makers = { overview, rows: rowsPanel, errors: errorsPanel, spec: aboutPanel };
  const panels = Object.fromEntries(TABS.map(([key]) => [key, makers[key](name)]));
  const tabs = TABS.map(([key, words]) => el("a", { role: "tab", href: `#${key}`, id: `tab-${key}`, "aria-controls": `panel-${key}` }, words));
  tablist.append(...tabs);
  for (const [key] of TABS) {
    const { node } = panels[key];
    attribute(node, "id", `panel-${key}`);
    attribute(node, "role", "tabpanel");
    attribute(node, "aria-labelledby", `tab-${key}`);
    body.append(node);
  }
  let latest = null;
  const chosen = () => (TABS.some(([key]) => location.hash.split("?")[0] === `#${key}`) ? location.hash.slice(1).split("?")[0] : "overview");
  const choose = () => {
    TABS.forEach(([key], place) => {
      const isChosen = key === chosen();
      attribute(tabs[place], "aria-selected", String(isChosen));
      attribute(tabs[place], "tabindex", isChosen ? "0" : "-1");
      show(panels[key].node, isChosen);
    });
    if (latest) panels[chosen()].update(latest);
  };
  addEventListener("hashchange", choose);
  tablist.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus();
    location.hash = next.hash;
  });

  const drawFacts = keyed(facts, ([label]) => {
    const [value, more] = [el("dd"), el("dd", { class: "more" })];
    return {
      node: el("div", { class: "fact" }, el("dt", {}, label), value, more),
      update([, words, rest, isBad]) {
        text(value, words);
        text(more, rest ?? "");
        attribute(more, "class", `more${isBad ? " bad" : ""}`);
      },
    };
  });
  function seen(job) {
    latest = job;
    show(body, true);
    show(problem, false);
    document.title = `${percent(job.progress.fraction)} ${job.phase.phase} · ${job.name || job.job} · parquetry`;
    text(title, job.name || job.job);
    text(id, job.name ? job.job : "");
    show(id, Boolean(job.name));
    attribute(report, "aria-label", `Report of ${job.job}`);
    state.update(job.phase.phase);
    buttons.update(job);
    show(report, mayChange && !job.damage);
    text(say, sentence(job));
    attribute(say, "class", `say ${job.phase.phase}`);
    progress.update(job);
    for (const node of [progress.node, facts, about, tablist, ...Object.values(panels).map((panel) => panel.node)]) node.classList.toggle("gone", Boolean(job.damage));
    if (job.damage) return;
    drawFacts(factsOf(job), ([label]) => label);
    text(about, `${job.task} with ${job.model} into ${job.output} · queue ${job.queue}, priority ${job.priority} · submitted ${moment(job.created)}`);
    attribute(tabs.find((tab) => tab.hash === "#errors"), "data-count", job.progress.error_rows || job.shards_failed ? count(job.progress.error_rows + job.shards_failed) : null);
    panels[chosen()].update(job);
  }
  choose();
  fetch(`/api/jobs/${encodeURIComponent(name)}`).then(async (response) => {
    if (response.ok) {
      seen(await response.json());
      listen(`/api/stream?job=${encodeURIComponent(name)}`, seen);
    } else if (response.status === 401) location.assign("/login");
    else {
      show(problem, true);
      problem.replaceChildren(el("h1", {}, "No such job"), el("p", {}, (await response.json()).error), el("p", {}, el("a", { href: "/" }, "All jobs")));
    }
  });
}

function factsOf(job) {
  const { progress, phase } = job;
  const isRunning = phase.phase === "running";
  const hours = (job.gpu_seconds || job.worker_seconds) / 3600;
  const price = job.price_per_gpu_hour;
  const budget = job.budget_gpu_seconds ? `, of ${(job.budget_gpu_seconds / 3600).toFixed(2)} h that it may take` : "";
  const rates = isRunning || job.ended;
  const found = [
    ["Done", percent(progress.fraction, progress.fraction < 1 ? 1 : 0), `${count(progress.rows_done)} of ${count(job.rows)} rows`],
    ["Time left", job.ended ? "–" : timeLeft(job).replace(" left", "") || "–", `${duration(progress.elapsed_s)} so far, ${duration(progress.computing_s)} computing`],
    ["Speed", rates ? `${amount(progress.tokens_per_s ?? progress.rows_per_s)} ${progress.tokens_per_s === null ? "rows/s" : "tok/s"}` : "–",
      rates && progress.tokens_per_s !== null ? `${amount(progress.prompt_tokens_per_s)} prompt, ${amount(progress.output_tokens_per_s)} output` : ""],
    ["Shards", `${count(job.shards_done)} of ${count(job.shards)}`, [`${count(job.shards_running)} running`, job.shards_failed && `${count(job.shards_failed)} failed`, job.retries && `${count(job.retries)} retried`].filter(Boolean).join(", "), job.shards_failed > 0],
    ["Error rows", count(progress.error_rows), progress.rows_done ? `${percent(progress.error_rows / progress.rows_done, 2)} of finished rows` : "", progress.error_rows > 0],
    price ? ["Cost so far", (hours * price).toFixed(2), `${hours.toFixed(2)} GPU hours at ${price.toFixed(2)}${budget}`] : ["Worker time", `${hours.toFixed(2)} h`, `of workers that computed${budget}`],
  ];
  return found;
}

