"""Pictures, steps and answers as pages show them: each step with its marks, and in the colour of its score."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from chainofstep.chain import Step
from chainofstep.problems.pictures import open_picture
from chainofstep.report.markup import Html, element

#: Pictures up to this many pixels a side are scaled up with square pixels.
SMALL_PICTURE = 256
#: The longer side of a thumbnail in pixels: twice the width it is shown at.
THUMBNAIL = 480


def picture(path: Path, alt: str) -> Html:
    """The file in the page as it is; a line where it is missing or cannot be read."""
    try:
        with Image.open(path) as image:
            kind, size = image.get_format_mimetype(), image.size
    except (OSError, UnidentifiedImageError) as error:
        return _no_picture(path.name, "is missing" if isinstance(error, FileNotFoundError) else "cannot be read")
    return _embedded(path.read_bytes(), str(kind), size, alt)


def thumbnail(folder: Path, path: str, alt: str) -> Html:
    """A picture of a folder scaled down, so that photos do not swell the page; a line where it cannot be shown.

    Paths come from data: one that leads out of the folder is not followed, or a page could show what is not its own.
    """
    name = Path(path).name
    try:
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            return _no_picture(name, "is outside the folder of pictures")
        image = open_picture(folder / path)
    except ValueError as error:  # a PictureError, or a path that no file can have
        return _no_picture(name, "is missing" if str(error).startswith("missing") else "cannot be read")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    candidates = []
    for form, settings in (("PNG", {"optimize": True}), ("JPEG", {"quality": 85})):
        target = BytesIO()
        image.save(target, form, **settings)
        candidates.append((len(target.getvalue()), form, target.getvalue()))
    _, form, content = min(candidates)  # drawings are smaller as PNG, photos as JPEG
    return _embedded(content, f"image/{form.lower()}", image.size, alt)


def _no_picture(name: str, reason: str) -> Html:
    return element("p", f"The picture {name} {reason}.", class_="missing")


def _embedded(content: bytes, kind: str, size: tuple[int, int], alt: str) -> Html:
    source = f"data:{kind};base64,{b64encode(content).decode('ascii')}"
    small = "pixelated" if max(size) <= SMALL_PICTURE else None
    return element("img", src=source, alt=alt, width=size[0], height=size[1], class_=small, loading="lazy")


def step_item(step: Step, score: float | None, marks: Html | None) -> Html:
    """A step as an item of a list, coloured by its score in [0, 1] where it has one."""
    return element(
        "li",
        element("p", marks, element("strong", step.name), class_="step-head"),
        element("p", step.thought),
        element("p", step.reflection, class_="aside"),
        class_="scored" if score is not None else None,
        style=_score_style(score),
    )


def answer_line(answer: str | None, score: float | None, marks: Html | None) -> Html:
    """The answer, coloured as a step is."""
    return element(
        "p",
        marks,
        "Answer: ",
        element("strong", "none" if answer is None else answer),
        class_="answer scored" if score is not None else "answer",
        style=_score_style(score),
    )


def _score_style(score: float | None) -> str | None:
    return None if score is None else f"--score:{100 * score:.0f}%"


def unread(problem: str, rest: str) -> Html:
    """Why a text is no whole chain, and what of it was not read."""
    text = element("pre", rest.strip()) if rest.strip() else None
    return element("div", element("p", f"Not a whole chain: {problem}.", class_="missing"), text)
