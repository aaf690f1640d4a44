"""The paper's experiments over several seeds, and the document of what they found."""

from collections.abc import Sequence
from pathlib import Path

from chainofstep.verbs.files import choose


def experiment_titles() -> dict[str, str]:
    """Every experiment's title by its name, and "paper" for all of them."""
    from chainofstep.experiments import EXPERIMENTS
    from chainofstep.experiments.suite import SUITE

    return {SUITE: "All that follow, in one document"} | {name: e.title for name, e in EXPERIMENTS.items()}


def run_experiments(
    name: str,
    out: Path,
    seeds: str = "0",
    overrides: Sequence[str] = (),
    jobs: int = 1,
    results: Path | None = None,
) -> Path:
    """Run one experiment, or all ("paper"), for seeds such as "0-4" in the folder `out`; the path of the document.

    Experiments of one folder share their stages, and the same command goes on with what is not finished. The document
    (default: `out`/results.md) has all experiments that these seeds have finished, not this one alone.
    """
    from chainofstep.experiments import EXPERIMENTS
    from chainofstep.experiments.document import write_document
    from chainofstep.experiments.seeds import read_seeds
    from chainofstep.experiments.suite import SUITE, run_suite, seed_folder

    chosen = read_seeds(seeds)
    choose(name, [SUITE, *EXPERIMENTS], "experiment")
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; run at least one seed at a time")
    run_suite(out, chosen, list(EXPERIMENTS) if name == SUITE else [name], overrides, jobs)
    folders = {seed: seed_folder(out, seed) for seed in chosen}
    return write_document(folders, list(EXPERIMENTS.values()), results or out / "results.md", out)
