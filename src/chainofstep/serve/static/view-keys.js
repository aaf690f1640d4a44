// Keys of the viewer. They do nothing while a field is written in or a dialog is open.

import { byId, startDialog, toggleTheme } from "./common.js";

const isField = (target) => target.closest("input, select, textarea") !== null;

/** Actions: step(by), tab(by), disagree(). */
export const startKeys = (actions) => {
  const search = byId("filters").elements.text;
  const keys = {
    j: () => actions.step(1),
    k: () => actions.step(-1),
    l: () => actions.tab(1),
    h: () => actions.tab(-1),
    ArrowRight: () => actions.tab(1),
    ArrowLeft: () => actions.tab(-1),
    "/": () => {
      actions.showList();
      search.focus();
    },
    d: actions.disagree,
    t: toggleTheme,
    "?": () => byId("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isField(event.target)) return event.target.blur();
    if (event.ctrlKey || event.metaKey || event.altKey || isField(event.target)) return;
    if (document.querySelector("dialog[open]") || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
  byId("theme").addEventListener("click", toggleTheme);
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  startDialog(byId("help"));
  startDialog(byId("zoom"));
};
