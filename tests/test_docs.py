"""The documents: their commands are commands, their links lead somewhere, and the tutorial does what it says."""

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from chainofstep import cli
from chainofstep.settings import apply_overrides

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
TUTORIAL = DOCS / "tutorial.md"
NOT_RUN = re.compile(r"<!-- not run: (.+) -->\s*$")
SAVED_AS = re.compile(r"[Ss]ave\s+this as `([\w.]+)`:\s*$")
ENDS = {"|", ">", "&&", ";", "&", "||"}  # of a command within a line of a shell


@dataclass(frozen=True)
class Block:
    """A fenced block, its language, and the text before it."""

    language: str
    text: str
    before: str

    @property
    def not_run(self):
        """Why, in a word; empty for a block that is run."""
        found = NOT_RUN.search(self.before)
        return found.group(1) if found else ""

    @property
    def lines(self):
        """Lines of a shell, continued ones as one."""
        return re.sub(r"\\\n\s*", " ", self.text).splitlines()


def blocks(path):
    parts = re.split(r"^```(\w*)\n(.*?)^```\s*$", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [Block(*parts[n + 1 : n + 3], parts[n]) for n in range(0, len(parts) - 2, 3)]


# Commands


def commands_of(line):
    """The words after `cos`, or after `-m chainofstep`, of every such command in a line of a shell."""
    try:
        words = shlex.split(line.removeprefix("$ "), comments=True)
    except ValueError:  # a quote that goes on in the next line: no command of ours does
        return
    starts = [n + 1 for n, word in enumerate(words) if word == "cos" and (n == 0 or words[n - 1] in ENDS | {"$", "("})]
    starts += [n + 2 for n, word in enumerate(words[:-1]) if word == "-m" and words[n + 1] == "chainofstep"]
    for start in starts:
        end = next((n for n in range(start, len(words)) if words[n] in ENDS), len(words))
        yield words[start:end]


def command_of(words):
    """The command that the first words name, and the rest; `ValueError` for one that is not there."""
    found = typer.main.get_command(cli.app)
    words = list(words)
    while hasattr(found, "commands"):
        name = words.pop(0) if words else ""
        if name not in found.commands:
            raise ValueError(f"no command {name!r}")
        found = found.commands[name]
    return found, words


def check_command(words):
    """Raises for a command or an option that is not there; where all is written out, also for wrong values."""
    found, rest = command_of(words)
    if "..." in rest:
        known = {spelling for parameter in found.params for spelling in (*parameter.opts, *parameter.secondary_opts)}
        for word in rest:
            if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known:
                raise ValueError(f"no option {word}")
    else:
        found.make_context(" ".join(words[:2]), list(rest))


WRITTEN = [
    pytest.param(path, words, id=f"{path.name}: {' '.join(words)[:60]}")
    for path in PAGES
    for block in blocks(path)
    if block.language in ("bash", "console", "")
    for line in block.lines
    for words in commands_of(line)
]


@pytest.mark.parametrize("path, words", WRITTEN)
def test_commands_of_the_documents_are_commands(path, words):
    check_command(words)


def test_wrong_commands_would_be_found():
    assert list(commands_of("x | cos ask - 'a b' --json > out # or cos nothing")) == [["ask", "-", "a b", "--json"]]
    assert list(commands_of("accelerate launch -m chainofstep train sft a b")) == [["train", "sft", "a", "b"]]
    for wrong in ("nothing", "train nothing", "ask a b --nothing 1", "train sft ... --nothing 1", "ask a b -n many"):
        with pytest.raises(Exception, match=r"[Nn]o (such )?(command|option)|valid integer"):
            check_command(wrong.split())


def configured(words):
    """The settings that `--set` of a command changes; None where it takes none, or cannot be known here."""
    from chainofstep.problems.filters import FilterConfig
    from chainofstep.recipes import RECIPES
    from chainofstep.training.dpo import DpoConfig
    from chainofstep.training.grpo import GrpoConfig
    from chainofstep.training.prm import PrmConfig
    from chainofstep.training.sft import SftConfig

    trainings = {"sft": SftConfig, "prm": PrmConfig, "dpo": DpoConfig, "grpo": GrpoConfig}
    if words[0] == "train":
        return trainings[words[1]]()
    if words[:2] == ["data", "check"]:
        return FilterConfig()
    whole = words[0] in ("run", "plan", "recipes") and words[1] in RECIPES
    return RECIPES[words[1]](0) if whole else None


def test_settings_of_the_documents_are_settings():
    pytest.importorskip("torch")
    tried = 0
    for words in (parameter.values[1] for parameter in WRITTEN):
        given = [words[n + 1] for n, word in enumerate(words[:-1]) if word == "--set"]
        if given and (config := configured(words)) is not None:
            apply_overrides(config, given)
            tried += 1
    assert tried > 10


# Links and Python


def prose(path):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```\s*$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """The anchors of a page's headings, as GitHub and the site make them."""
    found = []
    for heading in re.findall(r"^#{1,6} (.+)$", prose(path), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        found.append(re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-"))
    return set(found)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"`[^`]*`", "", prose(path))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        if ":" in name:
            continue
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_site():
    listed = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))


