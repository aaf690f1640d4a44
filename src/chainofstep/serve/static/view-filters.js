// The filter form and the choice of run and set: what is chosen goes to `change`, what the state says is shown.

import { byId, element, plural, replaceContent } from "./common.js";
import { FILTER_DEFAULTS, countFilters } from "./view-state.js";

const TYPING_PAUSE = 250; // ms: a filter is asked for once, not for every letter
const NAMES = { prm: "PRM", "monte-carlo": "Monte-Carlo" };

const options = (values, titles = {}) => values.map((value) => element("option", { value }, titles[value] ?? value));

const field = (name) => byId("filters").elements[name];

const showRuns = (runs, run, state) => {
  replaceContent(byId("run"), options(runs.map((one) => one.name)));
  byId("run").value = state.run;
  const sets = run?.sets ?? [];
  const titles = Object.fromEntries(sets.map((set) => [set.id, set.title]));
  replaceContent(byId("set"), options(sets.map((set) => set.id), titles));
  byId("set").value = state.set;
};

/** What of a run could not be read. */
const showProblems = (problems) => {
  const fold = byId("problems");
  fold.hidden = !problems.length;
  fold.querySelector("summary").textContent = plural(problems.length, "problem");
  replaceContent(fold.querySelector("ul"), problems.map((problem) => element("li", null, problem)));
};

const showFields = (set, state) => {
  replaceContent(field("family"), options([""], { "": "all" }), options(set?.families ?? []));
  replaceContent(field("scorer"), options(set?.scorers ?? [], NAMES));
  for (const name of Object.keys(FILTER_DEFAULTS)) {
    const input = field(name);
    const written = input === document.activeElement && input.tagName === "INPUT"; // not while somebody writes in it
    if (input && !written && input.value !== state[name]) input.value = state[name];
  }
};

/** Show what the state says. */
export const showFilters = (runs, run, set, state) => {
  showRuns(runs, run, state);
  showFields(set, state);
  showProblems(run?.problems ?? []);
  byId("disagree").setAttribute("aria-pressed", String(state.disagree === "1"));
  const count = countFilters(state);
  byId("filter-count").hidden = !count;
  byId("filter-count").textContent = String(count);
  byId("clear").hidden = !count && !state.text;
};

/** `change(changes)` is called with the state's new fields. */
export const startFilters = (change) => {
  const form = byId("filters");
  let timer = 0;
  let waiting = {}; // several fields may change within one pause
  const send = () => {
    const changes = waiting;
    waiting = {};
    change(changes);
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    const { name, value, validity, tagName } = event.target;
    waiting[name] = validity.valid ? value : FILTER_DEFAULTS[name];
    clearTimeout(timer);
    timer = setTimeout(send, tagName === "SELECT" ? 0 : TYPING_PAUSE);
  });
  byId("clear").addEventListener("click", () => {
    clearTimeout(timer);
    waiting = {};
    change({ ...FILTER_DEFAULTS });
  });
  byId("run").addEventListener("change", (event) => change({ run: event.target.value, set: "", id: "", rollout: "" }));
  byId("set").addEventListener("change", (event) => change({ set: event.target.value, rollout: "" }));
  byId("more-filters").open = matchMedia("(min-width: 60rem) and (min-height: 44rem)").matches;
};
