"""Prefixes whose keys and values are computed once, and kept from call to call while there is room.

A question with its pictures is computed by the model's stock forward, whatever its family does with pictures. Text
that goes on from a question (a chain so far) is computed by its new tokens only: they attend to the question and to
the longest beginning of the text that is known already. So a beam's next level costs one step, not a whole chain.

Shapes: B texts, Q new tokens, P prefixes, K key-value heads, T tokens, D head size, W hidden width.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakSet

import torch
from transformers import DynamicCache

from chainofstep.models.batch import pad_right
from chainofstep.models.encode import Prompt
from chainofstep.models.pictures import PictureFeatures, is_plain, join_features, other_inputs
from chainofstep.models.prefix_attention import Extension, Layers, Level, SharedPrefix
from chainofstep.models.vlm import VLM

PREFILL_TOKENS = 16_384  # padded tokens of one forward over questions
PromptKey = tuple[str, tuple[str, ...]]  # question and pictures
Ids = tuple[int, ...]


@dataclass(eq=False)
class Slab:
    """Keys and values of prefixes that lie side by side, padded to one length; `whole` is the slab it is a part of."""

    layers: Layers
    whole: "Slab | None" = None

    def __len__(self) -> int:
        return self.layers[0][0].shape[0]

    @property
    def positions(self) -> int:
        return len(self) * self.layers[0][0].shape[2]

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    def part(self, start: int, count: int) -> "Slab":
        layers = [(keys[start : start + count], values[start : start + count]) for keys, values in self.layers]
        return Slab(layers, self.whole or self)


@dataclass(eq=False)
class Piece:
    """A question's ids, or those of text after it; the first `shared` of them lie in `base`, the others in `slab`."""

    ids: Ids
    slab: Slab
    place: int
    base: "Piece | None" = None
    shared: int = 0
    call: int = 0  # the last call that used it

    def parts(self, layer: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values [K, t, D] of its first `count` tokens, one part after another."""
        before = [] if self.base is None else self.base.parts(layer, min(count, self.shared))
        if count <= self.shared:
            return before
        keys, values = self.slab.layers[layer]
        own = count - self.shared
        return [*before, (keys[self.place, :, :own], values[self.place, :, :own])]


@dataclass(eq=False)
class Question:
    """A computed question: `offset` is what is added to a later token's index to get its position (M-RoPE)."""

    piece: Piece
    offset: int
    texts: list[Piece] = field(default_factory=list)
    call: int = 0

    def __len__(self) -> int:
        return len(self.piece.ids)


@dataclass(frozen=True)
class Text:
    """Ids after a question, of which the first `shared` are known in `base`."""

    key: PromptKey
    ids: Ids
    base: Piece | None
    shared: int

    @property
    def new(self) -> int:
        return len(self.ids) - self.shared


def common(first: Ids, second: Ids) -> int:
    """How many ids two texts begin with in common."""
    least = min(len(first), len(second))
    if first[:least] == second[:least]:
        return least
    return next(i for i in range(least) if first[i] != second[i])


class Prefixes:
    """The questions and texts of one model that are computed, and what computes more of them.

    `begin` starts a call: a model whose weights have changed since the last one loses all that was kept. Between
    calls, questions stay until `shrink` takes the least recently used, with the texts that the last call used.
    """

    def __init__(self, vlm: VLM):
        self.vlm = vlm
        self.features = PictureFeatures(vlm)
        self.questions: OrderedDict[PromptKey, Question] = OrderedDict()
        self.slabs: WeakSet[Slab] = WeakSet()
        self.call = 0
        self.weights: tuple[tuple[int, int], ...] = ()
        self.computed_tokens = 0

    @property
    def positions(self) -> int:
        """Key-value positions held, by what is kept and by whatever still uses a prefix."""
        return sum(slab.positions for slab in self.slabs)

    @property
    def nbytes(self) -> int:
        return sum(slab.nbytes for slab in self.slabs)

    def begin(self) -> None:
        weights = _fingerprint(self.vlm)
        if weights != self.weights:
            self.forget()
        self.weights = weights
        self.call += 1

    def end(self, room: int) -> None:
        """End a call: texts that it did not use are forgotten, and questions until no more than `room` is held."""
        for question in self.questions.values():
            if question.call == self.call:
                question.texts = [text for text in question.texts if text.call == self.call]
        self.call += 1
        self.shrink(room)

    def forget(self) -> None:
        """Forget everything, as after a change of weights that torch does not count (`.data`, an adapter's switch)."""
        self.questions.clear()
        self.features.clear()

    def shrink(self, room: int) -> None:
        """Forget the least recently used questions that this call has not used, until at most `room` is held."""
        for key, question in list(self.questions.items()):
            if self.positions <= room:
                return
            if question.call != self.call:
                del self.questions[key]

    # Questions

    def compute(self, prompts: Mapping[PromptKey, Prompt]) -> list[Question]:
        """The questions of these prompts, in order; those that are not known are computed."""
        fresh = [key for key in prompts if key not in self.questions]
        for keys in _batches(prompts, fresh):
            self._compute({key: prompts[key] for key in keys})
        for key in prompts:
            self.questions[key].call = self.call
            self.questions.move_to_end(key)
        return [self.questions[key] for key in prompts]

    def _compute(self, prompts: Mapping[PromptKey, Prompt]) -> None:
        """One forward over questions that may lie side by side."""
        model, device = self.vlm.model, self.vlm.device
        features = self.features.of({key[1]: prompt for key, prompt in prompts.items()})
        images = [features[key[1]] for key in prompts if key[1]]
        rows = [prompt.ids for prompt in prompts.values()]
        # Padding stands at the end, where causal attention never lets a real token see it: no mask is needed.
        ids = pad_right(rows, int(rows[0][-1])).to(device, non_blocking=True)
        others = other_inputs(next(iter(prompts.values())), device) if len(prompts) == 1 else {}
        pictures = {"mm_encoder_outputs": {"image": join_features(images)}} if images else {}
        if hasattr(model.model, "rope_deltas"):
            model.model.rope_deltas = None  # of the question before
        cache = DynamicCache()
        model.model(input_ids=ids, past_key_values=cache, use_cache=True, **others, **pictures)
        deltas = getattr(model.model, "rope_deltas", None)
        slab = self.own(Slab([(layer.keys, layer.values) for layer in cache.layers]))
        self.computed_tokens += sum(len(row) for row in rows)
        for place, (key, prompt) in enumerate(prompts.items()):
            offset = 0 if deltas is None else int(deltas[place, 0])
            self.questions[key] = Question(Piece(tuple(prompt.ids.tolist()), slab, place), offset)

    # Texts

    def find(self, key: PromptKey, ids: Ids) -> Text:
        """What is known of a text's beginning; its question is computed."""
        best, shared = None, 0
        for piece in self.questions[key].texts:
            if (count := common(piece.ids, ids)) > shared:
                best, shared = piece, count
        if best is not None:
            best.call = self.call
        return Text(key, ids, best, shared)

    def extend(self, texts: Sequence[Text]) -> tuple[torch.Tensor, list[Piece]]:
        """Compute the new tokens of texts, alike in having a base or none: hidden states [B, Q, W], and the pieces."""
        order = _grouped(texts)
        rows = [texts[i] for i in order]
        questions = list(dict.fromkeys(row.key for row in rows))
        levels = [self.question_level(questions, [questions.index(row.key) for row in rows])]
        if rows[0].base is not None:
            levels.append(self._base_level(rows))
        part = Extension(levels)
        device = self.vlm.device
        last = self.vlm.tokenizer.pad_token_id or 0
        ids = pad_right([torch.tensor(row.ids[row.shared :]) for row in rows], last).to(device, non_blocking=True)
        offsets = torch.tensor([self.questions[row.key].offset for row in rows], device=device)
        begin = part.shared.before + offsets
        positions = begin[:, None] + torch.arange(ids.shape[1], device=device)
        output = self.vlm.model.model(
            input_ids=ids, position_ids=positions, use_cache=False, shared_prefix=SharedPrefix([part])
        )
        self.computed_tokens += sum(row.new for row in rows)
        slab = self.own(Slab(part.layers))
        places = {number: place for place, number in enumerate(order)}
        hidden = output.last_hidden_state
        if order != list(range(len(order))):
            hidden = hidden[[places[i] for i in range(len(texts))]]
        pieces = [Piece(text.ids, slab, places[i], text.base, text.shared, self.call) for i, text in enumerate(texts)]
        return hidden, pieces

    def texts(self, wanted: Sequence[tuple[PromptKey, Ids]]) -> list[Piece]:
        """Pieces that begin with these texts, in order; what is not known is computed, and kept."""
        found = [self.find(key, ids) for key, ids in wanted]
        pieces = [text.base for text in found]
        for numbers in forwards(found, PREFILL_TOKENS):
            _, computed = self.extend([found[i] for i in numbers])
            for i, piece in zip(numbers, computed, strict=True):
                self.keep(found[i].key, piece)
                pieces[i] = piece
        return [piece for piece in pieces if piece is not None]

    def keep(self, key: PromptKey, piece: Piece) -> None:
        """Keep a text for later calls."""
        self.questions[key].texts.append(piece)

    # Levels

    def question_level(
        self, keys: Sequence[PromptKey], owner: Sequence[int], seen: Sequence[int] | None = None
    ) -> Level:
        """The level of these questions for rows that hang on them; a row sees all of its question unless told."""
        device = self.vlm.device
        pieces = [self.questions[key].piece for key in keys]
        visible = [len(pieces[number].ids) for number in owner] if seen is None else seen
        slab = self.gather(pieces, [len(piece.ids) for piece in pieces])
        owners = torch.tensor(owner, device=device)
        return Level(slab.layers, owners, torch.tensor(visible, device=device), torch.zeros_like(owners))

    def text_level(
        self, pieces: Sequence[Piece], owner: Sequence[int], seen: Sequence[int], start: Sequence[int]
    ) -> Level:
        """The level of these texts; row b sees the first `seen[b]` tokens, after a question of `start[b]`."""
        device = self.vlm.device
        most = [0] * len(pieces)
        for count, number in zip(seen, owner, strict=True):
            most[number] = max(most[number], count)
        slab = self.gather(pieces, most)
        return Level(slab.layers, *(torch.tensor(list(numbers), device=device) for numbers in (owner, seen, start)))

    def _base_level(self, rows: Sequence[Text]) -> Level:
        bases = [row.base for row in rows if row.base is not None]
        distinct = list(dict.fromkeys(bases))
        lengths = [len(self.questions[row.key]) for row in rows]
        return self.text_level(
            distinct, [distinct.index(base) for base in bases], [row.shared for row in rows], lengths
        )

    def own(self, slab: Slab) -> Slab:
        """Count a slab for as long as it lives."""
        self.slabs.add(slab)
        return slab

    def gather(self, pieces: Sequence[Piece], counts: Sequence[int]) -> Slab:
        """The first `counts` tokens of pieces side by side: a part of their slab if they lie so, else a copy."""
        slab, start = pieces[0].slab, pieces[0].place
        if all(p.slab is slab and p.place == start + i and p.base is None for i, p in enumerate(pieces)):
            return slab if len(pieces) == len(slab) else slab.part(start, len(pieces))
        copied = self.own(Slab([self._side_by_side(pieces, counts, layer) for layer in range(len(slab.layers))]))
        for place, (piece, count) in enumerate(zip(pieces, counts, strict=True)):
            if count == len(piece.ids):  # whole: the copy takes the place of what it was made of
                piece.slab, piece.place, piece.base, piece.shared = copied, place, None, 0
        return copied

    @staticmethod
    def _side_by_side(pieces: Sequence[Piece], counts: Sequence[int], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = pieces[0].slab.layers[layer]
        # Zeros, not whatever memory holds: padding is masked by a sum, and a NaN would outlive it.
        both = tuple(like.new_zeros(len(pieces), like.shape[1], max(counts), like.shape[3]) for like in (keys, values))
        for place, (piece, count) in enumerate(zip(pieces, counts, strict=True)):
            begin = 0
            for part in piece.parts(layer, count):
                end = begin + part[0].shape[1]
                both[0][place, :, begin:end], both[1][place, :, begin:end] = part
                begin = end
        return both[0], both[1]


def forwards(texts: Sequence[Text], tokens: int) -> Iterator[list[int]]:
    """Numbers of the texts that have new tokens, in groups to compute together: alike in length and in having a base.

    A group has at most so many padded `tokens`, or one text.
    """
    longest: dict[PromptKey, int] = {}
    for text in texts:
        longest[text.key] = max(text.new, longest.get(text.key, 0))
    waiting = [i for i, text in enumerate(texts) if text.new]
    group: list[int] = []
    # Texts of one question are about as long as each other, and side by side they ask it together.
    for i in sorted(
        waiting, key=lambda i: (texts[i].base is None, -longest[texts[i].key], texts[i].key, -texts[i].new)
    ):
        width = max(longest[texts[j].key] for j in [*group[:1], i])
        full = group and (len(group) + 1) * width > tokens
        if full or (group and (texts[i].base is None) != (texts[group[0]].base is None)):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _grouped(texts: Sequence[Text]) -> list[int]:
    """Numbers of texts, those of one question and of one base side by side."""
    questions = {key: i for i, key in enumerate(dict.fromkeys(text.key for text in texts))}
    bases = {base: i for i, base in enumerate(dict.fromkeys(text.base for text in texts))}
    return sorted(range(len(texts)), key=lambda i: (questions[texts[i].key], bases[texts[i].base]))


def _batches(prompts: Mapping[PromptKey, Prompt], keys: Sequence[PromptKey]) -> Iterator[list[PromptKey]]:
    """Plain questions side by side, as many as `PREFILL_TOKENS` allows; any other by itself."""
    group: list[PromptKey] = []
    for key in keys:
        longest = max(len(prompts[other].ids) for other in [*group, key])
        alone = not is_plain(prompts[key]) or (group and not is_plain(prompts[group[0]]))
        if group and (alone or (len(group) + 1) * longest > PREFILL_TOKENS):
            yield group
            group = []
        group.append(key)
    if group:
        yield group


def _fingerprint(vlm: VLM) -> tuple[tuple[int, int], ...]:
    """Where each weight lies and how often it was written to: another one means other keys and values."""
    return tuple(
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in vlm.model.parameters()
    )
