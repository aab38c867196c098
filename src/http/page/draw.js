// Elements. Everything shown goes in as text, never as markup: endpoints, identities and errors are strangers' words.
// Each draw touches only what differs, so that a selection, the focus and the browser's time are spared.

const byId = id => document.getElementById(id);

function make(tag, kind, ...children) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.append(...children);
  return element;
}

const vector = document.querySelector("svg").namespaceURI;

function drawn(tag, attributes, ...children) {
  const element = document.createElementNS(vector, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function text(element, words) {
  if (element.shownText !== words) element.textContent = element.shownText = words;
}

function attribute(element, name, value) {
  const known = element.shownAttributes || (element.shownAttributes = {});
  if (known[name] === value) return;
  known[name] = value;
  if (value === null) element.removeAttribute(name); else element.setAttribute(name, value);
}

function kind(element, name) {
  if (element.className !== name) element.className = name;
}

function shownIf(element, condition) {
  if (element.hidden === condition) element.hidden = !condition;
}

// A shape for each state, so that colour never tells alone.
const shapes = {
  good: [["circle", { cx: 8, cy: 8, r: 7, fill: "currentColor" }], ["path", { class: "cut", d: "M4.9 8.3l2.1 2.1 4.1-4.5" }]],
  warn: [["path", { d: "M8 1.4 15 14.2H1z", fill: "currentColor", stroke: "currentColor", "stroke-width": 1.6, "stroke-linejoin": "round" }], ["path", { class: "cut", d: "M8 6.2v3.4M8 12v.2" }]],
  bad: [["circle", { cx: 8, cy: 8, r: 7, fill: "currentColor" }], ["path", { class: "cut", d: "M5.6 5.6l4.8 4.8m0-4.8-4.8 4.8" }]],
  dim: [["circle", { cx: 8, cy: 8, r: 6.2, class: "thin" }], ["path", { class: "thin", d: "M8 4.8v5.8m-2.3-2.2L8 10.8l2.3-2.4" }]],
  wait: [["circle", { cx: 8, cy: 8, r: 6.2, class: "thin" }], ["path", { class: "thin", d: "M8 4.6V8l2.3 1.5" }]],
  dial: [["path", { class: "thin turn", d: "M14 8a6 6 0 1 1-2.2-4.6" }]],
  swap: [["path", { class: "thin", d: "M2 5.5h11M10 2.5l3 3-3 3M14 11H3m3-3-3 3 3 3" }]],
  fold: [["path", { class: "thin", d: "m4 6 4 4 4-4" }]],
};
const stateShapes = { waiting: "wait", connecting: "dial", in_use: "swap" };

function icon(element, shape) {
  if (element.shownShape === shape) return;
  element.shownShape = shape;
  const parts = shapes[shape].map(([tag, attributes]) => drawn(tag, attributes));
  element.replaceChildren(drawn("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, ...parts));
}

// An icon and a word.
function badge(element, shape, tone, word) {
  if (!element.parts) {
    element.parts = [make("span", "sign"), make("span")];
    element.replaceChildren(...element.parts);
  }
  icon(element.parts[0], shape);
  text(element.parts[1], word);
  kind(element, "state " + tone);
}

// Makes the children of `parent` those of `items`, in their order; a child stays with its key.
function children(parent, items, keyOf, create, update) {
  const old = parent.byKey || new Map(), fresh = new Map();
  let place = parent.firstElementChild;
  items.forEach((item, n) => {
    const key = keyOf(item, n);
    let child = old.get(key) || create(item);
    fresh.set(key, child);
    if (child === place) place = place.nextElementSibling; else parent.insertBefore(child, place);
    if (update) update(child, item);
  });
  for (const [key, child] of old) if (fresh.get(key) !== child) child.remove();
  parent.byKey = fresh;
}

// A name, a value and a line below it.
function cell(title, more) {
  const element = make("div", more ? "cell " + more : "cell");
  const value = make("div", "value"), line = make("div", "more");
  element.append(make("dt", "", title), make("dd", "", value, line));
  return Object.assign(element, { value, line });
}

function fill(of, value, line, tone) {
  text(of.value, value);
  text(of.line, line || "");
  kind(of.line, tone ? "more " + tone : "more");
}

function labelled(title) {
  const value = make("span");
  return Object.assign(make("span", "", make("span", "label", title), value), { value });
}

function meter(element, used, limit) {
  if (!element.bar) element.append(element.bar = make("i"));
  const share = limit > 0 ? Math.min(used / limit, 1) : 0;
  kind(element, share > 0.8 ? "meter high" : "meter");
  element.bar.style.transform = "scaleX(" + share.toFixed(3) + ")";
}

// Waits that run down on their own between two answers. Gone with their element.
const running = new Set();

function countdown(element, left, whole, words) {
  if (!element.bar) {
    element.words = make("span");
    element.bar = make("i");
    element.append(element.words, make("span", "left", element.bar));
    element.bar.parentElement.setAttribute("aria-hidden", "true");
  }
  Object.assign(element, { until: performance.now() + left * 1000, whole, say: words });
  running.add(element);
  run(element);
}

function run(element) {
  const left = Math.max(0, (element.until - performance.now()) / 1000);
  text(element.words, element.say(left));
  shownIf(element.bar.parentElement, element.whole > 0);
  element.bar.style.transform = "scaleX(" + (element.whole > 0 ? Math.min(left / element.whole, 1) : 0).toFixed(3) + ")";
}

setInterval(() => {
  if (document.hidden || silentSince) return;
  for (const element of running) {
    if (!element.isConnected || element.hidden) running.delete(element); else run(element);
  }
}, 100);
