"""What every page of this package is made of: one file that opens offline, loads nothing, and follows the theme."""

from collections.abc import Iterable
from importlib.resources import files

from chainofstep.report.drawing import DARK, LIGHT, Plot, to_svg
from chainofstep.report.markup import Child, Html, element

#: The browser itself refuses whatever is not in the file.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, policy: str, *body: Child) -> str:
    """A whole page with the package's style."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(_themes() + own_file("page.css"))),
    )
    return f"<!doctype html>\n{element('html', head, element('body', body), lang='en')}\n"


def own_file(name: str) -> str:
    return (files("chainofstep.report") / name).read_text("utf-8")


def _themes() -> str:
    """The plots' palettes as CSS variables."""
    light, dark = ("".join(f"--{name}:{value};" for name, value in theme.items()) for theme in (LIGHT, DARK))
    return f":root{{{light}}}\n@media(prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def header(kicker: str, name: str, facts: Iterable[str], titles: Iterable[str]) -> Html:
    """The page's name, a line of facts, and links to its sections."""
    return element(
        "header",
        element("p", kicker, class_="kicker"),
        element("h1", name),
        element("p", " · ".join(facts), class_="aside"),
        element("nav", [element("a", title, href=f"#{_anchor(title)}") for title in titles], aria_label="Sections"),
    )


def section(title: str, content: Child) -> Html:
    return element("section", element("h2", title), content, id=_anchor(title))


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def figure(plot: Plot | None, name: str, caption: str) -> Html | None:
    if plot is None:
        return None
    return element(
        "figure",
        element("div", to_svg(plot, name), role="img", aria_label=caption, class_="scroll"),
        element("figcaption", caption),
    )


def figures(*shown: Html | None) -> Html:
    """Figures, and tables that belong to them, side by side where there is room."""
    return element("div", shown, class_="figures")


def fold(title: str, content: Child) -> Html | None:
    """Content behind a click."""
    return element("details", element("summary", title), content) if content else None


def note(text: str) -> Html:
    return element("p", text, class_="note")
