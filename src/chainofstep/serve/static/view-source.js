// Where the data comes from: the server, or the page itself where it was exported.

import { calibrationOf, findItem, listItems, listPairs } from "./view-exported.js";

const problemOf = async (response) => {
  try {
    return (await response.json()).error;
  } catch {
    return null; // no JSON: a proxy's page, or nothing
  }
};

const ask = async (address, options) => {
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("the viewer's server does not answer: is `cos view` still running?");
  }
  if (!response.ok) throw new Error((await problemOf(response)) ?? `the server answers ${response.status}`);
  return response.json();
};

const get = (name, query) => ask(`api/${name}?${new URLSearchParams(query)}`);

const server = {
  canCorrect: true,
  runs: () => get("runs", {}),
  items: (query) => get("items", query),
  item: (query) => get("item", query),
  pairs: (query) => get("pairs", query),
  calibration: (query) => get("calibration", query),
  correct: (label) =>
    ask("api/labels", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(label),
    }),
};

const exportedSource = (content) => ({
  canCorrect: false,
  runs: async () => content.runs,
  items: async (query) => listItems(content.items, query),
  item: async (query) => findItem(content.items, query),
  pairs: async (query) => listPairs(content.items, query),
  calibration: async (query) => calibrationOf(content.calibration, query),
});

const exported = document.getElementById("exported");

export const source = exported ? exportedSource(JSON.parse(exported.textContent)) : server;
