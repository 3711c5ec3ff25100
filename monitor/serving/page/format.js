// Numbers, times and names as people read them.

const DASH = "–";

export function count(value) {
  return value === null || value === undefined ? DASH : Math.round(value).toLocaleString("en");
}

export function amount(value) {
  if (value === null || value === undefined) return DASH;
  if (value >= 1e6) return `${(value / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} M`;
  if (value >= 1e4) return `${(value / 1e3).toLocaleString("en", { maximumFractionDigits: 1 })} k`;
  return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
}

// Never 100% before the end.
export function percent(share, digits = 0) {
  if (share === null || share === undefined) return DASH;
  const factor = 10 ** digits;
  return `${(Math.floor(share * 100 * factor + 1e-9) / factor).toFixed(digits)}%`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return DASH;
  if (seconds < 10) return `${seconds.toFixed(1).replace(/\.0$/, "")} s`;
  const whole = Math.round(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${String(minutes).padStart(2, "0")} min`;
  return minutes ? `${minutes} min ${String(whole % 60).padStart(2, "0")} s` : `${whole} s`;
}

// Both ends in the unit of the larger one: 4 to 6 min.
export function span(low, high) {
  const [unit, size] = high < 100 ? ["s", 1] : high < 6000 ? ["min", 60] : ["h", 3600];
  const [from, to] = [low / size, high / size].map((value) => (value < 10 ? value.toFixed(1).replace(/\.0$/, "") : value.toFixed(0)));
  return from === to ? `${from} ${unit}` : `${from} to ${to} ${unit}`;
}

export function ago(seconds) {
  if (seconds < 5) return "just now";
  if (seconds < 100) return `${Math.round(seconds)} s ago`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

export function moment(seconds) {
  const date = new Date(seconds * 1000);
  const day = date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  return `${day}, ${date.toLocaleTimeString("en-GB")}`;
}

export function bytes(value) {
  if (value === null || value === undefined) return DASH;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  while (value >= 1000 && place < units.length - 1) {
    value /= 1000;
    place += 1;
  }
  return `${value.toFixed(value < 10 && place ? 1 : 0)} ${units[place]}`;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

// The last part of a path, which is what people call a model by.
export function shortName(path) {
  return path.replace(/\/+$/, "").split("/").slice(-1)[0] || path;
}
