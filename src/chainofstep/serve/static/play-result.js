// One method's run: steps as they stream, the answer, progress, cost, and the candidates of the search.

import { element, isScore, plural, replaceContent, scoreLook } from "./common.js";

const score = (value) =>
  isScore(value) && element("span", { ...scoreLook(value, "chip", "coloured"), title: "PRM score" }, value.toFixed(3));

const stepView = (step) =>
  element("li", scoreLook(step.score, "step"),
    element("p", { class: "step-head" },
      element("strong", { dir: "auto" }, step.name || "(no name)"),
      element("span", { class: "marks" }, score(step.score))),
    step.thought && element("p", { dir: "auto" }, step.thought),
    step.reflection && element("p", { class: "reflection", dir: "auto" }, step.reflection));

const answerView = (answer) =>
  element("p", scoreLook(answer.score, "step", "answer"),
    element("span", { class: "step-head" },
      element("span", { dir: "auto" }, "Answer: ", element("strong", null, answer.answer ?? "none")),
      element("span", { class: "marks" }, score(answer.score))));

/** A raw text without its control tokens. */
const plainText = (text) => text.replace(/<\|[a-z_]+\|>/g, "").replace(/\n\s*\n+/g, "\n").trim();

const candidateView = (candidate) =>
  element("li", scoreLook(candidate.value, "step", candidate.kept ? "" : "dropped"),
    element("span", { class: "marks" },
      candidate.count > 1 && element("span", { class: "chip" }, `×${candidate.count}`),
      score(candidate.value) || element("span", { class: "chip" }, "no score"),
      element("span", { class: `chip ${candidate.kept ? "kept" : ""}` }, candidate.kept ? "kept" : "dropped")),
    element("pre", { dir: "auto" }, plainText(candidate.text) || "(empty)"),
    candidate.problem && element("p", { class: "reflection", dir: "auto" }, candidate.problem));

const candidatesFold = (levels) => {
  const count = levels.reduce((sum, level) => sum + level.length, 0);
  if (!count) return null;
  return element("details", { class: "candidates" }, element("summary", null, plural(count, "candidate")),
    levels.map((level, number) => [
      levels.length > 1 && element("h3", null, `Level ${number + 1}`),
      element("ol", { class: "chain" }, level.map(candidateView)),
    ]));
};

const costText = (cost, usage) => [
  cost && plural(cost.sampled_tokens, "sampled token"),
  cost?.scored_chains > 0 && `${plural(cost.scored_chains, "scored chain")} (${plural(cost.scored_steps, "step")})`,
  usage && `${usage.total_tokens.toLocaleString("en")} tokens in all`,
  isScore(cost?.seconds) && `${cost.seconds.toFixed(2)} s`,
].filter(Boolean).join(" · ");

/** What hindered the chain, in one line: why the text is none, and why it has no scores. */
const noteText = (chain) => [
  chain?.problem && `Not a whole chain: ${chain.problem}.`,
  chain?.unscored && `Not scored: ${chain.unscored}.`,
].filter(Boolean).join(" ");

export class Result {
  constructor(title) {
    this.steps = [];
    this.content = "";
    this.list = element("ol", { class: "chain", "aria-live": "polite", "aria-label": `Steps, ${title}` });
    this.answer = element("div", { "aria-live": "polite" });
    this.progress = element("progress", { "aria-label": "Samples" });
    this.status = element("p", { class: "aside", role: "status" }, "Waiting …");
    this.error = element("p", { class: "error", role: "alert", hidden: true });
    this.more = element("div", null);
    this.view = element("section", { class: "result", "aria-label": title },
      element("h2", null, title), this.progress, this.status, this.list, this.answer, this.error, this.more);
  }

  /** Show a chunk of the stream. */
  add(chunk) {
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    const delta = choice?.delta ?? {};
    if (delta.progress) this.showProgress(delta.progress);
    if (delta.step) this.showStep(delta.step);
    if (delta.content) this.content += delta.content;
    if (delta.answer) replaceContent(this.answer, answerView(delta.answer));
    if (chunk.cost) this.cost = chunk.cost;
    if (chunk.search) this.search = chunk.search;
    if (delta.chain) this.chain = delta.chain;
    if (choice?.finish_reason) this.ending = choice.finish_reason;
  }

  showProgress({ samples, of }) {
    this.progress.max = of;
    this.progress.value = samples;
    this.status.textContent = `${samples} of ${plural(of, "sample")}`;
  }

  /** A step takes the place of its number: a search may think again. */
  showStep(step) {
    const view = stepView(step);
    const number = Math.min(step.number ?? this.steps.length, this.steps.length);
    for (const old of this.steps.splice(number)) old.remove();
    this.steps.push(view);
    this.list.append(view);
    this.status.textContent = `${plural(this.steps.length, "step")} so far`;
  }

  /** The stream is at its end, or was ended; an error is shown in one line. */
  finish(words, error) {
    this.progress.hidden = true;
    this.status.textContent = [words, costText(this.cost, this.usage)].filter(Boolean).join(" · ");
    this.error.hidden = !error;
    this.error.textContent = error ?? "";
    const plain = !this.answer.hasChildNodes() && plainText(this.content);
    const note = !this.search?.failure && noteText(this.chain);
    replaceContent(this.more,
      plain && element("pre", { dir: "auto" }, plain),
      note && element("p", { class: "aside note", dir: "auto" }, note),
      this.ending === "length" && !this.search?.failure && element("p", { class: "aside" }, "Cut by the token limit."),
      this.search?.failure && element("p", { class: "error" }, `The search failed: ${this.search.failure}`),
      this.search?.candidates && candidatesFold(this.search.candidates));
  }
}
