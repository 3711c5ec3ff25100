// Charts, the canvas of shards, workers, and what happened.

import { el, keyed, show, text } from "./dom.js";
import { charts } from "./charts.js";
import { clock, count, duration, moment } from "./format.js";
import { ask } from "./server.js";
import { shardMap } from "./shards.js";
import { workerCard } from "./workers.js";

const EVERY_MS = 3000;

export function overview(name) {
  const node = el("section", { class: "panel" });
  const [graphs, map, events] = [charts(), shardMap(name), eventList()];
  const cards = el("div", { class: "cards" });
  const workers = el("section", {}, el("h2", {}, "Workers on it"), cards);
  node.append(graphs.node, map.node, el("div", { class: "two" }, workers, events.node));
  const drawWorkers = keyed(cards, workerCard);
  let asked = "";
  let askedAt = 0;
  const path = `/api/jobs/${encodeURIComponent(name)}`;
  async function refresh() {
    const [rates, happened] = await Promise.all([ask(`${path}/rates`), ask(`${path}/events`), map.refresh()]);
    graphs.update(rates);
    events.update(happened);
  }
  return {
    node,
    update(job) {
      drawWorkers(job.workers_now, (worker) => worker.worker);
      show(workers, job.workers_now.length > 0);
      // of a job that stands still nothing has to be asked again
      const now = [job.state, job.shards_done, job.shards_running, job.shards_failed, job.retries, job.progress.rows_done, job.computed_output_tokens].join();
      if (job.damage || now === asked || Date.now() - askedAt < EVERY_MS) return;
      [asked, askedAt] = [now, Date.now()];
      refresh().catch((error) => map.complain(error.message));
    },
  };
}

const WORDS = {
  registered: "Submitted",
  running: "Running again",
  paused: "Paused",
  cancelled: "Cancelled",
  done: "Done",
  failed: "Failed",
  retried: "Retried",
  lost: "Lost",
  "failed-shard": "Failed",
  reopened: "Reopened",
};

function eventList() {
  const list = el("ol", { class: "events" });
  const node = el("section", {}, el("h2", {}, "What happened"), list);
  const draw = keyed(list, (event) => {
    const what = event.took_ms !== undefined
      ? [`Shard ${event.shard} committed`, [`${count(event.rows)} rows`, event.error_rows && `${count(event.error_rows)} with errors`, event.took_ms && `in ${duration(event.took_ms / 1000)}`, event.worker && `by ${event.worker}`].filter(Boolean).join(", ")]
      : [event.shard === null ? WORDS[event.kind] ?? event.kind : `Shard ${event.shard} ${(WORDS[event.kind] ?? event.kind).toLowerCase()}`, event.text];
    const time = el("time", { title: moment(event.at_ms / 1000), datetime: new Date(event.at_ms).toISOString() });
    text(time, clock(event.at_ms / 1000));
    return { node: el("li", { class: `event ${event.kind ?? "committed"}` }, time, el("b", {}, what[0]), el("span", {}, what[1])) };
  });
  return {
    node,
    update({ events, ends }) {
      const all = [...events, ...ends].sort((a, b) => b.at_ms - a.at_ms).slice(0, 60);
      draw(all, (event) => `${event.at_ms} ${event.kind ?? "end"} ${event.shard}`);
    },
  };
}
