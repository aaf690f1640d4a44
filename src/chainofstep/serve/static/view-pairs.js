// Chosen against rejected, side by side. Steps from the first difference on are marked.

import { byId, element, isScore, plural, scoreLook } from "./common.js";
import { source } from "./view-source.js";
import { chainList } from "./view-steps.js";

const PAGE = 20;

const sameStep = (one, other) =>
  one !== undefined && other !== undefined && ["name", "thought", "reflection"].every((key) => one[key] === other[key]);

/** Whether place `place` of a text (the answer's is after the last step) has no equal in the other. */
const differsFrom = (text, other) => (place) => {
  if (place >= text.steps.length) return text.answer !== other.answer;
  return !sameStep(text.steps[place], other.steps[place]);
};

const pathScore = (score) =>
  isScore(score) && element("span", { ...scoreLook(score, "chip", "coloured"), title: "path score" }, score.toFixed(3));

/** A text's scores come by scorer, or as one scorer's alone. */
const scoresOf = (text) => (text.scores?.steps ? { prm: text.scores } : text.scores);

const side = (title, text, other, score) =>
  element("section", { class: "side" },
    element("h3", null, title, " ", pathScore(score)),
    text.steps.length || text.answer !== null
      ? chainList(text.steps, text.answer, scoresOf(text), { differs: differsFrom(text, other) })
      : element("pre", { dir: "auto" }, text.text));

const example = (pair, item) => {
  const asked = pair.example;
  if (!asked || asked.id === item?.id) return null;
  return element("div", { class: "pair-question" },
    asked.pictures?.[0] && element("img", { src: asked.pictures[0], alt: "", loading: "lazy", width: 72 }),
    element("p", null, element("strong", { dir: "auto" }, asked.question),
      element("span", { class: "aside" }, ` gold: ${asked.answer} · ${asked.id}`)));
};

const pairView = (pair, item) =>
  element("article", { class: "pair" },
    example(pair, item),
    element("p", { class: "aside" }, `${pair.id} · ${pair.rule}`),
    element("div", { class: "sides" },
      side("Chosen", pair.chosen, pair.rejected, pair.chosen_score),
      side("Rejected", pair.rejected, pair.chosen, pair.rejected_score)));

/** The pairs of a whole file, loaded as they come into view. */
class PairFile {
  constructor(query) {
    Object.assign(this, { query, shown: 0, total: Infinity, loading: false });
    this.list = element("div", null);
    this.status = element("p", { class: "aside", role: "status" }, "Loading …");
    this.watcher = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) this.more();
    }, { rootMargin: "600px" });
    this.watcher.observe(this.status);
  }

  async more() {
    if (this.loading || this.shown >= this.total) return;
    this.loading = true;
    try {
      const page = await source.pairs({ ...this.query, offset: this.shown, limit: PAGE });
      this.list.append(...page.pairs.map((pair) => pairView(pair, null)));
      this.shown += page.pairs.length;
      this.total = page.pairs.length ? page.questions : this.shown;
      this.status.textContent = `${this.shown.toLocaleString("en")} of ${plural(page.questions, "pair")}`;
      this.watcher.unobserve(this.status);
      this.watcher.observe(this.status);
    } catch (error) {
      this.total = this.shown;
      this.status.textContent = error.message;
    } finally {
      this.loading = false;
    }
  }
}

const chooser = (files, chosen, onPairs) => {
  const titles = [["", "of this question"], ...files.map((file) => [file.id, `all of ${file.id} (${file.questions})`])];
  const select = element("select", { id: "pairs", onchange: () => onPairs(byId("pairs").value) },
    titles.map(([value, title]) => element("option", { value, selected: value === chosen }, title)));
  return element("label", { class: "pairs-choice" }, "Pairs ", select);
};

/** Options: run (its name), files (the run's pairs files), chosen (one's id, or "" for the item's), onPairs. */
export const pairsTab = (item, { run, files, chosen, onPairs }) => {
  const choice = files.length > 0 && chooser(files, chosen, onPairs);
  if (chosen) {
    const file = new PairFile({ run, pairs: chosen });
    return [choice, file.list, file.status];
  }
  const none = element("p", { class: "aside" }, "No preference pair was made of this question.");
  return [choice, item.pairs.length ? item.pairs.map((pair) => pairView(pair, item)) : none];
};
