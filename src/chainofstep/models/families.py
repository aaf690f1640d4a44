"""What families of vision-language models do differently, all in one place: no other file asks which family a model is.

Most differences are the stock classes' own business: positions in three parts, windows, tiles, pictures whose tokens
see one another. What is left for whoever uses the classes is little, and each function below says which families need
it. `processors.py` beside this file is about loading a processor where torchvision is absent.

Shapes: B rows, T tokens of the longest row.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional

Found = TypeVar("Found")
#: What a token is, one number for each token of the prompt [1, P]: Qwen takes positions from it, Gemma 3 which tokens
#: see one another. 0 is text.
TOKEN_TYPES = frozenset({"token_type_ids", "mm_token_type_ids"})
#: A processor class that goes with a model type beside the one that transformers names for it: Pixtral is a LLaVA.
FURTHER_PROCESSORS = {"llava": "PixtralProcessor"}
#: Placeholders that a processor replaces by a picture's or video's tokens wherever it finds them in a text. They need
#: not be special tokens of the tokenizer (Gemma's and LLaVA's are not always).
_PLACEHOLDERS = ("image_token", "boi_token", "eoi_token", "video_token")


def join_tensors(prompts: Sequence[Mapping[str, torch.Tensor]], length: int) -> dict[str, torch.Tensor]:
    """The processor's tensors of several prompts as those of one batch whose rows have `length` tokens.

    - Types of tokens go on with 0, text, to the end of the row.
    - All else lies end to end in the order of the pictures; prompts without pictures add nothing. What is smaller is
      filled up with zeros, which each family knows to leave out: further tiles of a picture (LLaVA-NeXT and
      LLaVA-OneVision count them from `image_sizes`), further pictures of a prompt (Idefics 3 and SmolVLM drop
      pictures of zeros), further rows and columns (Pixtral cuts them off by `image_sizes`). Qwen's patches and
      InternVL's tiles have one size, and their number is no matter.
    """
    names = dict.fromkeys(name for prompt in prompts for name in prompt)
    joined = {}
    for name in names:
        tensors = [prompt[name] for prompt in prompts if name in prompt]
        if name in TOKEN_TYPES:
            assert len(tensors) == len(prompts), f"{name} of some prompts only"
            joined[name] = torch.cat([longer(tensor, length) for tensor in tensors])
        else:
            joined[name] = _end_to_end(tensors)
    return joined


def longer(types: torch.Tensor, length: int) -> torch.Tensor:
    """Types of a prompt's tokens [1, P], gone on with the type of text to [1, length]."""
    return functional.pad(types, (0, length - types.shape[1]))


def _end_to_end(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tensor along the first dimension, the others filled up with zeros to the largest."""
    sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return torch.cat([_filled(tensor, sizes) for tensor in tensors])


def _filled(tensor: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    if list(tensor.shape[1:]) == list(sizes):
        return tensor
    missing = [wanted - there for wanted, there in zip(sizes, tensor.shape[1:], strict=True)]
    # `pad` takes the last dimension first, and before and after of each.
    return functional.pad(tensor, [count for size in reversed(missing) for count in (0, size)])


def _kept(function: Callable[[Any], Found]) -> Callable[[Any], Found]:
    """Ask `function` once for a processor, and again when tokens or another template were given to it.

    It is asked for every row of a training set, and takes a millisecond.
    """
    known: WeakKeyDictionary[Any, tuple[tuple[int, str], Found]] = WeakKeyDictionary()

    @wraps(function)
    def found(processor: Any) -> Found:
        state = (len(processor.tokenizer), str(processor.chat_template))
        if processor not in known or known[processor][0] != state:
            known[processor] = (state, function(processor))
        return known[processor][1]

    return found


@_kept
def control_texts(processor: Any) -> tuple[str, ...]:
    """Texts that tokenizer or processor would take for a control token: special tokens, and picture placeholders."""
    tokenizer = processor.tokenizer
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    placeholders = (getattr(processor, name, None) for name in _PLACEHOLDERS)
    named = (*tokenizer.all_special_tokens, *added, *placeholders)
    return tuple(dict.fromkeys(text for text in named if isinstance(text, str) and text))


@_kept
def end_of_turn(processor: Any) -> int:
    """Id of the control token with which the chat template ends an assistant's turn.

    Gemma 3 ends it with `<end_of_turn>`, Idefics 3 with `<end_of_utterance>`, InternLM decoders with `<|im_end|>`:
    not what their tokenizers call the end of a sequence. That one is taken where a template writes none (LLaVA 1.5).
    """
    said = "Said."
    turns = [("user", "Asked."), ("assistant", said)]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    written = processor.apply_chat_template(messages, tokenize=False)
    ids = processor.tokenizer(written[written.rindex(said) + len(said) :], add_special_tokens=False).input_ids
    controls = set(processor.tokenizer.convert_tokens_to_ids(list(control_texts(processor))))
    return int(next((token for token in ids if token in controls), processor.tokenizer.eos_token_id))


def needs_start(processor: Any, text: str) -> bool:
    """Whether the tokenizer shall put its start of sequence before a chat: yes, unless the template wrote it.

    LLaVA's templates leave it to the tokenizer, those of Gemma 3 and Llama 3 write it.
    """
    start = processor.tokenizer.bos_token
    return not (start and text.startswith(start))
