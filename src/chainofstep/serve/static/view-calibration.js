// How far a scorer's scores are shares of right steps: a reliability diagram, and the number of steps a bin.

import { element, plural, svgElement } from "./common.js";

const PLOT = { left: 46, top: 14, width: 380, height: 250 };
const COUNTS = { top: 292, height: 70 };
const SIZE = { width: 440, height: 402 };

const x = (value) => PLOT.left + value * PLOT.width;
const y = (value) => PLOT.top + (1 - value) * PLOT.height;

const text = (content, at, anchor, kind = "tick") =>
  svgElement("text", { ...at, "text-anchor": anchor, class: kind }, content);
const line = (x1, y1, x2, y2, kind) => svgElement("line", { x1, y1, x2, y2, class: kind });

const TICKS = [0, 0.25, 0.5, 0.75, 1];

const axes = () => [
  TICKS.map((tick) => [
    line(x(0), y(tick), x(1), y(tick), "grid"),
    text(tick.toString(), { x: x(0) - 8, y: y(tick) + 4 }, "end"),
    text(tick.toString(), { x: x(tick), y: COUNTS.top + COUNTS.height + 18 }, "middle"),
  ]),
  line(x(0), y(0), x(1), y(1), "diagonal"),
  text("share of right steps", { x: x(0) + 4, y: y(1) + 12 }, "start", "axis"),
  text("mean score", { x: x(0.5), y: SIZE.height - 4 }, "middle", "axis"),
];

/** Bins without steps have no point. */
const curve = (bins) => {
  const points = bins.filter((bin) => bin.steps > 0);
  const path = points.map((bin, place) => `${place ? "L" : "M"}${x(bin.score)} ${y(bin.right)}`).join("");
  return [
    svgElement("path", { d: path, class: "curve" }),
    points.map((bin) =>
      svgElement("circle", { cx: x(bin.score), cy: y(bin.right), r: 4.5, class: "point" },
        svgElement("title", null, binWords(bin)))),
  ];
};

const binWords = (bin) =>
  `scores ${bin.low.toFixed(1)} to ${bin.high.toFixed(1)}: ${plural(bin.steps, "step")}, ` +
  (bin.steps ? `mean score ${bin.score.toFixed(3)}, ${(100 * bin.right).toFixed(1)}% right` : "none");

const counts = (bins) => {
  const most = Math.max(1, ...bins.map((bin) => bin.steps));
  const bottom = COUNTS.top + COUNTS.height;
  return [
    bins.map((bin) => {
      const height = (COUNTS.height * bin.steps) / most;
      const size = { x: x(bin.low) + 1, y: bottom - height, width: Math.max(1, x(bin.high) - x(bin.low) - 2), height };
      return svgElement("rect", { ...size, class: "count" }, svgElement("title", null, binWords(bin)));
    }),
    line(x(0), bottom, x(1), bottom, "grid"),
    text(most.toLocaleString("en"), { x: x(0) - 8, y: COUNTS.top + 8 }, "end"),
    text("steps", { x: x(0) + 4, y: COUNTS.top - 4 }, "start", "axis"),
  ];
};

const diagram = (bins, words) =>
  svgElement("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, class: "diagram", role: "img", "aria-label": words },
    axes(), counts(bins), curve(bins));

const table = (bins) =>
  element("details", null, element("summary", null, "The same as a table"),
    element("table", { class: "bins" },
      element("thead", null, element("tr", null,
        ["Scores", "Steps", "Mean score", "Right"].map((title) => element("th", { scope: "col" }, title)))),
      element("tbody", null, bins.map((bin) => element("tr", null,
        element("td", null, `${bin.low.toFixed(1)} – ${bin.high.toFixed(1)}`),
        element("td", null, bin.steps.toLocaleString("en")),
        element("td", null, bin.steps ? bin.score.toFixed(3) : "–"),
        element("td", null, bin.steps ? `${(100 * bin.right).toFixed(1)}%` : "–"))))));

/** What the tab shows of an answer of /api/calibration. */
export const calibrationTab = (found, scorer, set) => {
  const name = scorer === "prm" ? "PRM" : scorer;
  if (found.truth === null || !found.bins.length) {
    const words = `No truth is known for the steps of ${set}, so the ${name} cannot be compared with it.`;
    return [element("p", { class: "aside" }, words)];
  }
  const accuracy = Number.isFinite(found.accuracy) ? `, accuracy ${(100 * found.accuracy).toFixed(1)}% at 0.5` : "";
  const words = `${plural(found.steps, "step")} of ${set} against ${found.truth}${accuracy}.`;
  return [
    element("h2", null, `Calibration of the ${name}`),
    element("p", { class: "aside" }, `${words} On the diagonal a score is the share of steps that are right.`),
    diagram(found.bins, words),
    table(found.bins),
  ];
};
