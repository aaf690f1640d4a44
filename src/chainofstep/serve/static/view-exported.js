// The server's answers for an exported page, which holds all of its items.

const RIGHT_ABOVE = 0.5;

const valuesOf = (rollout, scorer) => {
  const scores = rollout.scores?.[scorer];
  if (!scores?.steps) return null;
  const all = scores.answer === null || scores.answer === undefined ? scores.steps : [...scores.steps, scores.answer];
  return { steps: scores.steps, all };
};

/** The lowest step score of a rollout; null without one. */
const lowestOf = (rollout, scorer) => {
  const values = valuesOf(rollout, scorer)?.steps ?? [];
  return values.length ? Math.min(...values) : null;
};

/** Whether the PRM and the truth see a step or the answer differently. */
const disagrees = (rollout) => {
  const guessed = valuesOf(rollout, "prm")?.all;
  const truth = (valuesOf(rollout, "checker") ?? valuesOf(rollout, "monte-carlo"))?.all;
  if (!guessed || !truth) return false;
  return guessed.some((score, place) => place < truth.length && score > RIGHT_ABOVE !== truth[place] > RIGHT_ABOVE);
};

const stepsOf = (item, rollout) =>
  item.nodes.filter((node) => node.step && node.rollouts.includes(rollout.index)).length;

/** Whether a filter bounds rollouts; without any, questions that have none are listed too. */
const isBounded = (query) =>
  query.answer !== "any" || query.disagree === "1" || Number(query.low) > 0 || Number(query.high) < 1 ||
  query.shortest !== "" || query.longest !== "";

const answerFits = (rollout, wanted) => {
  if (wanted === "any") return true;
  if (wanted === "none") return rollout.answer === null;
  return rollout.answer !== null && rollout.right === (wanted === "right");
};

const rolloutFits = (item, rollout, query) => {
  const lowest = lowestOf(rollout, query.scorer);
  const [low, high] = [Number(query.low), Number(query.high)];
  const anyScore = low <= 0 && high >= 1;
  const steps = stepsOf(item, rollout);
  return (
    answerFits(rollout, query.answer) &&
    (anyScore || (lowest !== null && lowest >= low && lowest <= high)) &&
    (query.shortest === "" || steps >= Number(query.shortest)) &&
    (query.longest === "" || steps <= Number(query.longest)) &&
    (query.disagree !== "1" || disagrees(rollout))
  );
};

const itemFits = (item, query) => {
  const text = query.text.trim().toLowerCase();
  return (
    item.run === query.run &&
    item.set === query.set &&
    (query.family === "" || item.family === query.family) &&
    (text === "" || `${item.id}\n${item.question}`.toLowerCase().includes(text))
  );
};

const rowOf = (item, query) => {
  const fitting = item.rollouts.filter((rollout) => rolloutFits(item, rollout, query));
  const scores = fitting.map((rollout) => lowestOf(rollout, query.scorer)).filter((score) => score !== null);
  return {
    id: item.id,
    family: item.family,
    question: item.question,
    answer: item.answer,
    picture: item.pictures[0] || null,
    rollouts: item.rollouts.length,
    right: item.rollouts.filter((rollout) => rollout.right).length,
    fitting: fitting.map((rollout) => rollout.index),
    lowest: scores.length ? Math.min(...scores) : null,
    disagreements: fitting.filter(disagrees).length,
  };
};

const ORDERS = {
  order: () => 0,
  disagree: (one, other) => other.disagreements - one.disagreements,
  score: (one, other) => (one.lowest ?? 2) - (other.lowest ?? 2),
};

const part = (rows, query) => rows.slice(Number(query.offset), Number(query.offset) + Number(query.limit));

/** As /api/items. */
export const listItems = (items, query) => {
  const rows = items
    .filter((item) => itemFits(item, query))
    .map((item) => rowOf(item, query))
    .filter((row) => row.fitting.length > 0 || !isBounded(query))
    .sort(ORDERS[query.sort]);
  return {
    questions: rows.length,
    rollouts: rows.reduce((sum, row) => sum + row.fitting.length, 0),
    ready: 1,
    items: part(rows, query),
  };
};

/** As /api/item. */
export const findItem = (items, query) => {
  const found = items.find((item) => ["run", "set", "id"].every((key) => item[key] === query[key]));
  if (!found) throw new Error(`this page does not hold the question ${query.id}: open the run with \`cos view\``);
  return found;
};

/** As /api/pairs: the pairs that belong to the page's items. */
export const listPairs = (items, query) => {
  const rows = items
    .filter((item) => item.run === query.run)
    .flatMap((item) => item.pairs.map((pair) => ({ ...pair, example: item })))
    .filter((pair) => pair.id === query.pairs);
  return { questions: rows.length, pairs: part(rows, query) };
};

/** As /api/calibration. */
export const calibrationOf = (calibrations, query) =>
  calibrations?.[`${query.run}/${query.set}`] ?? { truth: null, bins: [] };
