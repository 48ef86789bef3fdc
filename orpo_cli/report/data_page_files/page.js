"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const BATCH = 25; // cards built at once
const MAX_CELLS = 4e6; // of the table that finds the difference of two completions

// Tokens that are the same text and ids have the same key, whatever their role.
const keys = new Map();
const keyOf = data.vocab.map(([ids, text]) => {
  const name = JSON.stringify([ids, text]);
  if (!keys.has(name)) keys.set(name, keys.size);
  return keys.get(name);
});
const rows = [
  ...data.pairs.map((pair) => ({ ...pair, kind: "pair", truncated: pair.cut.some(Boolean) })),
  ...data.dropped.map((row) => ({ ...row, kind: "dropped" })),
];
const state = { kind: "pair", part: "all", query: "" };
let found = [];
let built = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function textOf(row) {
  if (row.search === undefined) {
    const parts = row.kind === "dropped" ? [...row.texts, row.reason, row.detail]
      : ["prompt", "chosen", "rejected"].map((part) => row[part].map((at) => data.vocab[at][1]).join(""));
    row.search = [row.row, ...parts].join("\n").toLowerCase();
  }
  return row.search;
}

// For each of two sequences: whether an element is not in their longest common subsequence.
function differences(left, right) {
  const marks = [new Array(left.length).fill(false), new Array(right.length).fill(false)];
  let start = 0;
  while (start < left.length && start < right.length && left[start] === right[start]) start++;
  let end = 0;
  while (end < Math.min(left.length, right.length) - start && left[left.length - 1 - end] === right[right.length - 1 - end]) end++;
  const rowsCount = left.length - start - end, columns = right.length - start - end;
  marks[0].fill(true, start, left.length - end);
  marks[1].fill(true, start, right.length - end);
  if (rowsCount * columns > MAX_CELLS) return marks;
  const width = columns + 1, table = new Uint16Array((rowsCount + 1) * width);
  for (let i = rowsCount - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      table[i * width + j] = left[start + i] === right[start + j]
        ? table[(i + 1) * width + j + 1] + 1
        : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    }
  }
  const common = [];
  for (let i = 0, j = 0; i < rowsCount && j < columns;) {
    if (left[start + i] === right[start + j]) common.push([i++, j++]);
    else if (table[(i + 1) * width + j] >= table[i * width + j + 1]) i++;
    else j++;
  }
  common.forEach(([i, j], at) => {
    const [before, after] = [common[at - 1], common[at + 1]];
    const joined = (other, step) => other && other[0] === i + step && other[1] === j + step;
    // A single common element between two differences is chance.
    if (joined(before, -1) || joined(after, 1) || i === 0 || i === rowsCount - 1) {
      marks[0][start + i] = false;
      marks[1][start + j] = false;
    }
  });
  return marks;
}

function tokenText(numbers, marks) {
  const text = element("p", "text");
  numbers.forEach((number, at) => {
    const [, shown, role] = data.vocab[number];
    const span = element("span", `t ${role}${marks && marks[at] ? " d" : ""}`, shown);
    span.dataset.token = number;
    text.append(span);
  });
  return text;
}

function wordText(words, marks) {
  const text = element("p", "text");
  words.forEach((word, at) => text.append(marks && marks[at] ? element("span", "d", word) : word));
  return text;
}

function side(name, title, text) {
  const section = element("section", name);
  section.append(element("h3", "", title), text);
  return section;
}

function lengthOf(row, part, at) {
  const count = row[part].reduce((sum, number) => sum + data.vocab[number][0].length, 0);
  return `${part}, ${count} tokens${row.cut[at] ? ` of ${row.full[at]}` : ""}`;
}

function pairCard(row) {
  const card = element("article", "card"), head = element("header");
  head.append(element("b", "", `${row.row}`), element("span", "", `pair ${row.pair}`), element("span", "", row.part === "train" ? "train" : "held out"));
  if (row.truncated) head.append(element("span", "badge", "truncated"));
  const prompt = element("div", "prompt");
  prompt.append(element("h3", "", lengthOf(row, "prompt", 0)), tokenText(row.prompt));
  const marks = differences(row.chosen.map((at) => keyOf[at]), row.rejected.map((at) => keyOf[at]));
  const sides = element("div", "sides");
  sides.append(
    side("chosen", lengthOf(row, "chosen", 1), tokenText(row.chosen, marks[0])),
    side("rejected", lengthOf(row, "rejected", 2), tokenText(row.rejected, marks[1])),
  );
  card.append(head, prompt, sides);
  return card;
}

