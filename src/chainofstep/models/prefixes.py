"""Prefixes whose keys and values are computed once, and kept from call to call while there is room.

A question with its pictures is computed by the model's stock forward, whatever its family does with pictures. Text
that goes on from a question (a chain so far) is computed by its new tokens only: they attend to the question and to
the longest beginning of the text that is known already. So a beam's next level costs one step, not a whole chain.

Shapes: B texts, Q new tokens, P prefixes, K key-value heads, T tokens, D head size, W hidden width.
"""

from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakSet

import torch
from transformers import DynamicCache

from chainofstep.models.batch import PromptCache, pad_right
from chainofstep.models.encode import Prompt, PromptKey
from chainofstep.models.levels import Level
from chainofstep.models.memory import to_device
from chainofstep.models.packing import Ids, PackedRow, batches, common, pack, padded
from chainofstep.models.pictures import PictureFeatures, is_plain, join_features, other_inputs
from chainofstep.models.prefix_attention import Extension, SharedPrefix
from chainofstep.models.slabs import Piece, Slab, gathered, side_by_side
from chainofstep.models.vlm import VLM
from chainofstep.records import Example

PREFILL_TOKENS = 16_384  # padded tokens of one forward over questions


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


@dataclass(frozen=True)
class Extended:
    """One forward: hidden states [B, Q, W], and of each text its number, row, new tokens' columns, and piece."""

    hidden: torch.Tensor
    texts: list[tuple[int, int, list[int], Piece]]


