"""A run as one page that needs no server: the viewer's own page with the data and the pictures in it."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from chainofstep.problems.pictures import PictureError
from chainofstep.store import write_text
from chainofstep.view.calibration import calibration_of
from chainofstep.view.hand import Hand
from chainofstep.view.items import item_of
from chainofstep.view.opened import OpenRun, OpenSet, Shelf
from chainofstep.view.overview import runs_page
from chainofstep.view.pictures import embedded
from chainofstep.view.texts import example_of

LONGEST_SIDE = 512  # of a picture: 200 of them are in one file
_IMPORT = re.compile(r'^import\s*\{([^}]*)\}\s*from\s*"\./([\w-]+\.js)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:const|let|class|function) (\w+))", re.MULTILINE)


def export_page(shelf: Shelf, out: Path, limit: int) -> int:
    """Write the page with up to `limit` questions into a folder that is there; how many there are.

    Each set that has scores gives as many as the others, where none has any each set.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; give at least 1")
    if not out.parent.is_dir():
        raise ValueError(f"{out.parent} is no folder: make it, or give a file in another one")
    everything = [(run, one) for run in shelf.runs.values() for one in run.sets.values()]
    opened = [(run, one) for run, one in everything if one.scores] or everything
    chosen = list(islice(_in_turn(opened), limit))
    order = {id(one): place for place, (_, one) in enumerate(opened)}
    chosen.sort(key=lambda entry: order[id(entry[1])])  # stable: questions stay in the set's order
    content = {
        "runs": _runs(shelf, {(run.name, one.files.id) for run, one, _ in chosen}),
        "items": [_item(run, one, name) for run, one, name in chosen],
        "calibration": {f"{run.name}/{one.files.id}": _calibration(one) for run, one in opened},
    }
    write_text(out, page_of(content))
    return len(chosen)


def _runs(shelf: Shelf, chosen: set[tuple[str, str]]) -> dict[str, Any]:
    """As the server gives them, with the sets alone that have questions in the page, and no paths of this machine."""
    found = runs_page(shelf)
    for row in found["runs"]:
        row["path"] = row["name"]
        row["sets"] = [one | {"ready": 1.0} for one in row["sets"] if (row["name"], one["id"]) in chosen]
    return found


def _in_turn(opened: list[tuple[OpenRun, OpenSet]]) -> Iterator[tuple[OpenRun, OpenSet, str]]:
    """The first question of each set, then the second of each, and so on."""
    for names in zip_longest(*(one.rows.ids for _, one in opened)):
        yield from ((run, one, name) for (run, one), name in zip(opened, names, strict=True) if name is not None)


def _item(run: OpenRun, one: OpenSet, name: str) -> dict[str, Any]:
    """As the server gives it, with the pictures in it."""
    item = item_of(run, one, name, Hand(run.path))
    example = example_of(one.examples.row(name))
    item["pictures"] = [_embedded(run, one, image) for image in (example.images if example else ())]
    return item


def _embedded(run: OpenRun, one: OpenSet, image: str) -> str:
    """The picture as an address; "" where it cannot be shown."""
    try:
        path = run.picture(one, image)
        return "" if path is None else embedded(path, LONGEST_SIDE)
    except PictureError:
        return ""


def _calibration(one: OpenSet) -> dict[str, Any]:
    prm = one.files.first(["prm"])
    return calibration_of(one, prm.name) if prm else {"truth": None, "steps": 0, "accuracy": None, "bins": []}


# The page


def page_of(content: dict[str, Any]) -> str:
    """The viewer's page with its styles, its modules and this content in it; the browser runs nothing else."""
    page = _static("view.html")
    style = "\n".join(
        _static(name) for name in re.findall(r'<link rel="stylesheet" href="static/([\w-]+\.css)">', page)
    )
    script = bundle("view.js").replace("</script", r"<\/script")
    data = json.dumps(content, allow_nan=False).replace("<", r"\u003c")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = re.sub(r'\s*<link rel="stylesheet"[^>]*>|\s*<script [^>]*></script>', "", page)
    head = f'<meta charset="utf-8">\n  <meta http-equiv="Content-Security-Policy" content="{policy}">'
    page = page.replace('<meta charset="utf-8">', head).replace("</head>", f"<style>{style}</style>\n</head>")
    held = f'<script type="application/json" id="exported">{data}</script>'
    return page.replace("</body>", f'{held}\n<script type="module">{script}</script>\n</body>')


def _static(name: str) -> str:
    return (files("chainofstep") / "serve" / "static" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def bundle(entry: str) -> str:
    """A module and all that it imports as one script: a page that is opened from a disk may load no modules."""
    parts = ["const modules = {};"]
    done: list[str] = []

    def add(name: str) -> None:
        assert name not in done, f"{name} is imported in a circle"
        done.append(name)
        text = _static(name)
        for _, needed in _IMPORT.findall(text):
            if f"modules[{needed!r}] =" not in "\n".join(parts):
                add(needed)
        names = _EXPORT.findall(text)
        text = _EXPORT.sub("", _IMPORT.sub(_taken, text))
        assert not re.search(r"^(import|export)\b", text, re.MULTILINE), f"{name}: an import or export of another form"
        parts.append(f"modules[{name!r}] = (() => {{\n{text}\nreturn {{ {', '.join(names)} }};\n}})();")

    add(entry)
    return "\n".join(parts)


def _taken(found: re.Match[str]) -> str:
    names = found[1].replace(" as ", ": ")
    return f"const {{{names}}} = modules[{found[2]!r}];"