function droppedCard(row) {
  const card = element("article", "card"), head = element("header");
  head.append(element("b", "", row.row), element("span", "badge", row.reason), element("span", "", row.detail));
  card.append(head);
  const [prompt, chosen, rejected] = row.texts;
  if (prompt !== undefined) {
    const block = element("div", "prompt");
    block.append(element("h3", "", rejected === undefined ? "row" : "prompt"), element("p", "text", prompt));
    card.append(block);
  }
  if (rejected !== undefined) {
    const split = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || [];
    const words = [split(chosen), split(rejected)], marks = differences(...words), sides = element("div", "sides");
    sides.append(side("chosen", "chosen", wordText(words[0], marks[0])), side("rejected", "rejected", wordText(words[1], marks[1])));
    card.append(sides);
  }
  return card;
}

function build() {
  const part = document.createDocumentFragment();
  for (const row of found.slice(built, built + BATCH)) part.append(row.kind === "pair" ? pairCard(row) : droppedCard(row));
  built = Math.min(built + BATCH, found.length);
  byId("pairs").append(part);
}

function show() {
  const query = state.query.trim().toLowerCase();
  const inKind = { pair: (row) => row.kind === "pair", truncated: (row) => row.truncated, dropped: (row) => row.kind === "dropped" }[state.kind];
  found = rows.filter((row) => inKind(row) && (state.part === "all" || row.part === state.part) && (!query || textOf(row).includes(query)));
  built = 0;
  byId("pairs").replaceChildren();
  byId("count").textContent = `${found.length.toLocaleString("en")} shown`;
  build();
  observe();
}

// An observer reports changes only: observed anew, it reports again where the end of the list is still visible.
function observe() {
  observer.unobserve(byId("more"));
  observer.observe(byId("more"));
}

function choices(id, options) {
  for (const [value, title, count] of options) {
    const button = element("button", "", count === undefined ? title : `${title} (${count.toLocaleString("en")})`);
    button.type = "button";
    button.dataset.value = value;
    button.disabled = count === 0 && value !== "pair";
    button.setAttribute("aria-pressed", String(state[id] === value));
    button.addEventListener("click", () => {
      state[id] = value;
      for (const each of byId(id).children) each.setAttribute("aria-pressed", String(each === button));
      show();
    });
    byId(id).append(button);
  }
}

choices("kind", [
  ["pair", "Pairs", data.pairs.length],
  ["truncated", "Truncated", rows.filter((row) => row.truncated).length],
  ["dropped", "Dropped", data.dropped.length],
]);
if (rows.some((row) => row.part === "eval")) choices("part", [["all", "All"], ["train", "Train"], ["eval", "Held out"]]);
for (const name of ["difference", "roles", "bounds"]) {
  const update = () => document.body.classList.toggle(name, byId(name).checked);
  byId(name).addEventListener("change", update);
  update();
}
const used = new Set(data.vocab.map(([, , role]) => role));
for (const [role, description] of Object.entries(data.roles)) {
  if (!used.has(role)) continue;
  const entry = element("span");
  entry.append(element("span", `t ${role}`, role.replace("prompt_nll", "prompt")), `: ${description}`);
  byId("legend").append(entry);
}

let waiting;
byId("search").addEventListener("input", (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => { state.query = event.target.value; show(); }, 150);
});
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
document.addEventListener("pointerover", (event) => {
  const token = event.target instanceof Element ? event.target.closest("[data-token]") : null, tip = byId("tip");
  tip.hidden = !token;
  if (!token) return;
  const [ids, , role] = data.vocab[token.dataset.token];
  tip.textContent = `id ${ids.map((id) => id === null ? "masked" : id).join(", ")} · ${data.roles[role]}`;
  const box = token.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${box.top > 40 ? event.clientY - tip.offsetHeight - 14 : event.clientY + 18}px`;
});
const observer = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting) || built >= found.length) return;
  build();
  observe();
}, { rootMargin: "1200px" });
show();
