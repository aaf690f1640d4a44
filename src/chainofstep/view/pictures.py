"""The pictures of examples: where they lie now, and their pixels encoded anew, so that no other byte leaves."""

import os
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath

from chainofstep.problems.pictures import PictureError, open_picture

LONGEST_SIDE = 1024
SMALL = 256  # pixels a side, up to which a picture is shown larger than it is: every one counts


class OutsideRun(PictureError):
    """A picture that a row names outside the run, where nobody said that pictures may be shown from.

    `paths` are those that the row may mean; whether there is a file was not looked at.
    """

    def __init__(self, paths: Sequence[Path]):
        super().__init__("outside the run: give --pictures FOLDER")
        self.paths = tuple(paths)


def find_picture(run: Path, examples: Path | None, image: str, folders: Sequence[Path] = ()) -> Path | None:
    """The file that an example of this run names; None where it is not to be found.

    A relative path counts from the file of examples, or from the run. One from the machine or folder where the run
    was made is tried by its last parts in the run, and by its name among the run's problems. Who wrote the rows may
    be a stranger, so a path that leads out of the run is followed to these `folders` alone, else it is `OutsideRun`.
    """
    if not image or "\0" in image:
        return None
    parts = PureWindowsPath(image).parts if "\\" in image else PurePosixPath(image).parts
    below = [part for part in parts if part not in ("..", "/", ".") and ":" not in part]
    if not below:
        return None
    tails = (run.joinpath(*below[start:]) for start in range(len(below)))
    roots = [run, *([examples.parent] if examples is not None else [])]
    places = list(dict.fromkeys(root / image for root in reversed(roots)))
    outside = [path for path in places if not _leads_into(path, (*roots, *folders))]
    for path in (*(path for path in places if path not in outside), *tails):
        if _is_file(path):
            if any(path.resolve().is_relative_to(root.resolve()) for root in (*roots, *folders)):
                return path
            outside.append(path)  # by a link
    found = _by_name(run).get(below[-1])
    if found is None and outside:
        raise OutsideRun(outside)
    return found


def _leads_into(path: Path, roots: Sequence[Path]) -> bool:
    """Whether the path as it is written is one below a root."""
    written = Path(os.path.abspath(path))
    return any(written.is_relative_to(start) for root in roots for start in (os.path.abspath(root), root.resolve()))


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
        if _is_file(path) and path.resolve().is_relative_to(run.resolve()):
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
