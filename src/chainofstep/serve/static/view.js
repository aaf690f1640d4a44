// The viewer: the state stands in the address, and every change of it shows what differs.

import { byId, showError, startTheme } from "./common.js";
import { showFilters, startFilters } from "./view-filters.js";
import { showItem, showNothing } from "./view-item.js";
import { startKeys } from "./view-keys.js";
import { QuestionList } from "./view-list.js";
import { source } from "./view-source.js";
import { FILTER_DEFAULTS, TABS, isNarrowed, readState, writeState } from "./view-state.js";

const LIST_FIELDS = ["run", "set", ...Object.keys(FILTER_DEFAULTS)];

/** Scroll to the way of the chosen rollout where nothing of it is in sight. */
const showWay = () => {
  const way = [...document.querySelectorAll(".tree .step.on")];
  const inSight = (step) => step.getBoundingClientRect().top < innerHeight && step.getBoundingClientRect().bottom > 0;
  if (!way.some(inSight)) way[0]?.scrollIntoView({ block: "nearest" });
};

/** Whether the list and a question are seen side by side; on a phone only one of them is. */
const isWide = () => !matchMedia("(max-width: 44rem)").matches;

const opposite = (flag) => (flag === "1" ? "0" : "1");

class Viewer {
  constructor() {
    this.state = readState(location.hash);
    this.runs = [];
    this.item = null;
    this.asked = 0;
    this.folded = new Set();
    this.list = new QuestionList((id) => writeState({ ...this.state, id, rollout: "" }), showError);
  }

  async start() {
    this.runs = (await source.runs()).runs;
    addEventListener("hashchange", () => this.follow());
    startFilters((changes) => this.change(changes));
    startKeys({
      step: (by) => this.step(by),
      tab: (by) => this.tabBeside(by),
      disagree: () => this.turnDisagree(),
      showList: () => document.body.classList.remove("reading"),
    });
    byId("disagree").addEventListener("click", () => this.turnDisagree());
    byId("back").addEventListener("click", () => this.change({ id: "", rollout: "" }));
    if (!this.runs.some((run) => run.sets.length)) return showNothing("There are no rollouts in these folders.");
    await this.show(this.complete(this.state), LIST_FIELDS);
  }

  get run() {
    return this.runs.find((run) => run.name === this.state.run);
  }

  get set() {
    return this.run?.sets.find((set) => set.id === this.state.set);
  }

  /** What a state leaves open is the first run, its first set, and the PRM or the first scorer. */
  complete(state) {
    const run =
      this.runs.find((one) => one.name === state.run) ?? this.runs.find((one) => one.sets.length) ?? this.runs[0];
    const set = run.sets.find((one) => one.id === state.set) ?? run.sets[0];
    const scorers = set?.scorers ?? [];
    const scorer = scorers.includes(state.scorer) ? state.scorer : scorers.includes("prm") ? "prm" : (scorers[0] ?? "");
    const family = set?.families.includes(state.family) ? state.family : "";
    return { ...state, run: run.name, set: set?.id ?? "", scorer, family };
  }

  /** A change by the user: opening a question is a step in the browser's history, all else replaces it. */
  change(changes) {
    const state = this.complete({ ...this.state, ...changes });
    const opens = state.id !== this.state.id;
    history[opens ? "pushState" : "replaceState"](null, "", writeState(state));
    return this.follow(state);
  }

  /** Show the address, or a state that it was just given. */
  follow(state = this.complete(readState(location.hash))) {
    const changed = Object.keys(state).filter((key) => state[key] !== this.state[key]);
    return changed.length ? this.show(state, changed) : Promise.resolve();
  }

  async show(state, changed) {
    this.state = state;
    showError("");
    showFilters(this.runs, this.run, this.set, state);
    document.body.classList.toggle("reading", state.id !== "");
    byId("back").hidden = byId("where").hidden = state.id === "";
    byId("where").textContent = `${state.run} · ${state.set}`;
    const listed = changed.some((key) => LIST_FIELDS.includes(key));
    if (listed) this.list.reload(state).then(() => this.showListed());
    else this.list.renewLinks();
    if (listed || changed.includes("id")) this.list.select(state.id);
    if (changed.some((key) => ["run", "set", "id"].includes(key))) await this.load();
    else this.render();
  }

