// Asks the dashboard, and listens to what changes.

import { byId, attribute, text, toast } from "./dom.js";

const csrf = document.querySelector("meta[name=csrf-token]").content;
export const mayChange = document.querySelector("meta[name=role]").content === "operator";

export async function ask(path) {
  const response = await fetch(path, { headers: { accept: "application/json" } });
  if (response.status === 401) location.assign("/login");
  const body = await response.json();
  if (!response.ok) throw new Error(body.error);
  return body;
}

// True when the change was made; what hindered it is said.
export async function change(path, given = null) {
  try {
    const body = given === null ? undefined : JSON.stringify(given);
    const response = await fetch(path, { method: "POST", headers: { "x-csrf-token": csrf }, body });
    if (response.ok) return true;
    toast((await response.json()).error);
  } catch {
    toast("The dashboard does not answer; nothing was changed.");
  }
  return false;
}

function tell(state, words) {
  attribute(byId("connection"), "class", state);
  text(byId("connection").lastElementChild, words);
}

// Calls `seen` with every look; while the page is hidden nothing is asked for.
export function listen(path, seen) {
  let source = null;
  let retry = 0;
  const close = () => {
    source?.close();
    source = null;
    clearTimeout(retry);
  };
  const open = () => {
    close();
    source = new EventSource(path);
    source.addEventListener("look", (event) => {
      tell("live", "live");
      seen(JSON.parse(event.data));
    });
    source.addEventListener("problem", (event) => tell("lost", JSON.parse(event.data).error));
    source.addEventListener("error", () => {
      tell("lost", "reconnecting");
      if (source.readyState !== EventSource.CLOSED) return;
      // refused: a login that has ended says so here
      ask(path.replace("/api/stream", "/api/jobs").replace(/\?job=.*/, "?size=1")).catch((error) => tell("lost", error.message));
      retry = setTimeout(open, 3000);
    });
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  open();
  return { close, reopen: (next) => { path = next; open(); } };
}
