// What is shown, as the part of the address after the #: so that a link to one question with its filters can be sent.

export const FILTER_DEFAULTS = {
  text: "", family: "", answer: "any", scorer: "", sort: "order",
  low: "0", high: "1", shortest: "", longest: "", disagree: "0",
};
const DEFAULTS = { run: "", set: "", id: "", tab: "tree", rollout: "", compact: "0", pairs: "", ...FILTER_DEFAULTS };

export const TABS = ["tree", "rollouts", "beam", "pairs", "calibration"];

/** State of an address; what it does not name has its default. */
export const readState = (hash) => {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const state = { ...DEFAULTS };
  for (const key of Object.keys(DEFAULTS)) if (given.has(key)) state[key] = given.get(key);
  if (!TABS.includes(state.tab)) state.tab = "tree";
  return state;
};

/** The address of a state: only what differs from the defaults. */
export const writeState = (state) => {
  const differing = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
  return `#${new URLSearchParams(differing).toString().replaceAll("%2F", "/")}`;
};

/** The filters of a state, as the questions' query names them. */
export const filtersOf = (state) =>
  Object.fromEntries(Object.keys(FILTER_DEFAULTS).map((name) => [name, state[name] || FILTER_DEFAULTS[name]]));

/** Whether a list is another than the whole set in its own order. */
export const isNarrowed = (state) => countFilters(state) > 0 || state.text !== "" || state.sort !== "order";

/** How many filters hide something. The order and the scorer hide nothing. */
export const countFilters = (state) =>
  Object.entries(FILTER_DEFAULTS).filter(
    ([name, value]) => !["text", "sort", "scorer"].includes(name) && state[name] !== value && state[name] !== "",
  ).length;
