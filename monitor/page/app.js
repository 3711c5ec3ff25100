// Polls the JSON API and draws it. Text goes in through textContent only: prompts and errors are other people's text.
"use strict";

const POLL_MS = 1500;
const SHOWN_FAILURES = 20;
const csrf = document.querySelector("meta[name=csrf-token]").content;
const onlyJob = location.pathname.startsWith("/job/") ? decodeURIComponent(location.pathname.slice(5)) : null;
const byId = (id) => document.getElementById(id);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function duration(seconds) {
  if (seconds === null) return "-";
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

function rate(value, unit) {
  if (value === null) return null;
  return `${value.toLocaleString(undefined, { maximumFractionDigits: value < 10 ? 1 : 0 })} ${unit}/s`;
}

function numbers(job) {
  const progress = job.progress;
  const line = element("p", "numbers");
  const texts = [
    `${progress.rows_done.toLocaleString()} of ${progress.rows.toLocaleString()} rows`,
    `${job.shards_done} of ${job.shards} shards, ${job.shards_running} running`,
    rate(progress.rows_per_s, "rows"),
    rate(progress.tokens_per_s, "tokens"),
    progress.eta_s === null ? null : `${duration(progress.eta_s)} left`,
    `${duration(progress.elapsed_s)} so far`,
    job.retries ? `${job.retries} retries` : null,
  ];
  for (const text of texts.filter(Boolean)) line.append(element("span", "", text));
  if (job.error_rows) line.append(element("span", "failed-count", `${job.error_rows.toLocaleString()} error rows`));
  if (job.shards_failed) line.append(element("span", "failed-count", `${job.shards_failed} failed shards`));
  return line;
}

const CHANGES = {
  running: ["pause", "cancel"],
  paused: ["resume", "cancel"],
  cancelled: ["resume"],
  failed: ["retry", "cancel"],
  done: [],
};

function actions(job) {
  const row = element("div", "actions");
  for (const change of CHANGES[job.state]) {
    const button = element("button", "", change);
    button.setAttribute("aria-label", `${change} ${job.job}`);
    button.addEventListener("click", () => ask(job.job, change));
    row.append(button);
  }
  return row;
}

async function ask(job, change) {
  if (change === "cancel" && !confirm(`Cancel ${job}? Its committed parts are kept.`)) return;
  const response = await fetch(`/api/jobs/${encodeURIComponent(job)}/${change}`, {
    method: "POST",
    headers: { "x-csrf-token": csrf },
  });
  if (!response.ok) alert((await response.json()).error);
  await draw();
}

function failures(job) {
  const list = element("ul", "failures");
  for (const failure of job.failures.slice(0, onlyJob ? undefined : SHOWN_FAILURES)) {
    list.append(element("li", "", `shard ${failure.shard}, after ${failure.attempts} attempts: ${failure.reason}`));
  }
  return list;
}

function jobCard(job) {
  const card = element("article", "job");
  const head = element("div", "job-head");
  const title = element("h3");
  const link = element("a", "", job.job);
  link.href = `/job/${encodeURIComponent(job.job)}`;
  title.append(link);
  head.append(title, element("span", `state ${job.state}`, job.state), actions(job));
  const bar = element("progress");
  bar.max = 1;
  bar.value = job.progress.fraction;
  bar.setAttribute("aria-label", `rows of ${job.job}`);
  card.append(head, bar, numbers(job), element("p", "about", `${job.task} with ${job.model} into ${job.output}`));
  if (job.failures.length) card.append(failures(job));
  return card;
}

function workerRow(worker, now) {
  const row = element("tr");
  const seen = now === null ? "" : `${duration(Math.max(0, now - worker.seen))} ago`;
  for (const text of [worker.worker, worker.device, worker.queue, worker.shards_in_flight, worker.model ?? "-", seen]) {
    row.append(element("td", "", String(text)));
  }
  return row;
}

function show(jobs, workers) {
  const now = jobs.length ? Math.max(...jobs.map((job) => job.now)) : null;
  byId("jobs").replaceChildren(...jobs.map(jobCard));
  byId("workers").replaceChildren(...workers.map((worker) => workerRow(worker, now)));
  byId("no-jobs").hidden = jobs.length > 0;
  byId("no-workers").hidden = workers.length > 0;
}

async function load(path) {
  const response = await fetch(path);
  if (response.status === 401) location.assign("/login");
  const body = await response.json();
  if (!response.ok) throw new Error(body.error);
  return body;
}

async function draw() {
  const connection = byId("connection");
  try {
    const all = await load("/api/jobs");
    const jobs = onlyJob === null ? all.jobs : [await load(`/api/jobs/${encodeURIComponent(onlyJob)}`)];
    // a redraw replaces the button somebody is about to press, so its successor gets the focus
    const focused = byId("jobs").contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
    show(jobs, all.workers);
    if (focused) document.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
    connection.className = "";
    connection.textContent = `live, ${new Date().toLocaleTimeString()}`;
  } catch (error) {
    connection.className = "lost";
    connection.textContent = error.message;
  }
}

async function poll() {
  await draw();
  setTimeout(poll, POLL_MS);
}

poll();
