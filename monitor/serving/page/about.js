// What was asked for, against the defaults; what it was computed with; what was read.

import { el, show, text } from "./dom.js";
import { bytes, count, plural } from "./format.js";
import { ask } from "./server.js";

export function aboutPanel(name) {
  const note = el("p", { class: "empty", hidden: true });
  const all = el("input", { type: "checkbox" });
  const [spec, predicted, provenance, files] = [el("tbody"), el("section", { hidden: true }), el("dl", { class: "pairs wide" }), el("tbody")];
  const content = el("div", { hidden: true },
    predicted,
    el("section", {}, el("div", { class: "line" }, el("h2", {}, "Spec"), el("span", { class: "faint" }, "what differs from the defaults"), el("label", { class: "check" }, all, "Show every key")),
      el("table", { class: "spec" }, el("thead", {}, el("tr", {}, ...["Key", "Value", "Default"].map((word) => el("th", { scope: "col" }, word)))), spec)),
    el("section", {}, el("h2", {}, "Provenance"), provenance),
    el("section", {}, el("h2", {}, "Input"), el("table", { class: "spec" }, el("thead", {}, el("tr", {}, ...["File", "Rows", "Size"].map((word) => el("th", { scope: "col" }, word)))), files)));
  const node = el("section", { class: "panel", hidden: true }, note, content);
  let [asked, lines] = ["", []];
  const drawSpec = () => spec.replaceChildren(...lines.filter((line) => all.checked || line.is_chosen).map(specLine));
  all.addEventListener("change", drawSpec);

  function draw(found) {
    show(content, true);
    show(note, false);
    lines = found.spec;
    drawSpec();
    const known = Object.entries(found.provenance).filter(([key, value]) => value && !["job", "shard", "fence", "rows", "error_rows", "prompt_tokens", "output_tokens", "input", "errors"].includes(key));
    provenance.replaceChildren(...(known.length ? known.flatMap(([key, value]) => [el("dt", {}, key.replaceAll("_", " ")), el("dd", {}, readable(value))]) : [el("dt", {}, "none yet"), el("dd", {}, "It comes with the first committed part.")]));
    files.replaceChildren(...found.files.map((file) => el("tr", {}, el("td", { class: "mono" }, file.path), el("td", {}, count(file.rows)), el("td", {}, bytes(file.bytes)))));
    if (found.num_files > found.files.length) files.append(el("tr", {}, el("td", { colspan: "3", class: "faint" }, `and ${plural(found.num_files - found.files.length, "more file", "more files")}`)));
    show(predicted, found.prediction.length > 0);
    predicted.replaceChildren(el("h2", {}, "Predicted against actual"), el("table", { class: "spec" },
      el("thead", {}, el("tr", {}, ...["", "Predicted", "Actual"].map((word) => el("th", { scope: "col" }, word)))),
      el("tbody", {}, ...found.prediction.map((line) => el("tr", {}, el("th", { scope: "row" }, line.what), el("td", {}, line.predicted), el("td", {}, line.actual ?? "–"))))));
  }
  return {
    node,
    update(job) {
      const now = `${job.state} ${job.shards_done > 0}`;
      if (now === asked) return;
      asked = now;
      ask(`/api/jobs/${encodeURIComponent(name)}/about`).then(draw).catch((error) => {
        show(note, true);
        text(note, error.message);
      });
    },
  };
}

function specLine(line) {
  const value = typeof line.value === "string" ? line.value : JSON.stringify(line.value);
  const standard = line.default === null || line.default === undefined ? "" : typeof line.default === "string" ? line.default : JSON.stringify(line.default);
  return el("tr", { class: line.is_chosen ? "chosen" : "faint" }, el("th", { scope: "row", class: "mono" }, line.key), el("td", {}, el("pre", {}, value)), el("td", { class: "faint" }, standard));
}

function readable(value) {
  if (!/^[[{]/.test(value)) return value;
  try {
    return Object.entries(JSON.parse(value)).map(([key, item]) => `${key} ${typeof item === "object" ? JSON.stringify(item) : item}`).join(", ");
  } catch {
    return value;
  }
}
