"""The pictures of examples: where they lie now, and their pixels encoded anew, so that no other byte leaves."""

from base64 import b64encode
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath

from chainofstep.problems.pictures import open_picture

LONGEST_SIDE = 1024
SMALL = 256  # pixels a side, up to which a picture is shown larger than it is: every one counts


def find_picture(run: Path, examples: Path | None, image: str) -> Path | None:
    """The file that an example of this run names; None where it is not to be found.

    A relative path counts from the file of examples, or from the run. One from the machine or folder where the run
    was made is tried by its last parts in the run, and by its name among the run's problems.
    """
    if not image or "\0" in image:
        return None
    parts = PureWindowsPath(image).parts if "\\" in image else PurePosixPath(image).parts
    below = [part for part in parts if part not in ("..", "/", ".") and ":" not in part]
    tails = (run.joinpath(*below[start:]) for start in range(len(below)))
    from_examples = [examples.parent / image] if examples is not None else []
    for path in (*from_examples, run / image, *tails):
        if _is_file(path):
            return path
    return _by_name(run).get(below[-1]) if below else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long
        return False


@lru_cache(maxsize=8)
def _by_name(run: Path) -> dict[str, Path]:
    """The files below the run's problems by name."""
    found: dict[str, Path] = {}
    for path in sorted((run / "problems").rglob("*.*")):
        found.setdefault(path.name, path)
    return found


def encoded(path: Path, longest_side: int = LONGEST_SIDE) -> tuple[bytes, str]:
    """(bytes, media type) of a picture, decoded and encoded anew; `PictureError` for one that cannot be shown."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0  # `open_picture` says what is wrong
    return _encoded(path, changed, longest_side)


@lru_cache(maxsize=128)
def _encoded(path: Path, changed: int, longest_side: int) -> tuple[bytes, str]:
    image = open_picture(path)
    image.thumbnail((longest_side, longest_side))
    candidates = []
    for form, settings in (("PNG", {}), ("JPEG", {"quality": 88})):
        target = BytesIO()
        image.save(target, form, **settings)
        candidates.append((target.getvalue(), f"image/{form.lower()}"))
    drawn, photo = candidates  # drawings are small as PNG, and only there without loss
    return drawn if max(image.size) <= SMALL or len(drawn[0]) <= 2 * len(photo[0]) else photo


def embedded(path: Path, longest_side: int) -> str:
    """The picture as a data: address."""
    content, kind = encoded(path, longest_side)
    return f"data:{kind};base64,{b64encode(content).decode('ascii')}"
