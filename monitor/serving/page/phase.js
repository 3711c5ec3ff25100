// What a job is doing, in a word, a colour and a sentence; and what may be done about it.

import { attribute, confirmed, el, keyed, show, text } from "./dom.js";
import { count, duration, percent, plural, span } from "./format.js";
import { change, mayChange } from "./server.js";

export function badge() {
  const node = el("span", { class: "badge" });
  return {
    node,
    update(phase) {
      text(node, phase);
      attribute(node, "class", `badge ${phase}`);
    },
  };
}

export function timeLeft(job) {
  const { phase, progress } = job;
  if (phase.phase !== "running") return "";
  if (progress.eta_low_s === null) return "measuring";
  return `${span(progress.eta_low_s, progress.eta_high_s)} left`;
}

// The one sentence a reader wants first.
export function sentence(job) {
  const { phase, progress } = job;
  const took = duration(progress.elapsed_s);
  if (job.damage) return `${capital(phase.reason)}.`;
  switch (phase.phase) {
    case "done":
      return `All ${count(job.rows)} rows in ${took}${job.error_rows ? `, ${plural(job.error_rows, "error row")} among them` : ""}.`;
    case "failed":
      return `Ended after ${took} with ${plural(job.shards_failed, "failed shard")}. ${count(job.rows_done)} of ${count(job.rows)} rows are committed; retry queues the failed shards again.`;
    case "cancelled":
      return `Cancelled after ${took}. ${count(job.rows_done)} of ${count(job.rows)} rows are committed and stay; resume goes on from there.${phase.reason ? ` ${capital(phase.reason)}.` : ""}`;
    case "paused":
      return `Paused at ${percent(progress.fraction)}${phase.reason ? `: ${phase.reason}` : ""}. No shard is handed out until it is resumed.`;
    case "running":
      return phase.reason ? `${capital(phase.reason)}.` : `${capital(timeLeft(job))}, with ${plural(Object.keys(job.workers).length, "worker")}.`;
    default:
      return `${capital(phase.reason)}${phase.seconds ? `, for ${duration(phase.seconds)}` : ""}.`;
  }
}

const capital = (words) => words.slice(0, 1).toUpperCase() + words.slice(1);

const CHANGES = { running: ["pause", "cancel"], paused: ["resume", "cancel"], cancelled: ["resume"], failed: ["retry", "cancel"], done: [] };

function consequences(job, name) {
  const { shards: held, rows, unfinished_tokens: tokens } = job.in_flight;
  const work = rows || tokens ? ` with ${plural(rows, "finished row")} and ${plural(tokens, "token")} of unfinished ones` : "";
  const dropped = held ? `${plural(held, "shard")} in flight ${held === 1 ? "is" : "are"} given back${work}` : "No shard is in flight";
  const kept = `${plural(job.shards_done, "committed shard")} of ${count(job.shards)} ${job.shards_done === 1 ? "stays" : "stay"}`;
  return name === "pause"
    ? `${dropped}; finished rows are kept, and unfinished ones begin anew. ${kept}. Resume goes on.`
    : `${dropped} and not tried again. ${kept}, and the output is left without _SUCCESS. Resume takes the job up again.`;
}

const LABELS = { "retry-rows": "Retry rows" };
const label = (name) => LABELS[name] ?? capital(name);

// What may be done now: error rows are for jobs that have ended, a budget for those that have one.
function changes(job) {
  const rows = job.ended && job.error_rows ? ["retry-rows"] : [];
  const budget = job.budget_gpu_seconds !== null && job.state !== "done" ? ["budget"] : [];
  return [...CHANGES[job.state], ...rows, ...budget];
}

async function askBudget(job) {
  const price = job.price_per_gpu_hour;
  const [unit, each] = price === null ? ["gpu_hours", 1 / 3600] : ["money", price / 3600];
  const now = `${(job.gpu_seconds * each).toPrecision(3)} of ${(job.budget_gpu_seconds * each).toPrecision(3)}`;
  const words = `${now} ${price === null ? "GPU hours are" : "is"} spent. A job that its budget has paused goes on when it is resumed.`;
  const amount = { label: price === null ? "GPU hours" : `Money, at ${price} a GPU hour`, value: (2 * job.budget_gpu_seconds * each).toPrecision(3) };
  const wanted = await confirmed(`Budget of ${job.name || job.job}`, words, "Set the budget", amount);
  if (wanted !== null) await change(`/api/jobs/${encodeURIComponent(job.job)}/budget`, { [unit]: wanted });
}

async function ask(job, name) {
  if (name === "budget") return askBudget(job);
  if (name === "retry-rows") {
    const words = `${plural(job.error_rows, "error row")} ${job.error_rows === 1 ? "is" : "are"} computed anew by the job's settings and merged into the parts; every other row stays. _SUCCESS goes until that is done. Other settings: parquetry retry --rows --set.`;
    if (!(await confirmed(`Retry the error rows of ${job.name || job.job}?`, words, "Retry the rows"))) return;
  }
  const stops = name === "pause" || name === "cancel";
  const title = `${capital(name)} ${job.name || job.job}?`;
  if (stops && !(await confirmed(title, consequences(job, name), `${capital(name)} the job`))) return;
  await change(`/api/jobs/${encodeURIComponent(job.job)}/${name}`);
}

export function actions() {
  const node = el("div", { class: "actions" });
  const buttons = el("div", { class: "actions" });
  const priority = el("select", { "aria-label": "Priority, 0 is first" }, ...Array.from({ length: 10 }, (_, place) => el("option", { value: place }, `Priority ${place}${place === 0 ? ", first" : ""}`)));
  node.append(priority, buttons);
  let latest = null;
  priority.addEventListener("change", () => change(`/api/jobs/${encodeURIComponent(latest.job)}/priority-${priority.value}`));
  const draw = keyed(buttons, (name) => ({
    node: el("button", { type: "button", class: name === "cancel" ? "danger-quiet" : "", onclick: () => ask(latest, name) }, label(name)),
    update(of) {
      attribute(this.node, "aria-label", `${label(of)} ${latest.job}`);
    },
  }));
  return {
    node,
    update(job) {
      latest = job;
      draw(mayChange && !job.damage ? changes(job) : [], (name) => name);
      show(priority, mayChange && !job.damage && !job.ended);
      if (document.activeElement !== priority) priority.value = String(job.priority);
    },
  };
}

export function bar() {
  const done = el("i", { class: "done" });
  const node = el("div", { class: "progress", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, done);
  return {
    node,
    update(job) {
      const share = `${(100 * job.progress.fraction).toFixed(2)}%`;
      if (done.style.width !== share) done.style.width = share;
      attribute(node, "aria-valuenow", Math.floor(100 * job.progress.fraction));
      attribute(node, "aria-label", `progress of ${job.job}`);
      attribute(node, "class", `progress ${job.phase.phase}`);
    },
  };
}
