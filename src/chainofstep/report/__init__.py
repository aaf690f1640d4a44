"""What a run shows: one HTML page that opens offline, two pictures for a README, a summary on the terminal."""

from pathlib import Path

from chainofstep.report.gallery import read_gallery
from chainofstep.report.page import Run, page
from chainofstep.report.plots import save_plots
from chainofstep.report.schema import GalleryRow, Results, check_results
from chainofstep.report.terminal import print_summary
from chainofstep.store import read_json, write_text


def write_report(run_folder: Path) -> Path:
    """Write `report.html` and `plots/*.png` from the folder's `results.json` and, if there, `gallery.jsonl`.

    The same input gives the same bytes. `ValueError` in one line if a file is missing or does not fit its schema.
    """
    source = run_folder / "results.json"
    if not source.is_file():
        raise ValueError(f"no results.json in {run_folder}: finish the run first, or give the folder of a finished one")
    content = read_json(source)
    if not isinstance(content, dict):
        raise ValueError(f"{source}: expected a JSON object, found {type(content).__name__}; run again or delete it")
    results = check_results(content)
    rows = run_folder / "gallery.jsonl"
    chains = read_gallery(rows) if rows.is_file() else None
    save_plots(results, run_folder / "plots")
    return write_text(run_folder / "report.html", page(Run(results, chains, run_folder)))


__all__ = ["GalleryRow", "Results", "check_results", "print_summary", "save_plots", "write_report"]
