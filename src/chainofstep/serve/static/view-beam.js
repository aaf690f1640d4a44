// A beam search level by level: what was kept, what was dropped, and why.

import { element, plural, scoreLook, truthMark } from "./common.js";
import { answerContent, stepContent } from "./view-steps.js";

const value = (candidate) =>
  candidate.value === null
    ? element("span", { class: "chip", title: "The PRM has not scored it" }, "no score")
    : element("span", { ...scoreLook(candidate.value, "chip", "coloured"), title: "Value by which the search chose" },
      candidate.value.toFixed(3));

const candidateView = (candidate) => {
  const marks = [
    candidate.count > 1 &&
      element("span", { class: "chip", title: `sampled ${candidate.count} times` }, `×${candidate.count}`),
    value(candidate),
    element("span", { class: `chip verdict ${candidate.kept ? "kept" : ""}` }, candidate.kept ? "kept" : "dropped"),
  ];
  const ends = candidate.answer !== null;
  const steps = candidate.added.map((step, place) =>
    stepContent(step, place === candidate.added.length - 1 && !ends ? marks : null));
  const bare = !steps.length && !ends;
  return element("li", scoreLook(candidate.value, "step", candidate.kept ? "" : "dropped"),
    bare && element("p", { class: "step-head" }, element("span", { class: "aside" }, "(no step could be read)"),
      element("span", { class: "marks" }, marks)),
    steps,
    ends && answerContent(candidate.answer, marks),
    candidate.problem && element("p", { class: "reflection", dir: "auto" }, candidate.problem),
    candidate.why && element("p", { class: "why" }, candidate.why));
};

const levelView = (level, number) => {
  const kept = level.filter((candidate) => candidate.kept);
  const dropped = level.filter((candidate) => !candidate.kept);
  return element("section", { class: "level" },
    element("h3", null, `Level ${number + 1}`,
      element("span", { class: "aside" }, ` ${plural(level.length, "candidate")}, ${kept.length} kept`)),
    element("ol", { class: "chain" }, kept.map(candidateView)),
    dropped.length > 0 && element("details", { open: dropped.length <= 4 },
      element("summary", null, `${dropped.length} dropped`),
      element("ol", { class: "chain" }, dropped.map(candidateView))));
};

const COSTS = [
  ["sampled_tokens", "sampled tokens"],
  ["scored_chains", "scored chains"],
  ["scored_steps", "scored steps"],
];

const costText = (cost) =>
  COSTS.filter(([key]) => Number.isFinite(cost?.[key]))
    .map(([key, words]) => `${cost[key].toLocaleString("en")} ${words}`)
    .join(" · ");

const searchView = (search) =>
  element("section", { class: "search-result" },
    element("h2", null, search.id),
    element("p", { class: "found" },
      "Answer: ", element("strong", { dir: "auto" }, search.answer ?? "none"), " ",
      search.answer !== null && truthMark(search.right ? 1 : 0, search.right ? "right" : "wrong")),
    element("p", { class: "aside" }, costText(search.cost)),
    search.failure && element("p", { class: "unread" }, `The search failed: ${search.failure}`),
    search.levels.map(levelView));

/** All beam searches that were made for the item. */
export const beamTab = (item) =>
  item.beam.length
    ? item.beam.map(searchView)
    : [element("p", { class: "aside" }, "No beam search was made for this question.")];
