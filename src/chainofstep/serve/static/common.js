// What both pages use. Texts of models and data sets are only ever set as textContent.

const SVG = "http://www.w3.org/2000/svg";

/** Scorers whose scores of 0, 0.5 and 1 are verdicts, shown as marks. */
const VERDICTS = new Set(["checker", "hand", "judge", "outcome"]);
const SHORT_NAMES = { prm: "PRM", "monte-carlo": "MC" };

const isEmpty = (child) => child === null || child === undefined || child === false;

const append = (target, children) => {
  for (const child of children.flat(Infinity)) if (!isEmpty(child)) target.append(child);
  return target;
};

const setProperty = (target, name, value) => {
  if (isEmpty(value)) return;
  if (name.startsWith("on")) target.addEventListener(name.slice(2), value);
  else if (name === "variables") for (const [key, text] of Object.entries(value)) target.style.setProperty(key, text);
  else target.setAttribute(name, value === true ? "" : value);
};

const fill = (target, properties, children) => {
  for (const [name, value] of Object.entries(properties ?? {})) setProperty(target, name, value);
  return append(target, children);
};

/** An element: strings among the children become text, `onclick` and the like listeners, `variables` CSS variables. */
export const element = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);

export const svgElement = (tag, properties, ...children) =>
  fill(document.createElementNS(SVG, tag), properties, children);

export const replaceContent = (target, ...children) => {
  target.replaceChildren();
  append(target, children);
};

export const byId = (id) => document.getElementById(id);

export const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

export const isScore = (value) => typeof value === "number" && Number.isFinite(value);

/** Class and variables that colour an element by a score in [0, 1]; nothing where there is none. */
export const scoreLook = (score, ...classes) =>
  isScore(score)
    ? { class: [...classes, "scored"].join(" "), variables: { "--score": `${(100 * score).toFixed(1)}%` } }
    : { class: classes.join(" ") };

/** ✓, ✗ or ~ for a verdict in [0, 1]. */
export const truthMark = (score, title) => {
  const [kind, sign] = score > 0.5 ? ["right", "✓"] : score < 0.5 ? ["wrong", "✗"] : ["neutral", "~"];
  return element("b", { class: `truth ${kind}`, title, role: "img", "aria-label": title ?? kind }, sign);
};

const spreadText = (range) => (range ? `, ${range[0].toFixed(2)} to ${range[1].toFixed(2)} over its rollouts` : "");

/** One scorer's score as a chip. `range`: lowest and highest, where rollouts of a step differ. */
export const scoreChip = (scorer, score, range) => {
  const name = SHORT_NAMES[scorer] ?? scorer;
  if (!isScore(score)) return element("span", { class: "chip", title: `${scorer}: no score` }, `${name} –`);
  const title = `${scorer}: ${score.toFixed(3)}${spreadText(range)}`;
  if (VERDICTS.has(scorer) && [0, 0.5, 1].includes(score)) {
    return element("span", { class: "chip", title }, `${name} `, truthMark(score, title));
  }
  const ranged = range ? "±" : "";
  return element("span", { ...scoreLook(score, "chip", "coloured"), title }, `${name} ${score.toFixed(2)}${ranged}`);
};

/** Chips of all scorers, the PRM's first. */
export const scoreChips = (scores, spread) => {
  const names = Object.keys(scores ?? {}).sort((a, b) => (b === "prm") - (a === "prm"));
  return names.map((name) => scoreChip(name, scores[name], spread?.[name]));
};

/** The last line that says what went wrong; an empty text hides it. */
export const showError = (text) => {
  byId("error").textContent = text;
  byId("error").hidden = !text;
};

const THEME_KEY = "chain-of-step-theme";

const remembered = () => {
  try {
    return localStorage.getItem(THEME_KEY);
  } catch {
    return null; // storage may be forbidden: the theme then lasts as long as the page
  }
};

/** Follow the system's theme until the switch is used; then the choice is remembered. */
export const startTheme = () => {
  const theme = remembered();
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
};

export const toggleTheme = () => {
  const root = document.documentElement;
  const shown = root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.dataset.theme = shown === "dark" ? "light" : "dark";
  try {
    localStorage.setItem(THEME_KEY, root.dataset.theme);
  } catch {
    // see `remembered`
  }
};

/** A dialog closes by its button and by a click beside it. */
export const startDialog = (dialog) => {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest(".close")) dialog.close();
  });
};