def test_python_of_the_documents_is_python():
    for path in PAGES:
        for block in blocks(path):
            if block.language == "python":
                compile(block.text, path.name, "exec")


def test_the_first_page_runs():
    (block,) = [block for block in blocks(DOCS / "index.md") if block.language == "python"]
    exec(compile(block.text, "index.md", "exec"), {})


def test_the_site_builds_and_fetches_nothing(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.glob("*.html"))
    assert len(pages) > 20 and (tmp_path / "search" / "search_index.js").is_file()
    for page in pages:
        text = page.read_text("utf-8")
        fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(?:https?:)?//[^\s\">]+", text)
        assert fetched == [], page.name
        assert "unpkg.com" not in text
    assert "samples per question" in (tmp_path / "api.html").read_text("utf-8")  # a comment behind a field


# The tutorial


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A run with the settings of the miniature of test_pipeline.py, in place of the ten minutes of `cos run mini`."""
    for package in ("torch", "trl", "fastapi", "uvicorn", "prometheus_client", "openai"):
        pytest.importorskip(package)
    from chainofstep.pipeline import stages
    from chainofstep.pipeline.run import Run
    from test_pipeline import SMALL

    folder = tmp_path_factory.mktemp("tutorial") / "runs" / "mini"
    # Smaller batches than the miniature's: as many updates, and so as many whole chains, in half the time.
    sft = replace(SMALL.sft, batch_size=8, forward_rows=8)
    with Run(replace(SMALL, problems=replace(SMALL.problems, sft=1600), sft=sft), folder) as run:
        stages.run_recipe(run)
    return folder


def kinds(text):
    """What the lines of an output are, whatever their numbers: the first two words. Indented is what a model says."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("      ")]
    return {" ".join(re.sub(r"[\d.,%]+", "N", line).split()[:2]) for line in lines}


class Reader:
    """Who follows the tutorial: runs its blocks in order, in one folder, and stops the servers in the end."""

    def __init__(self, folder):
        self.folder, self.printed, self.port = folder, "", 0
        self.serving, self.process = ExitStack(), None

    def read(self, block):
        if block.language == "python" and (saved := SAVED_AS.search(block.before)):
            (self.folder / saved.group(1)).write_text(block.text)
        elif block.language == "python":
            self.printed = self._outside([sys.executable, "-c", self._here(block.text)])
        elif block.language == "bash":
            self.printed = "".join(self._line(self._here(line)) for line in block.lines)
        elif block.language == "text":
            assert kinds(block.text) <= kinds(self.printed), self.printed

    def _here(self, text):
        """The server's port is any that is free."""
        return text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")

    def _line(self, line):
        words = shlex.split(line)
        if words[:3] == ["cos", "run", "mini"]:
            return ""
        if words[:2] == ["cos", "view"]:
            with server(words, "/api/runs") as (process, told):
                assert "search/pool" in {found["id"] for found in told["runs"][0]["sets"]}
                process.send_signal(signal.SIGINT)  # Ctrl-C
                assert process.wait(30) == 0
            return ""
        if words[:2] == ["cos", "serve"]:
            self.process, told = self.serving.enter_context(server(words, "/health"))
            assert told["status"] == "ok"
            self.port = self.process.port
            return ""
        if words[0] == "cos":
            result = CliRunner().invoke(cli.app, words[1:])
            assert result.exit_code == 0, (line, result.output, result.exception)
            return result.stdout
        return self._outside([sys.executable, *words[1:]] if words[0] == "python" else words)

    def _outside(self, command):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def end(self):
        """SIGTERM: the server finishes and says that all is well."""
        with self.serving:
            if self.process is not None:
                self.process.terminate()
                assert self.process.wait(60) == 0


@contextmanager
def server(words, route):
    """A command that serves, on a free port, once it answers: the process and the JSON of a route."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = [word for n, word in enumerate(words) if "--port" not in words[max(0, n - 1) : n + 1]]
    process = subprocess.Popen([sys.executable, "-m", "chainofstep", *words[1:], "--port", str(port)])
    process.port = port
    try:
        yield process, first_answer(process, f"http://127.0.0.1:{port}{route}")
    finally:
        process.kill()
        process.wait()


def first_answer(process, url, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return json.load(reply)
        except OSError:  # nobody listens yet, or nobody answers while models are loaded
            time.sleep(0.2)
    raise AssertionError(f"{url} gave no answer; exit code {process.poll()}")


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(small_run, monkeypatch):
    monkeypatch.chdir(small_run.parent.parent)
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    reader = Reader(Path.cwd())
    try:
        for block in blocks(TUTORIAL):
            if not block.not_run:
                reader.read(block)
    finally:
        reader.end()
    compared = Path("compare.html").read_text("utf-8")
    assert "Best-of-N" in compared and Path("models/dpo/model.safetensors").is_file()


def test_little_of_the_tutorial_is_not_run():
    reasons = [block.not_run for block in blocks(TUTORIAL) if block.not_run]
    assert len(reasons) <= 3 and all(re.search("install|GPU", reason) for reason in reasons)
