"""What is open, as the page's choosers take it."""

from typing import Any

from chainofstep.view.hand import Hand
from chainofstep.view.opened import OpenRun, Shelf


def runs_page(shelf: Shelf) -> dict[str, Any]:
    return {"runs": [run_row(run) for run in shelf.runs.values()]}


def run_row(run: OpenRun) -> dict[str, Any]:
    """A run with its sets, and in words what of it could not be read."""
    corrected = Hand(run.path).sets()
    sets = [
        {
            "id": name,
            "title": one.files.title,
            "questions": len(one.rows),
            "rollouts": one.rollouts,
            "scorers": [*one.scores, *(["hand"] if name in corrected else [])],
            "families": one.families,
            "ready": one.ready,
        }
        for name, one in run.sets.items()
    ]
    return {
        "name": run.name,
        "path": str(run.path),
        "sets": sets,
        "searches": [{"id": name, "questions": len(rows)} for name, (_, rows) in run.searches.items()],
        "pairs": [{"id": name, "questions": len(rows)} for name, (_, rows) in run.pairs.items()],
        "problems": run.problems,
    }
