"""Drawing on a 96 x 96 picture, thought of as 6 x 6 cells of 16 pixels."""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 96
CELL = 16
Colour = tuple[int, int, int]
PAPER = (250, 249, 245)
INK = (40, 40, 48)
Place = tuple[float, float]  # (column, row), in cells
COLOURS: dict[str, Colour] = {
    "red": (214, 58, 52),
    "blue": (52, 102, 204),
    "green": (48, 150, 84),
    "yellow": (236, 190, 46),
}


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


class Canvas:
    """A picture under work; positions are (column, row) cells, which may be fractions."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (SIZE, SIZE), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def line(self, start: Place, end: Place, width: int = 1, colour: Colour = INK) -> None:
        points = [(x * CELL, y * CELL) for x, y in (start, end)]
        self.pen.line(points, fill=colour, width=width)

    def box(self, corner: Place, size: Place, fill: Colour | None = None, outline: Colour = INK) -> None:
        x, y = corner[0] * CELL, corner[1] * CELL
        self.pen.rectangle((x, y, x + size[0] * CELL - 1, y + size[1] * CELL - 1), fill=fill, outline=outline)

    def text(self, cell: Place, text: str, colour: Colour = INK, size: int = 14) -> None:
        """Text centred in a cell."""
        centre = ((cell[0] + 0.5) * CELL, (cell[1] + 0.5) * CELL)
        self.pen.text(centre, text, fill=colour, font=_font(size), anchor="mm")

    def digit(self, cell: Place, pixels: np.ndarray, shift: tuple[int, int]) -> None:
        """A handwritten digit (8 x 8, 0 to 16) as dark ink, 16 pixels wide, shifted by a few pixels."""
        shade = np.clip(pixels * 16, 0, 255).astype(np.uint8)
        mask = Image.fromarray(shade).resize((CELL, CELL), Image.Resampling.BILINEAR)
        corner = (int(cell[0] * CELL) + shift[0], int(cell[1] * CELL) + shift[1])
        self.image.paste(INK, corner, mask)

    def shape(self, cell: Place, shape: str, colour: str) -> None:
        """A coloured shape filling most of a cell."""
        x, y = cell[0] * CELL + CELL / 2, cell[1] * CELL + CELL / 2
        fill = COLOURS[colour]
        if shape == "circle":
            self.pen.ellipse((x - 7, y - 7, x + 6, y + 6), fill=fill, outline=INK)
        elif shape == "square":
            self.pen.rectangle((x - 6, y - 6, x + 5, y + 5), fill=fill, outline=INK)
        elif shape == "triangle":
            self.pen.polygon([(x, y - 7), (x + 7, y + 6), (x - 7, y + 6)], fill=fill, outline=INK)
        else:
            self.pen.polygon(_star(x, y, 7.5, 3.2), fill=fill, outline=INK)

    def noisy(self, generator: np.random.Generator, amount: float) -> Image.Image:
        """The finished picture with Gaussian pixel noise of `amount` grey levels."""
        pixels = np.asarray(self.image, dtype=np.float32)
        noise = generator.normal(0.0, amount, size=(SIZE, SIZE, 1)).astype(np.float32)
        return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _star(x: float, y: float, outer: float, inner: float) -> list[tuple[float, float]]:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, outer, inner)
    return [(float(x + r * np.cos(a)), float(y + r * np.sin(a))) for a, r in zip(angles, radii, strict=True)]
