"""How long rows are in tokens, counted without opening their pictures.

Encoding every picture of a large set before the first update would take hours. How many tokens pictures become depends
on their sizes alone, which stand in the first bytes of their files.
"""

from collections.abc import Callable, Sequence

from PIL import Image

from chainofstep.models.batch import assistant_ids
from chainofstep.models.encode import encode_prompt, messages, open_picture, prompt_key
from chainofstep.models.vlm import VLM
from chainofstep.records import Example
from chainofstep.training.distributed import sharded_launch, shared

Size = tuple[int, int]
Row = tuple[Example, Sequence[str]]


class PromptLengths:
    """Tokens of prompts; one prompt is encoded, with blank pictures, for each new set of picture sizes."""

    def __init__(self, vlm: VLM):
        self.vlm = vlm
        self.pictures: dict[tuple[Size, ...], int] = {}  # tokens that pictures of these sizes add to a prompt
        self.known: dict[tuple[str, tuple[str, ...]], int] = {}

    def of(self, example: Example) -> int:
        """Tokens of the encoded prompt; ValueError if a picture cannot be read."""
        key = prompt_key(example)
        if key not in self.known:
            self.known[key] = self._count(example)
        return self.known[key]

    def _count(self, example: Example) -> int:
        sizes = tuple(picture_size(path) for path in example.images)
        written = self._written(example)
        if sizes not in self.pictures:
            blank = [Image.new("RGB", size) for size in sizes]
            self.pictures[sizes] = len(encode_prompt(self.vlm, example, blank).ids) - written
        return written + self.pictures[sizes]

    def _written(self, example: Example) -> int:
        """Tokens of the chat with a placeholder for each picture."""
        asked = messages(self.vlm, example)
        text = self.vlm.processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        return len(self.vlm.tokenizer(text, add_special_tokens=False).input_ids)


def picture_size(path: str) -> Size:
    """Width and height from the head of the file; ValueError in one line if it is missing or no picture."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, Image.DecompressionBombError):
        return open_picture(path).size


def row_lengths(vlm: VLM, count: int, row: Callable[[int], Row], ending: int = 0) -> list[int]:
    """Tokens of the rows 0 .. count - 1: prompt, the longest of the row's texts, and `ending` more.

    Each process counts its share.
    """
    prompts = PromptLengths(vlm)

    def length(number: int) -> int:
        example, texts = row(number)
        return prompts.of(example) + max(len(assistant_ids(vlm, text)) for text in texts) + ending

    return shared(count, lambda numbers: [length(number) for number in numbers])


def check_pictures(examples: Sequence[Example]) -> None:
    """ValueError where weights are sharded and only some examples have pictures.

    A process that computes the vision tower waits there for all others, for it has only its shard of it.
    """
    without = sum(not example.images for example in examples)
    if sharded_launch() and 0 < without < len(examples):
        raise ValueError(
            f"{without} of {len(examples)} rows have no pictures: FSDP and ZeRO need pictures in all rows or in none;"
            " train on them apart, or use accelerate_configs/ddp.yaml"
        )
