// Why rows and shards failed, by reason, with rows.

import { el, keyed, show, text } from "./dom.js";
import { count, percent, plural } from "./format.js";
import { cell } from "./rows.js";
import { ask, mayChange } from "./server.js";

const EVERY_MS = 5000;

export function errorsPanel(name) {
  const path = `/api/jobs/${encodeURIComponent(name)}/errors`;
  const [groups, shards] = [el("div", { class: "groups" }), el("div", { class: "groups" })];
  const none = el("div", { class: "empty", hidden: true }, el("h2", {}, "No errors"), el("p", {}, "Every finished row has an output, and no shard has failed."));
  const note = el("p", { class: "faint", hidden: true });
  const ofRows = el("section", {}, el("h2", {}, "Error rows"), note, groups,
    el("p", { class: "hint" }, "In a terminal: ", el("code", {}, `parquetry errors ${name}`)));
  const ofShards = el("section", {}, el("h2", {}, "Failed shards"), shards);
  const node = el("section", { class: "panel", hidden: true }, ofShards, ofRows, none);
  let [asked, askedAt] = ["", 0];
  const drawGroups = keyed(groups, group);
  const drawShards = keyed(shards, (reason) => {
    const which = el("span", { class: "faint" });
    return {
      node: el("details", { class: "group", open: true }, el("summary", {}, el("b", {}, reason.text), which)),
      update: ({ shards: found }) => text(which, `${plural(found.length, "shard")}: ${found.slice(0, 12).join(", ")}${found.length > 12 ? " …" : ""}`),
    };
  });
  return {
    node,
    update(job) {
      const isClean = !job.progress.error_rows && !job.shards_failed;
      show(none, isClean);
      show(ofRows, job.progress.error_rows > 0);
      show(ofShards, job.shards_failed > 0);
      drawShards(byReason(job.failures), (reason) => reason.text);
      const now = `${job.error_rows} ${job.state}`;
      if (!job.error_rows || now === asked || Date.now() - askedAt < EVERY_MS) return;
      [asked, askedAt] = [now, Date.now()];
      ask(path).then((found) => {
        show(note, false);
        drawGroups(found.groups.map((one) => ({ ...one, share: one.rows / found.error_rows })), (one) => one.kind);
      }).catch((error) => {
        show(note, true);
        text(note, error.message);
        drawGroups(Object.entries(job.errors).map(([kind, rows]) => ({ kind, rows, share: rows / job.error_rows, examples: [], row_numbers: [] })), (one) => one.kind);
      });
    },
  };
}

function byReason(failures) {
  const found = new Map();
  for (const { shard, reason } of failures) found.set(reason, [...(found.get(reason) ?? []), shard]);
  return [...found].map(([words, shards]) => ({ text: words, shards }));
}

function group(first) {
  const [many, numbers, examples] = [el("b", { class: "many" }), el("p", { class: "faint numbers" }), el("div", { class: "rows" })];
  const track = el("i");
  let drawn = "";
  return {
    node: el("details", { class: "group", open: true }, el("summary", {}, many, el("span", {}, first.kind)), el("div", { class: "track", "aria-hidden": "true" }, track), examples, numbers),
    update(found) {
      text(many, count(found.rows));
      track.style.width = percent(found.share);
      text(numbers, found.row_numbers.length ? `Rows ${found.row_numbers.slice(0, 30).map(count).join(", ")}${found.rows > 30 ? " …" : ""}` : "");
      const now = JSON.stringify(found.examples);
      if (now === drawn) return;
      drawn = now;
      examples.replaceChildren(...found.examples.map((example) => el("article", { class: "row failed" },
        el("p", { class: "row-facts" }, `row ${count(example.row)} · `, mayChange ? el("a", { href: `#rows?shard=${example.shard}` }, `shard ${example.shard}`) : `shard ${example.shard}`),
        el("div", { class: "beside" }, el("div", { class: "in" }, ...Object.entries(example.input).map(([name, value]) => cell(name, value))), el("div", { class: "out" }, el("p", { class: "bad" }, example.error))))));
    },
  };
}
