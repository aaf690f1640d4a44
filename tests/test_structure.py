"""The shape of the package: every module imports, imports point one way, no file or function outgrows a reader."""

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import chainofstep

ROOT = Path(chainofstep.__file__).parent
#: A room is a file or folder of the package; it imports from rooms before it, and from itself.
ROOMS = [
    "chain",
    "records",
    "store",
    "row_index",
    "settings",
    "progress",
    "answers",
    "llm",
    "problems",
    "scoring",
    "search",
    "evaluate",
    "statistics",
    "benchmarks",
    "report",
    "view",
    "models",
    "training",
    "pipeline",
    "answering",
    "recipes",
    "experiments",
    "planning",
    "verbs",
    "plugins",
    "serve",
    "cli",
    "__main__",
]
#: What only `models` and the rooms after it may import.
HEAVY = {"torch", "transformers", "trl", "accelerate", "peft", "safetensors", "tokenizers"}
#: What light rooms import only inside the function that needs it: an extra, not part of the light core.
EXTRA = {"datasets", "pyarrow", "openai", "imagehash", "fastapi", "uvicorn", "sklearn", "rapidfuzz", "openpyxl"}
LIGHT_ROOMS = ROOMS[: ROOMS.index("models")]


def module_name(path):
    parts = ("chainofstep", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module):
    """The room of a dotted module name; "" for the package itself, which only gives public names."""
    return [*module.split("."), ""][1]


SOURCES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text("utf-8"), str(path)) for module, path in SOURCES.items()}
LIGHT = [module for module in SOURCES if room_of(module) in LIGHT_ROOMS]


def imported(tree, module):
    """(line, dotted name) of every import anywhere in the file, relative ones written out."""
    package = module if SOURCES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            whole = ".".join(part for part in (base, node.module) if part)
            # `from chainofstep import search` imports a room, `from chainofstep.search import greedy` a name of one
            names = (f"{whole}.{alias.name}" for alias in node.names) if whole == "chainofstep" else (whole,)
            yield from ((node.lineno, name) for name in names)


def against_the_direction(tree, module):
    """The imports of a file that lead to a room after its own."""
    here = ROOMS.index(room_of(module))
    for line, name in imported(tree, module):
        room = room_of(name)
        if name.startswith("chainofstep.") and room in ROOMS and ROOMS.index(room) > here:
            yield f"{module}:{line} imports {name}"


def heavy_imports(tree, module):
    return [f"{module}:{line} imports {name}" for line, name in imported(tree, module) if name.split(".")[0] in HEAVY]


def test_every_module_stands_in_a_room():
    assert {room_of(module) for module in SOURCES} - {""} <= set(ROOMS)


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_imports(module):
    if module not in LIGHT:
        pytest.importorskip("torch")
    importlib.import_module(module)


def test_imports_point_one_way():
    wrong = [line for module, tree in TREES.items() if room_of(module) for line in against_the_direction(tree, module)]
    assert wrong == []


def test_an_import_of_a_later_room_is_seen():
    module = "chainofstep.scoring.oracle"
    text = (
        "from chainofstep import chain, search\n"
        "def late():\n    import chainofstep.models.vlm\n"
        "from ..report import tables\n"
        "from ..records import Pair\n"
        "from . import pairs\n"
        "from chainofstep import Step\n"
    )
    assert sorted(against_the_direction(ast.parse(text), module)) == [
        "chainofstep.scoring.oracle:1 imports chainofstep.search",
        "chainofstep.scoring.oracle:3 imports chainofstep.models.vlm",
        "chainofstep.scoring.oracle:4 imports chainofstep.report",
    ]


def test_light_rooms_name_no_heavy_package():
    assert [line for module in LIGHT for line in heavy_imports(TREES[module], module)] == []
    assert heavy_imports(ast.parse("def late():\n    from torch.nn import Linear\n"), "late") == [
        "late:2 imports torch.nn"
    ]


def test_light_rooms_import_where_torch_and_extras_are_not_installed():
    program = "import sys\nfor name in sys.argv[1].split(','): sys.modules[name] = None\n" + "\n".join(
        f"import {module}" for module in LIGHT
    )
    done = subprocess.run([sys.executable, "-c", program, ",".join(HEAVY | EXTRA)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_are_exact_and_sorted():
    assert chainofstep.__all__ == sorted(chainofstep.__all__)
    modules = {room_of(module) for module in SOURCES}
    public = {name for name in vars(chainofstep) if not name.startswith("_")} - modules
    assert public | {"__version__"} == set(chainofstep.__all__)


@pytest.mark.parametrize("module", [module for module, path in SOURCES.items() if ">>> " in path.read_text("utf-8")])
def test_examples_in_docstrings_are_true(module):
    if module not in LIGHT:
        pytest.importorskip("torch")
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted and not failed


def test_no_function_is_over_60_lines_and_no_file_over_420():
    functions = [
        f"{module}.{node.name}: {length} lines"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > 60
    ]
    files = [
        f"{path.name}: {lines} lines"
        for path in SOURCES.values()
        if (lines := len(path.read_text("utf-8").splitlines())) > 420
    ]
    assert functions + files == []
