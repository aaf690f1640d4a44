// The list of questions that fit the filters: 50 at a time while it is scrolled.

import { byId, element, plural, replaceContent, scoreLook, isScore } from "./common.js";
import { source } from "./view-source.js";
import { filtersOf } from "./view-state.js";

const PAGE = 50;
const BUILDING_PAUSE = 1000; // ms until an index that is being built is asked again

const share = (row) => (row.rollouts ? row.right / row.rollouts : 0);

const tally = (row) =>
  element("span", { class: "tally", title: `${row.right} of ${row.rollouts} rollouts answer right` },
    element("i", { variables: { "--share": `${100 * share(row)}%` } }), `${row.right}/${row.rollouts}`);

const noPicture = () => element("span", { class: "no-picture" });

const thumbnail = (row) =>
  row.picture
    ? element("img", {
      src: row.picture, alt: "", loading: "lazy", width: 44, height: 44,
      onerror: (event) => event.target.replaceWith(noPicture()),
    })
    : noPicture();

const questionRow = (row, address) =>
  element("li", null,
    element("a", { href: address, "data-id": row.id },
      thumbnail(row),
      element("span", { class: "row-text" },
        element("span", { class: "row-question", dir: "auto" }, row.question.trim() || row.id),
        element("span", { class: "row-facts" },
          element("span", { class: "row-family", title: row.id }, row.family),
          tally(row),
          isScore(row.lowest) &&
            element("span", { ...scoreLook(row.lowest, "chip", "coloured"), title: "lowest step score" },
              row.lowest.toFixed(2))))));

export class QuestionList {
  /** `addressOf(id)` is the link to a question; `onError(text)` shows what went wrong. */
  constructor(addressOf, onError) {
    Object.assign(this, { addressOf, onError, rows: [], total: 0, asked: 0, loading: null, selected: "" });
    this.watcher = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) this.more();
    }, { root: byId("questions-box"), rootMargin: "600px" });
    this.end = element("li", { class: "end", "aria-hidden": "true" });
    this.watcher.observe(this.end);
  }

  /** Begin anew with a state's run, set and filters. */
  async reload(state) {
    clearTimeout(this.timer);
    this.query = { run: state.run, set: state.set, ...filtersOf(state) };
    Object.assign(this, { rows: [], total: Infinity, loading: null, asked: this.asked + 1 });
    await this.more(true);
  }

  /** The next page, once: who asks while it is loading waits for the same one. */
  more(first = false) {
    if (!this.query || this.rows.length >= this.total) return Promise.resolve();
    this.loading ??= this.load(this.asked, first);
    return this.loading;
  }

  async load(asked, first) {
    try {
      const page = await source.items({ ...this.query, offset: this.rows.length, limit: PAGE });
      if (asked === this.asked) this.add(page, first);
    } catch (error) {
      if (asked !== this.asked) return;
      this.total = this.rows.length; // no asking again and again while the server fails
      this.onError(error.message);
    } finally {
      if (asked === this.asked) this.loading = null;
    }
  }

  add(page, first) {
    const list = byId("questions");
    if (first) {
      replaceContent(list);
      byId("questions-box").scrollTop = 0;
    }
    this.total = page.items.length ? page.questions : this.rows.length;
    this.rows.push(...page.items);
    list.append(...page.items.map((row) => questionRow(row, this.addressOf(row.id))), this.end);
    if (!this.rows.length) list.prepend(element("li", { class: "aside empty" }, "No question fits these filters."));
    // An observer only tells of changes: seen anew, an end that is still in view asks for the next page.
    this.watcher.unobserve(this.end);
    this.watcher.observe(this.end);
    byId("count").textContent = `${plural(page.questions, "question")}, ${plural(page.rollouts, "rollout")}`;
    this.select(this.selected);
    this.showBuilding(page.ready);
  }

  showBuilding(ready) {
    const building = byId("building");
    building.hidden = ready >= 1;
    if (building.hidden) return;
    building.querySelector("progress").value = ready;
    building.querySelector("span").textContent = `The index is being built: ${Math.floor(100 * ready)}%`;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.askAgain(), BUILDING_PAUSE);
  }

  /** Ask what is built by now. A list that was scrolled on is left as it is until the index is whole. */
  async askAgain() {
    const asked = this.asked;
    try {
      const page = await source.items({ ...this.query, offset: 0, limit: PAGE });
      if (asked !== this.asked) return;
      if (page.ready < 1 && this.rows.length > PAGE) return this.showBuilding(page.ready);
      const place = byId("questions-box").scrollTop;
      Object.assign(this, { rows: [], loading: null, asked: asked + 1 });
      this.add(page, true);
      byId("questions-box").scrollTop = place;
    } catch (error) {
      this.onError(error.message);
    }
  }

  /** Mark the question that is shown. */
  select(id) {
    this.selected = id;
    for (const link of byId("questions").querySelectorAll("a")) {
      const chosen = link.dataset.id === id;
      if (chosen) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
      if (chosen) link.scrollIntoView({ block: "nearest" });
    }
  }

  row(id) {
    return this.rows.find((row) => row.id === id);
  }

  /** The id `by` places on in the filtered list; null past its ends or where the question is not in it. */
  async neighbour(id, by) {
    const place = this.rows.findIndex((row) => row.id === id);
    if (place < 0) return null;
    if (place + by >= this.rows.length) await this.more();
    return this.rows[place + by]?.id ?? null;
  }

  /** Links hold the filters: they are written again when something else of the state changes. */
  renewLinks() {
    for (const link of byId("questions").querySelectorAll("a")) link.href = this.addressOf(link.dataset.id);
  }
}
