// Workers: card, memory, model, phase, what each did last, and a way to let it finish and take no more.

import { attribute, confirmed, el, keyed, show, text } from "./dom.js";
import { ago, amount, bytes, count, duration, percent, shortName } from "./format.js";
import { change, listen, mayChange } from "./server.js";

export function showWorkers(view) {
  document.title = "Workers · parquetry";
  const cards = el("div", { class: "cards" });
  const total = el("p", { class: "fleet" });
  const empty = el("div", { class: "empty", hidden: true }, el("h2", {}, "No worker is alive"),
    el("p", {}, "A worker serves the cards of the machine it is started on:"), el("pre", {}, "parquetry worker"));
  view.append(el("div", { class: "head" }, el("h1", {}, "Workers"), total), cards, empty);
  const draw = keyed(cards, workerCard);
  listen("/api/stream?size=1", ({ workers }) => {
    draw(workers, (worker) => worker.worker);
    show(empty, workers.length === 0);
    const rate = workers.reduce((sum, { engine_view: it }) => sum + (it ? it.prompt_tokens_per_s + it.output_tokens_per_s : 0), 0);
    text(total, workers.length ? `${count(workers.length)} live, ${amount(rate)} tok/s together` : "");
  });
}

function meter(label) {
  const [fill, value] = [el("i"), el("b")];
  const node = el("div", { class: "meter" }, el("span", {}, label), value, el("div", { class: "track", "aria-hidden": "true" }, fill));
  return {
    node,
    update(share, words) {
      show(node, share !== null && share !== undefined);
      text(value, words ?? percent(share));
      const width = `${Math.round(100 * Math.min(share ?? 0, 1))}%`;
      if (fill.style.width !== width) fill.style.width = width;
    },
  };
}

export function workerCard() {
  const [title, host, phase, doing, held, why] = [el("h3"), el("p", { class: "faint mono" }), el("span"), el("p", { class: "doing" }), el("p", { class: "faint" }), el("p", { class: "bad" })];
  const [use, memory, cache, padding, hits] = [meter("Card in use"), meter("Memory"), meter("KV cache"), meter("Padding"), meter("Prefix hits")];
  const button = el("button", { type: "button", hidden: !mayChange });
  let latest = null;
  button.addEventListener("click", async () => {
    const { worker, drained, shards_in_flight: shards } = latest;
    const words = `It finishes the shards it has (up to ${shards}) and takes no more; its model stays loaded. “Go on” undoes this.`;
    if (!drained && !(await confirmed(`Drain ${latest.device} of ${latest.host}?`, words, "Drain the worker"))) return;
    await change(`/api/workers/${encodeURIComponent(worker)}/${drained ? "go-on" : "drain"}`);
  });
  const node = el("article", { class: "card worker" },
    el("div", { class: "card-head" }, title, phase, button), host, doing, el("div", { class: "meters" }, use.node, memory.node, cache.node, padding.node, hits.node), held, why);
  return {
    node,
    update(worker) {
      latest = worker;
      const { device_use: card, engine_view: engine, state } = worker;
      text(title, card?.name ? card.name.replace(/^NVIDIA /, "") : worker.device === "cpu" ? "CPU" : worker.device);
      text(host, `${worker.device} of ${worker.host}`);
      attribute(host, "title", worker.worker);
      const name = worker.drained ? "drained" : state.phase;
      text(phase, name);
      attribute(phase, "class", `badge ${{ ready: "running", drained: "paused", idle: "queued" }[name] ?? name}`);
      text(button, worker.drained ? "Go on" : "Drain");
      attribute(button, "aria-label", `${worker.drained ? "Let go on" : "Drain"} ${worker.worker}`);
      text(doing, does(worker));
      use.update(card?.use);
      memory.update(card?.memory_total_bytes ? card.memory_used_bytes / card.memory_total_bytes : null,
        card?.memory_total_bytes ? `${(card.memory_used_bytes / 1e9).toFixed(0)} of ${bytes(card.memory_total_bytes)}` : "");
      cache.update(engine?.kv_use);
      padding.update(engine?.padding_share);
      hits.update(engine?.cached_share);
      text(held, [
        `queue ${worker.queue}`,
        `${worker.shards_in_flight} shards at once`,
        engine ? `${count(engine.running)} rows in work, ${count(engine.waiting)} waiting` : null,
        engine?.preemptions ? `${count(engine.preemptions)} preemptions` : null,
        `seen ${ago(Math.max(0, Date.now() / 1000 - worker.seen))}`,
      ].filter(Boolean).join(" · "));
      const slowed = worker.engine?.slowed_by ?? [];
      text(why, [state.problem, ...slowed].filter(Boolean).join(" "));
      show(why, Boolean(why.textContent));
    },
  };
}

export function does(worker) {
  const { engine_view: engine, state } = worker;
  const model = state.model ? shortName(state.model) : worker.model ? shortName(worker.model) : null;
  const form = [state.quantization !== "none" && state.quantization, state.backend !== "auto" && state.backend].filter(Boolean).join(", ");
  const named = model ? `${model}${form ? ` (${form})` : ""}` : "no model";
  if (state.phase === "loading") return `Loads ${named}${state.weight_bytes ? `, ${bytes(state.weight_bytes)}` : ""}, for ${duration(state.seconds)}`;
  if (state.phase === "ready" && engine) return `${named}: ${amount(engine.prompt_tokens_per_s)} prompt and ${amount(engine.output_tokens_per_s)} output tok/s`;
  return state.phase === "ready" ? `${named} is loaded` : state.phase === "starting" ? "An engine starts" : "No engine runs";
}
