"""A real browser for tests of pages, and servers for it: `pytest_plugins = ("browser",)` brings the fixtures.

Tests that ask for a browser are skipped where playwright or a Chromium is missing.
"""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
PATIENCE = 20_000  # milliseconds: a shared machine is slow


@pytest.fixture(scope="module")  # playwright's event loop runs until it stops, and asyncio refuses a second one
def browser() -> "Iterator[Browser]":
    """A Chromium of this machine."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are tested with playwright")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("pages are tested with a Chromium, and none is installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console says is wrong; a test that expects something takes it out."""
    return []


@pytest.fixture
def page(browser: "Browser", complaints: list[str], serve: object) -> "Iterator[Page]":
    """An empty page at a desk, closed before its servers are.

    At its end nothing may be wrong: no error of a script, no refusal by the policy.
    """
    with _open_page(browser, complaints, DESK) as page:
        yield page
    assert complaints == []


@pytest.fixture
def phone(browser: "Browser", complaints: list[str], serve: object) -> "Iterator[Page]":
    """The same, as wide as a phone."""
    with _open_page(browser, complaints, PHONE) as page:
        yield page
    assert complaints == []


@contextmanager
def _open_page(browser: "Browser", complaints: list[str], size: dict[str, int]) -> "Iterator[Page]":
    context = browser.new_context(viewport=size, color_scheme="light", reduced_motion="reduce")  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    try:
        yield page
    finally:
        context.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Call it with an app: its address, where it is served until the test ends."""
    with ExitStack() as servers:
        yield lambda app: servers.enter_context(_serving(app))


@contextmanager
def _serving(app: Any) -> Iterator[str]:
    import uvicorn

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
