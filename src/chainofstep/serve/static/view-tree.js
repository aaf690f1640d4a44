// The tree of steps where rollouts share prefixes: steps in a row stand below each other, only branches are set in.

import { element, scoreChips, scoreLook, truthMark } from "./common.js";
import {
  answerContent, disagree, flag, rolloutButton, rolloutStrip, stepContent, unread, wayOf,
} from "./view-steps.js";

const childrenOf = (nodes) => {
  const children = new Map();
  for (const node of nodes) {
    if (!children.has(node.parent)) children.set(node.parent, []);
    children.get(node.parent).push(node);
  }
  return children;
};

/** Rollouts without an answer by the number of their last step's node (null: no step could be read). */
const stoppedAt = (item) => {
  const stopped = new Map();
  for (const rollout of item.rollouts) {
    const last = wayOf(item, rollout).at(-1);
    if (last && !last.step) continue;
    const number = last?.number ?? null;
    stopped.set(number, [...(stopped.get(number) ?? []), rollout]);
  }
  return stopped;
};

const shareChip = (node, total) => {
  const title = `${node.rollouts.length} of ${total} rollouts pass here`;
  const share = `${(100 * node.rollouts.length) / total}%`;
  const words = `${node.rollouts.length}/${total}`;
  return element("span", { class: "chip share", title, variables: { "--share": share } }, words);
};

class Tree {
  constructor(item, options) {
    Object.assign(this, { item, ...options });
    this.children = childrenOf(item.nodes);
    this.stopped = stoppedAt(item);
    const chosen = item.rollouts.find((rollout) => rollout.index === this.selected);
    this.way = new Set(chosen ? wayOf(item, chosen).map((node) => node.number) : []);
  }

  below(number) {
    const kids = this.children.get(number) ?? [];
    const stops = this.stops(number);
    if (kids.length === 1) return [stops, this.card(kids[0], false), this.below(kids[0].number)];
    if (!kids.length) return [stops];
    return [stops, element("div", { class: "branches" }, kids.map((kid) => this.branch(kid)))];
  }

  /** A branch folds to its first step. */
  branch(node) {
    const rest = element("div", { class: "below" }, this.below(node.number));
    const hasRest = (this.children.get(node.number) ?? []).length > 0;
    return element("div", { class: `branch ${this.way.has(node.number) ? "on" : ""}` },
      this.card(node, hasRest && rest), rest);
  }

  foldButton(node, rest) {
    const show = () => {
      const folded = this.folded.has(node.number);
      rest.hidden = folded;
      button.setAttribute("aria-expanded", String(!folded));
      button.textContent = folded ? "▸" : "▾";
    };
    const turn = () => {
      if (!this.folded.delete(node.number)) this.folded.add(node.number);
      show();
    };
    const name = node.step?.name ?? "answer";
    const button = element("button", { type: "button", class: "fold", "aria-label": `Branch ${name}`, onclick: turn });
    show();
    return button;
  }

  card(node, rest) {
    const marks = [
      disagree(node.scores) && flag(),
      node.step === null && truthMark(node.right ? 1 : 0, node.right ? "the answer is right" : "the answer is wrong"),
      scoreChips(node.scores, node.spread),
      shareChip(node, this.item.rollouts.length),
    ];
    const kind = `${node.step ? "" : "leaf"} ${rest ? "foldable" : ""}`;
    const look = scoreLook(node.scores?.[this.scorer], "step", kind, this.way.has(node.number) ? "on" : "");
    const content = node.step
      ? stepContent(node.step, marks, this.compact)
      : [answerContent(node.answer, marks), this.buttons(node)];
    return element("div", { ...look, "data-node": node.number }, rest && this.foldButton(node, rest), content);
  }

  buttons(node) {
    const rollouts = this.item.rollouts.filter((rollout) => node.rollouts.includes(rollout.index));
    return element("p", { class: "strip small" },
      rollouts.map((rollout) => rolloutButton(rollout, this.selected, this.onChoose)));
  }

  stops(number) {
    const rollouts = this.stopped.get(number) ?? [];
    if (!rollouts.length) return null;
    const on = rollouts.some((rollout) => rollout.index === this.selected) ? "on" : "";
    const words = number === null ? "No step could be read" : "No answer after this step";
    const told = rollouts.filter((rollout) => this.selected === null || rollout.index === this.selected);
    return element("div", { class: `step stops ${on}` },
      element("p", { class: "strip small" },
        element("span", { class: "aside" }, words),
        rollouts.map((rollout) => rolloutButton(rollout, this.selected, this.onChoose))),
      !this.compact && told.map(unread));
  }
}

const goldFold = (item) =>
  item.gold?.length > 0 &&
    element("details", { class: "gold" }, element("summary", null, "Gold chain"),
      element("ol", { class: "chain" }, item.gold.map((step) => element("li", { class: "step" }, stepContent(step)))));

/**
 * Options: selected (a rollout's index or null), fitting (indices), scorer, compact, folded (a set of nodes' numbers,
 * kept from call to call), onChoose(index), onCompact().
 */
export const treeTab = (item, options) => {
  const tree = new Tree(item, options);
  return [
    element("div", { class: "tools" },
      rolloutStrip(item.rollouts, options.selected, options.fitting, options.onChoose),
      element("button", {
        type: "button", class: "quiet", "aria-pressed": String(options.compact), onclick: options.onCompact,
      }, "Names only")),
    goldFold(item),
    element("div", { class: `tree ${options.selected === null ? "" : "choosing"}` }, tree.below(null)),
  ];
};
