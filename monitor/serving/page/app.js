// Shows what the address says.

import { byId, el } from "./dom.js";
import { showJob } from "./job.js";
import { showJobs } from "./jobs.js";
import { showWorkers } from "./workers.js";

const view = byId("view");
const path = location.pathname;
const section = path === "/workers" ? "workers" : "jobs";
document.querySelector(`[data-nav=${section}]`).setAttribute("aria-current", path.startsWith("/job/") ? "true" : "page");

if (path.startsWith("/job/")) showJob(view, decodeURIComponent(path.slice(5)));
else if (path === "/workers") showWorkers(view);
else if (path === "/") showJobs(view);
else view.append(el("p", { class: "empty" }, "There is nothing at this address."));
