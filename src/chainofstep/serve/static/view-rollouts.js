// One rollout at a time: its steps with all scores, the raw text, and buttons that correct a step's label.

import { element, showError } from "./common.js";
import { chainList, endOf, failures, rolloutStrip, unread, wayOf } from "./view-steps.js";

const LABELS = [
  [1, "✓", "right"],
  [0.5, "~", "neutral"],
  [0, "✗", "wrong"],
];
const ENDS = { right: "answers right", wrong: "answers wrong", none: "no answer" };

/** Three labels and undo; `send(label)` corrects. */
const labelButtons = (place, current, send) => {
  const button = ([label, sign, word]) =>
    element("button", {
      type: "button", class: `label ${word}`, title: `This is ${word}`, "aria-label": `${word}`,
      "aria-pressed": String(current === label), "data-label": label, onclick: () => send(label),
    }, sign);
  return element("p", { class: "labels", role: "group", "aria-label": `Correct label ${place + 1}` },
    element("span", { class: "aside" }, "Label"), LABELS.map(button),
    current !== undefined && element("button", {
      type: "button", class: "label undo", title: "Take this correction back", onclick: () => send(null),
    }, "↶ undo"));
};

const rawFold = (rollout) =>
  element("details", null, element("summary", null, "Raw text"), element("pre", { dir: "auto" }, rollout.text));

const heading = (rollout, count) =>
  element("p", { class: "rollout-head" },
    element("strong", null, `Rollout ${rollout.index}`),
    element("span", { class: "aside" }, [
      ENDS[endOf(rollout)], `${count} step${count === 1 ? "" : "s"}`,
      rollout.ending === "length" ? "cut by the token limit" : "",
    ].filter(Boolean).join(" · ")));

const rolloutView = (item, rollout, options) => {
  const steps = wayOf(item, rollout).map((node) => node.step).filter(Boolean);
  const send = (place) => async (label) => {
    try {
      showError("");
      await options.correct(rollout.index, place, label);
    } catch (error) {
      showError(error.message);
    }
  };
  const extra = (place, scores) => options.correct && labelButtons(place, scores.hand, send(place));
  return element("section", { class: "one-rollout", "aria-label": `Rollout ${rollout.index}` },
    heading(rollout, steps.length),
    failures(rollout.scores),
    chainList(steps, rollout.answer, rollout.scores, { scorer: options.scorer, extra }),
    unread(rollout),
    rawFold(rollout));
};

/** Options: selected, fitting, scorer, onChoose, correct(index, step, label) or null where labels are fixed. */
export const rolloutsTab = (item, options) => {
  const { rollouts } = item;
  if (!rollouts.length) return [element("p", { class: "aside" }, "This question has no rollouts.")];
  const wanted = options.selected ?? options.fitting?.[0];
  const place = Math.max(0, rollouts.findIndex((rollout) => rollout.index === wanted));
  const go = (by) => element("button", {
    type: "button", class: "quiet", disabled: !rollouts[place + by],
    onclick: () => options.onChoose(rollouts[place + by].index, true),
  }, by < 0 ? "‹ Previous" : "Next ›");
  return [
    element("div", { class: "tools" },
      rolloutStrip(rollouts, rollouts[place].index, options.fitting, (index) => options.onChoose(index, true)),
      element("span", { class: "pager" }, go(-1), go(1))),
    rolloutView(item, rollouts[place], options),
  ];
};
