// One question: its pictures, question and answer, and the tabs below.

import { byId, element, replaceContent } from "./common.js";
import { beamTab } from "./view-beam.js";
import { calibrationTab } from "./view-calibration.js";
import { pairsTab } from "./view-pairs.js";
import { rolloutsTab } from "./view-rollouts.js";
import { source } from "./view-source.js";
import { TABS } from "./view-state.js";
import { treeTab } from "./view-tree.js";

const TITLES = { tree: "Tree", rollouts: "Rollouts", beam: "Beam search", pairs: "Pairs", calibration: "Calibration" };

const SMALL_PICTURE = 256; // pixels a side: up to here pictures are scaled up with square pixels, as in the report

const showPixels = (event) => {
  const { clientWidth, naturalWidth, naturalHeight } = event.target;
  const small = Math.max(naturalWidth, naturalHeight) <= SMALL_PICTURE;
  event.target.classList.toggle("pixelated", small && clientWidth > naturalWidth);
};

const zoom = (address) => {
  const dialog = byId("zoom");
  dialog.querySelector("img")?.remove();
  dialog.append(element("img", { src: address, alt: "", onload: showPixels }));
  dialog.showModal();
};

/** `missing` says why the picture is not shown; it is empty where it should be. */
const picture = (address, number, missing) =>
  address === "" || missing
    ? element("p", { class: "aside" }, `picture is missing${missing ? `: ${missing}` : ""}`)
    : pictureButton(address, number);

const pictureButton = (address, number) =>
  element("button", { type: "button", class: "picture", title: "Enlarge", onclick: () => zoom(address) },
    element("img", {
      src: address, alt: `Picture ${number + 1}`, onload: showPixels,
      onerror: (event) => event.target.replaceWith("picture is missing"),
    }));

const choiceList = (choices) =>
  choices?.length > 0 &&
    element("ol", { class: "choices" }, choices.map((choice) => element("li", { dir: "auto" }, choice)));

const pageButton = (words, id, onOpen) =>
  element("button", { type: "button", class: "quiet", disabled: !id, onclick: () => onOpen(id) }, words);

const head = (item, { onStep }) =>
  element("header", { class: "question-head" },
    item.pictures.length > 0 && element("div", { class: "pictures" }, item.pictures.map((address, number) => picture(address, number, item.missing?.[number]))),
    element("div", { class: "asked" },
      element("p", { class: "aside place" },
        element("span", null, `${item.family} · ${item.id}`),
        element("span", { class: "pager" },
          pageButton("‹", item.id, () => onStep(-1)), pageButton("›", item.id, () => onStep(1)))),
      element("h1", { dir: "auto" }, item.question),
      choiceList(item.choices),
      item.problems?.map((problem) => element("p", { class: "aside" }, problem)),
      element("p", { class: "gold-answer" }, "Gold answer ", element("strong", { dir: "auto" }, item.answer))));

const tabBar = (item, chosen, onTab) => {
  const counts = { rollouts: item.rollouts.length, beam: item.beam.length, pairs: item.pairs.length };
  return element("div", { class: "tabs", role: "tablist", "aria-label": "Views of the question" },
    TABS.map((tab) =>
      element("button", {
        type: "button", role: "tab", id: `tab-${tab}`, "aria-controls": "panel",
        "aria-selected": String(tab === chosen), tabindex: tab === chosen ? "0" : "-1", onclick: () => onTab(tab),
      }, TITLES[tab], counts[tab] > 0 && element("small", null, ` ${counts[tab]}`))));
};

const calibration = (context) => {
  const box = element("div", null, element("p", { class: "aside" }, "Loading …"));
  const { run, set, scorers } = context;
  const prms = scorers.filter((name) => name.startsWith("prm"));
  const scorer = source.canCorrect && prms.includes(context.scorer) ? context.scorer : prms[0];
  if (!scorer) return [element("p", { class: "aside" }, `No PRM has scored ${set}.`)];
  source.calibration({ run, set, scorer }).then(
    (found) => replaceContent(box, calibrationTab(found, scorer, set)),
    (error) => replaceContent(box, element("p", { class: "aside" }, error.message)),
  );
  return [box];
};

const PANELS = {
  tree: treeTab,
  rollouts: rolloutsTab,
  beam: beamTab,
  pairs: pairsTab,
  calibration: (item, context) => calibration(context),
};

const focusable = () => [...byId("item").querySelectorAll("button, select, summary")];

/** Put the keyboard's focus back where it was: what stood there has been made anew. */
const keepFocus = (draw) => {
  const place = focusable().indexOf(document.activeElement);
  const kind = document.activeElement?.className;
  draw();
  const now = place < 0 ? null : focusable()[place];
  if (now && now.className === kind) now.focus({ preventScroll: true });
};

let shown = null;

/** Show an item; `context` holds the tab and all that the tabs' options name. The head of the same item stays. */
export const showItem = (item, context) =>
  keepFocus(() => {
    const box = byId("item");
    const bar = tabBar(item, context.tab, context.onTab);
    const panel = element("div", { id: "panel", role: "tabpanel", "aria-labelledby": `tab-${context.tab}` },
      PANELS[context.tab](item, context));
    if (shown === item && box.querySelector(".question-head")) {
      box.querySelector(".tabs").replaceWith(bar);
      byId("panel").replaceWith(panel);
    } else replaceContent(box, head(item, context), bar, panel);
    bar.scrollLeft = byId(`tab-${context.tab}`).offsetLeft - bar.clientWidth / 2; // on a phone the tabs scroll
    shown = item;
  });

export const showNothing = (words) => replaceContent(byId("item"), element("p", { class: "hint" }, words));
