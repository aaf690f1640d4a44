// Pieces that several tabs show: steps, answers, chains, the strip of rollouts.

import { element, isScore, scoreChips, scoreLook } from "./common.js";

const RIGHT_ABOVE = 0.5;

/** The truth of a step by its scores: the checker's word, else Monte-Carlo's; null where neither is known. */
const truthOf = (scores) => [scores?.checker, scores?.["monte-carlo"]].find(isScore) ?? null;

/** Whether the PRM and the truth see a step differently. */
export const disagree = (scores) => {
  const truth = truthOf(scores);
  return isScore(scores?.prm) && truth !== null && scores.prm > RIGHT_ABOVE !== truth > RIGHT_ABOVE;
};

export const flag = () =>
  element("span", { class: "flag", title: "The PRM and the truth disagree" }, "⚑ disagree");

/** Title, thought and reflection of a step; `marks` stand at the right of the title. */
export const stepContent = (step, marks, compact = false) => [
  element("p", { class: "step-head" },
    element("strong", { dir: "auto" }, step.name || "(no name)"),
    marks && element("span", { class: "marks" }, marks)),
  !compact && step.thought && element("p", { class: "thought", dir: "auto" }, step.thought),
  !compact && step.reflection && element("p", { class: "reflection", dir: "auto" }, step.reflection),
];

export const answerContent = (answer, marks) =>
  element("p", { class: "step-head" },
    element("span", { dir: "auto" }, "Answer: ", element("strong", null, answer ?? "none")),
    marks && element("span", { class: "marks" }, marks));

/** The score of step `place` by every scorer of a rollout; the answer's at the place after the last step. */
export const scoresAt = (scores, place, count) => {
  const found = {};
  for (const [scorer, values] of Object.entries(scores ?? {})) {
    if (values?.steps) found[scorer] = place < count ? values.steps[place] : values.answer;
  }
  return Object.fromEntries(Object.entries(found).filter(([, value]) => isScore(value)));
};

/** Reasons of scorers that could not score a rollout. */
export const failures = (scores) =>
  Object.entries(scores ?? {})
    .filter(([, values]) => values?.failure)
    .map(([scorer, values]) => element("p", { class: "aside" }, `${scorer} has no scores: ${values.failure}`));

/** A chain as a list of steps and its answer. `differs(place)` marks steps; `extra(place)` adds to one. */
export const chainList = (steps, answer, scores, { scorer = "prm", differs, extra } = {}) => {
  const item = (place, content) => {
    const all = scoresAt(scores, place, steps.length);
    const marks = [disagree(all) && flag(), scoreChips(all)];
    const look = scoreLook(all[scorer], "step", differs?.(place) ? "differs" : "");
    return element("li", look, content(marks), extra?.(place, all));
  };
  return element("ol", { class: "chain" },
    steps.map((step, place) => item(place, (marks) => stepContent(step, marks))),
    answer !== null && answer !== undefined && item(steps.length, (marks) => answerContent(answer, marks)));
};

/** The nodes that a rollout passes: its steps in order, then its answer. */
export const wayOf = (item, rollout) => item.nodes.filter((node) => node.rollouts.includes(rollout.index));

const ENDS = {
  right: ["✓", "answers right"],
  wrong: ["✗", "answers wrong"],
  none: ["–", "has no answer"],
};

export const endOf = (rollout) => (rollout.answer === null ? "none" : rollout.right ? "right" : "wrong");

/** A button that chooses a rollout. */
export const rolloutButton = (rollout, selected, onChoose) => {
  const [sign, words] = ENDS[endOf(rollout)];
  return element("button", {
    type: "button",
    class: `rollout ${endOf(rollout)}`,
    "aria-pressed": String(rollout.index === selected),
    "aria-label": `Rollout ${rollout.index} ${words}`,
    title: `Rollout ${rollout.index} ${words}`,
    "data-rollout": rollout.index,
    onclick: () => onChoose(rollout.index),
  }, String(rollout.index), element("b", { class: `truth ${endOf(rollout)}`, "aria-hidden": "true" }, sign));
};

/** Buttons of all rollouts; those that do not fit the filters are pale. */
export const rolloutStrip = (rollouts, selected, fitting, onChoose) =>
  element("div", { class: "strip", role: "group", "aria-label": "Rollouts" },
    rollouts.map((rollout) => {
      const button = rolloutButton(rollout, selected, onChoose);
      if (fitting && !fitting.includes(rollout.index)) button.classList.add("unfit");
      return button;
    }));

/** Why a text is no whole chain, and what of it was not read. */
export const unread = (rollout) =>
  rollout.problem &&
    element("div", { class: "unread" },
      element("p", { class: "aside" }, `Not a whole chain: ${rollout.problem}`),
      rollout.rest?.trim() && element("pre", { dir: "auto" }, rollout.rest.trim()));