  /** What the list tells: which rollouts fit, and the first question where none is chosen and there is room for it. */
  showListed() {
    const first = this.list.rows[0]?.id;
    if (this.state.id || first === undefined || !isWide()) return this.render();
    const state = { ...this.state, id: first };
    history.replaceState(null, "", writeState(state));
    return this.follow(state);
  }

  async load() {
    const { run, set, id } = this.state;
    const asked = ++this.asked;
    this.folded = new Set();
    this.item = null;
    if (!id) return this.render();
    try {
      const item = await source.item({ run, set, id });
      if (asked !== this.asked) return;
      this.item = item;
      this.render();
      scrollTo(0, 0);
      if (byId("questions").offsetParent === null) byId("item").focus({ preventScroll: true }); // a phone hides the list, and its focus
    } catch (error) {
      if (asked !== this.asked) return;
      showNothing("This question cannot be shown.");
      showError(error.message);
    }
  }

  render() {
    document.title = `${this.state.id || this.state.run} · chain-of-step`;
    if (!this.state.id) return showNothing("Choose a question: j and k go through the list, ? shows all keys.");
    if (this.item) showItem(this.item, this.context());
  }

  /** What the tabs need to know and to do. */
  context() {
    const { state } = this;
    const index = Number.parseInt(state.rollout, 10);
    const known = this.item.rollouts.some((rollout) => rollout.index === index);
    const fitting = this.list.row(state.id)?.fitting;
    return {
      ...state,
      compact: state.compact === "1",
      selected: known ? index : null,
      fitting,
      folded: this.folded,
      files: this.run.pairs,
      scorers: this.set.scorers,
      chosen: state.pairs,
      onPairs: (pairs) => this.change({ pairs }),
      onTab: (tab) => this.change({ tab }),
      onStep: (by) => this.step(by),
      onCompact: () => this.change({ compact: opposite(state.compact) }),
      onChoose: (chosen, always) => this.choose(String(chosen), always),
      correct: source.canCorrect ? (rollout, step, label) => this.correct(rollout, step, label) : null,
    };
  }

  /** Choose a rollout; choosing it again lets go of it, unless one is `always` to be shown. */
  async choose(rollout, always) {
    await this.change({ rollout: rollout === this.state.rollout && !always ? "" : rollout });
    showWay();
  }

  async correct(index, step, label) {
    const { run, set, id } = this.state;
    await source.correct({ run, set, id, index, step, label });
    const item = await source.item({ run, set, id });
    this.runs = (await source.runs()).runs; // the first correction makes `hand` a scorer of the set
    showFilters(this.runs, this.run, this.set, this.state);
    if (id !== this.state.id || set !== this.state.set || run !== this.state.run) return;
    this.item = item;
    this.render();
  }

  /** The next or previous question of the list. */
  async step(by) {
    const { id } = this.state;
    const listed = this.list.row(id) ? await this.list.neighbour(id, by) : this.unlisted(by);
    if (listed && id === this.state.id) this.change({ id: listed, rollout: "" });
  }

  /** Where to go from a question that the list does not hold (yet): to the list's first, or on in the whole set. */
  unlisted(by) {
    if (!this.item || isNarrowed(this.state)) return this.list.rows[0]?.id;
    return by > 0 ? this.item.place.next : this.item.place.previous;
  }

  turnDisagree() {
    return this.change({ disagree: opposite(this.state.disagree) });
  }

  tabBeside(by) {
    const place = TABS.indexOf(this.state.tab) + by;
    if (!this.state.id || !TABS[place]) return;
    this.change({ tab: TABS[place] }).then(() => byId(`tab-${TABS[place]}`)?.focus({ preventScroll: true }));
  }
}

startTheme();
new Viewer().start().catch((error) => {
  showNothing("The viewer cannot start.");
  showError(error.message);
});
