// Makes and changes elements. Text goes in as text nodes only: prompts and errors are other people's text.

export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Change text only where it differs, so that a selection in it survives.
export function text(node, value) {
  const wanted = value === null || value === undefined ? "" : String(value);
  if (node.textContent === wanted) return;
  if (node.childNodes.length === 1 && node.firstChild.nodeType === Node.TEXT_NODE) node.firstChild.data = wanted;
  else node.textContent = wanted;
}

export function attribute(node, name, value) {
  const wanted = value === null || value === undefined ? null : String(value);
  if (node.getAttribute(name) === wanted) return;
  if (wanted === null) node.removeAttribute(name);
  else node.setAttribute(name, wanted);
}

export function show(node, isShown) {
  if (node.hidden === isShown) node.hidden = !isShown;
}

// Children by key: kept where they are, made where they are new. `make(item)` gives {node, update(item)}.
export function keyed(parent, make) {
  const known = new Map();
  return (items, keyOf) => {
    const keys = new Set(items.map(keyOf));
    for (const [key, entry] of known) {
      if (keys.has(key)) continue;
      entry.node.remove();
      known.delete(key);
    }
    let place = parent.firstElementChild;
    for (const item of items) {
      const key = keyOf(item);
      let entry = known.get(key);
      if (!entry) {
        entry = make(item);
        known.set(key, entry);
      }
      if (entry.node === place) place = place.nextElementSibling;
      else parent.insertBefore(entry.node, place);
      entry.update?.(item);
    }
  };
}

export const byId = (id) => document.getElementById(id);

export function toast(message) {
  const node = byId("toast");
  text(node, message);
  node.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (node.hidden = true), 8000);
}

// Ask before something costs or stops work. Resolves to whether to go on; with an amount, to that number, or null.
export function confirmed(title, consequences, yes, amount = null) {
  const dialog = byId("confirm");
  const label = byId("confirm-amount");
  const input = label.lastElementChild;
  show(label, amount !== null);
  text(label.firstElementChild, amount?.label ?? "");
  input.value = amount?.value ?? "";
  text(byId("confirm-title"), title);
  text(byId("confirm-text"), consequences);
  text(byId("confirm-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  (amount === null ? byId("confirm-no") : input).focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const agreed = dialog.returnValue === "yes";
      resolve(amount === null ? agreed : agreed && input.value ? Number(input.value) : null);
    }, { once: true });
  });
}
