// Filters of the gallery. Without this script every chain is shown and the filter bar stays hidden.
(() => {
  const view = document.getElementById("gallery-view");
  if (!view) return;
  const chosen = { kind: "all", family: "all" };
  const bar = view.querySelector(".filters");
  const chains = [...view.querySelectorAll(".chain")];

  const fits = (chain) => {
    const kinds = chain.dataset.kinds.split(" ");
    const family = chain.closest(".card").dataset.family;
    return (
      (chosen.kind === "all" || kinds.includes(chosen.kind)) &&
      (chosen.family === "all" || family === chosen.family)
    );
  };

  const update = () => {
    for (const chain of chains) chain.hidden = !fits(chain);
    for (const card of view.querySelectorAll(".card")) card.hidden = !card.querySelector(".chain:not([hidden])");
    for (const button of bar.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(chosen[button.dataset.group] === button.dataset.value));
    }
    const shown = chains.filter((chain) => !chain.hidden).length;
    document.getElementById("gallery-count").textContent = `${shown} of ${chains.length} chains`;
  };

  bar.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    chosen[button.dataset.group] = button.dataset.value;
    update();
  });
  bar.hidden = false;
  update();
})();