class Prefixes:
    """The questions and texts of one model that are computed, and what computes more of them.

    `begin` starts a call: a model whose weights have changed since the last one loses all that was kept. Between
    calls, questions stay until `shrink` takes the least recently used, with the texts that the last call used.
    """

    def __init__(self, vlm: VLM):
        self.vlm = vlm
        self.prompts = PromptCache(vlm, newest=True)
        self.features = PictureFeatures(vlm)
        self.questions: OrderedDict[PromptKey, Question] = OrderedDict()
        self.slabs: WeakSet[Slab] = WeakSet()
        self.prefill_tokens = PREFILL_TOKENS
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

    def retreat(self) -> None:
        """After running out of memory: forget everything, and compute half as much at once from now on."""
        self.forget()
        self.prefill_tokens = max(1, self.prefill_tokens // 2)

    def shrink(self, room: int, needed: Container[PromptKey] = ()) -> None:
        """Forget the least recently used questions, those `needed` excepted, until at most `room` is held."""
        for key in list(self.questions):
            if self.positions <= room:
                return
            if key not in needed:
                del self.questions[key]

    # Questions

    def compute(self, examples: Mapping[PromptKey, Example]) -> list[Question]:
        """The questions of these examples, in order; those that are not known are computed."""
        fresh = {key: example for key, example in examples.items() if key not in self.questions}
        for prompts in _batches(self.prompts, fresh, self.prefill_tokens):
            self._compute(prompts)
        for key in examples:
            self.questions[key].call = self.call
            self.questions.move_to_end(key)
        return [self.questions[key] for key in examples]

    def _compute(self, prompts: Mapping[PromptKey, Prompt]) -> None:
        """One forward over questions that may lie side by side."""
        model, device = self.vlm.model, self.vlm.device
        features = self.features.of({key[1]: prompt for key, prompt in prompts.items()})
        images = [features[key[1]] for key in prompts if key[1]]
        rows = [prompt.ids for prompt in prompts.values()]
        # Padding stands at the end, where causal attention never lets a real token see it: no mask is needed.
        ids = to_device(pad_right(rows, int(rows[0][-1])), device)
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

    def extend(self, texts: Sequence[Text], tokens: int) -> Iterator[Extended]:
        """Compute what is new of texts, in forwards of at most so many padded tokens; a text with nothing new has none.

        New tokens that texts have in common are computed once.
        """
        fresh = [i for i, text in enumerate(texts) if text.new]
        rows = pack(
            [texts[i].ids[texts[i].shared :] for i in fresh],
            [(texts[i].key, texts[i].base, texts[i].shared) for i in fresh],
        )
        # Rows with a base and rows without attend to different levels.
        for based in (False, True):
            for some in batches([row for row in rows if (_root(row)[1] is not None) == based], tokens):
                yield self._extend(some, texts, fresh)

    def _extend(self, rows: list[PackedRow], texts: Sequence[Text], fresh: Sequence[int]) -> Extended:
        rows = _grouped(rows)
        keys = list(dict.fromkeys(_root(row)[0] for row in rows))
        levels = [self.question_level(keys, [keys.index(_root(row)[0]) for row in rows])]
        if _root(rows[0])[1] is not None:
            levels.append(self._base_level(rows))
        device = self.vlm.device
        ids, depths, visible = padded(rows, device)
        offsets = torch.tensor([self.questions[_root(row)[0]].offset for row in rows], device=device)
        part = Extension(levels, depths, visible)
        positions = (part.shared.before + offsets)[:, None] + depths
        output = self.vlm.model.model(
            input_ids=ids, position_ids=positions, use_cache=False, shared_prefix=SharedPrefix([part])
        )
        self.computed_tokens += sum(len(row) for row in rows)
        slab = self.own(Slab(part.layers))
        found = []
        for place, row in enumerate(rows):
            for number, path in row.paths:
                text = texts[fresh[number]]
                piece = Piece(text.ids, slab, place, path, text.base, text.shared, self.call)
                found.append((fresh[number], place, path, piece))
        return Extended(output.last_hidden_state, found)

    def texts(self, wanted: Sequence[tuple[PromptKey, Ids]]) -> list[Piece]:
        """Pieces that begin with these texts, in order; what is not known is computed, and kept."""
        found = [self.find(key, ids) for key, ids in wanted]
        pieces = [text.base for text in found]
        for extended in self.extend(found, self.prefill_tokens):
            for number, _, _, piece in extended.texts:
                self.keep(found[number].key, piece)
                pieces[number] = piece
        return [piece for piece in pieces if piece is not None]

    def keep(self, key: PromptKey, piece: Piece) -> None:
        """Keep a text for later calls."""
        self.questions[key].texts.append(piece)

    # Levels

    def question_level(
        self, keys: Sequence[PromptKey], owner: Sequence[int], seen: Sequence[int] | None = None
    ) -> Level:
        """The level of these questions for rows that hang on them; a row sees all of its question unless told."""
        pieces = [self.questions[key].piece for key in keys]
        visible = [len(pieces[number].ids) for number in owner] if seen is None else seen
        slab = self.gather(pieces, [len(piece.ids) for piece in pieces])
        return self._level(slab, owner, visible, [0] * len(owner))

    def text_level(
        self, pieces: Sequence[Piece], owner: Sequence[int], seen: Sequence[int], start: Sequence[int]
    ) -> Level:
        """The level of these texts; row b sees the first `seen[b]` tokens, after a question of `start[b]`."""
        return self._level(self.gather(pieces, _most(seen, owner, len(pieces))), owner, seen, start)

    def joined_level(
        self, keys: Sequence[PromptKey], pieces: Sequence[Piece], owner: Sequence[int], seen: Sequence[int]
    ) -> Level:
        """One level of texts with their questions before them, copied: where that is little, one pass saves time.

        Row b sees the whole question and the first `seen[b]` tokens of its text.
        """
        counts = _most(seen, owner, len(pieces))
        questions = [self.questions[key].piece for key in keys]
        layers = []
        for layer in range(len(pieces[0].slab.layers)):
            both = zip(questions, pieces, counts, strict=True)
            parts = [[*q.parts(layer, len(q.ids)), *text.parts(layer, count)] for q, text, count in both]
            layers.append(side_by_side(parts))
        visible = [len(questions[number].ids) + count for number, count in zip(owner, seen, strict=True)]
        return self._level(self.own(Slab(layers)), owner, visible, [0] * len(owner))

    def _level(self, slab: Slab, owner: Sequence[int], seen: Sequence[int], start: Sequence[int]) -> Level:
        owners, visible, first = (torch.tensor(list(some), device=self.vlm.device) for some in (owner, seen, start))
        return Level(slab.layers, owners, visible, first, slab)

    def _base_level(self, rows: Sequence[PackedRow]) -> Level:
        roots = [_root(row) for row in rows]
        bases = list(dict.fromkeys(base for _, base, _ in roots if base is not None))
        owner = [bases.index(base) for _, base, _ in roots if base is not None]
        lengths = [len(self.questions[key]) for key, _, _ in roots]
        return self.text_level(bases, owner, [shared for _, _, shared in roots], lengths)

    def own(self, slab: Slab) -> Slab:
        """Count a slab for as long as it lives."""
        self.slabs.add(slab)
        return slab

    def gather(self, pieces: Sequence[Piece], counts: Sequence[int]) -> Slab:
        """The first `counts` tokens of pieces side by side: a part of their slab if they lie so, else a copy."""
        slab, start = pieces[0].slab, pieces[0].place
        if all(p.slab is slab and p.place == start + i and p.columns is p.base is None for i, p in enumerate(pieces)):
            return slab if len(pieces) == len(slab) else slab.part(start, len(pieces))
        copied = self.own(Slab([gathered(pieces, counts, layer) for layer in range(len(slab.layers))]))
        for place, (piece, count) in enumerate(zip(pieces, counts, strict=True)):
            if count == len(piece.ids):  # whole: the copy takes the place of what it was made of
                piece.slab, piece.place, piece.columns, piece.base, piece.shared = copied, place, None, None, 0
        return copied


def _most(seen: Sequence[int], owner: Sequence[int], count: int) -> list[int]:
    """The most that any row sees of each of `count` texts."""
    most = [0] * count
    for tokens, number in zip(seen, owner, strict=True):
        most[number] = max(most[number], tokens)
    return most


def _root(row: PackedRow) -> tuple[PromptKey, Piece | None, int]:
    """The question, the base and how much of it a row's texts go on from."""
    return row.root  # type: ignore[return-value]


def _grouped(rows: Sequence[PackedRow]) -> list[PackedRow]:
    """Rows of one question side by side, and of those the rows of one base."""
    questions = {key: i for i, key in enumerate(dict.fromkeys(_root(row)[0] for row in rows))}
    bases = {base: i for i, base in enumerate(dict.fromkeys(_root(row)[1] for row in rows))}
    return sorted(rows, key=lambda row: (questions[_root(row)[0]], bases[_root(row)[1]]))


def _batches(
    prompts: PromptCache, examples: Mapping[PromptKey, Example], tokens: int
) -> Iterator[dict[PromptKey, Prompt]]:
    """Plain questions side by side, at most so many padded `tokens` or one question; any other by itself."""
    group: dict[PromptKey, Prompt] = {}
    longest = 0
    for key, example in examples.items():
        prompt = prompts.encode(example)
        longest = max(longest, len(prompt.ids))
        alone = not all(is_plain(other) for other in (prompt, *group.values()))
        if group and (alone or (len(group) + 1) * longest > tokens):
            yield group
            group, longest = {}, len(prompt.ids)
        group[key] = prompt
    if group:
        yield group


def _fingerprint(vlm: VLM) -> tuple[tuple[int, int], ...]:
    """Where each weight lies and how often it was written to: another one means other keys and values."""
    return tuple(
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in vlm.model.parameters()
    )
