"""The in-process sampler: many continuations of shared prefixes from a Hugging Face VLM, on CPU or GPU.

`Prefixes` computes questions and texts once; a `Flight` holds the requests that are sampled now; every decode step
feeds one token of every row in flight through the model's stock forward.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from chainofstep.models.calls import in_order
from chainofstep.models.checks import check_vlm
from chainofstep.models.flight import Flight
from chainofstep.models.memory import planned_positions
from chainofstep.models.prefix_attention import NAME, sampling_mode
from chainofstep.models.prefixes import Prefixes
from chainofstep.models.shareable import warn_if_copied
from chainofstep.models.vlm import VLM
from chainofstep.records import Request, Rollout


class Engine:
    """A `Sampler` over one VLM.

    `token_budget` bounds the key-value positions held at once, of prefixes and of all tokens that rows may still
    sample (None: planned from the device's free memory); a row that alone needs more than all of it is sampled by
    itself. Where memory runs out all the same, the budget is halved and sampling goes on. `progress` is called with
    (samples finished, samples of the call). `logprobs` asks for the log-probabilities of sampled tokens.

    `sampled_tokens`, `computed_tokens` (of prefixes) and `peak_kv_bytes` tell what all calls so far came to.
    `share=False` gives every row its own copy of its prefix, the plain way; models whose attention cannot take the
    shared form are sampled so, with one warning.
    """

    def __init__(
        self,
        vlm: VLM,
        token_budget: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        logprobs: bool = False,
        share: bool = True,
    ):
        if token_budget is not None and token_budget <= 0:
            raise ValueError(f"token_budget={token_budget}: give the number of key-value positions that fit in memory")
        check_vlm(vlm)
        self.vlm, self.progress, self.logprobs = vlm, progress, logprobs
        self.token_budget = token_budget or planned_positions(vlm.model)
        self.prefixes = Prefixes(vlm)
        self.sampled_tokens = self.peak_kv_bytes = 0
        self.share = share and not warn_if_copied(vlm.model)

    @property
    def computed_tokens(self) -> int:
        return self.prefixes.computed_tokens

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """For each request its `n` rollouts, in order.

        `token_ids` holds an end-of-sequence token that was sampled; `text` leaves it out. `SamplingErrors` (a
        ValueError), after all others are sampled, if requests cannot be met; it names them and holds the rest.
        """
        with self.mode():
            flight = Flight(self)
            flight.join(requests)
            finished: dict[tuple[int, int], Rollout] = {}
            total = sum(request.n for number, request in enumerate(requests) if number not in flight.failures)
            while flight.unfinished:
                rollouts = flight.advance()
                finished |= {(number, rollout.index): rollout for number, rollout in rollouts}
                if self.progress is not None and rollouts:
                    self.progress(len(finished), total)
            flight.close()
        return in_order(requests, finished, flight.failures)

    def mode(self) -> AbstractContextManager[None]:
        """What sampling happens in: no gradients, no dropout, and the shared attention."""
        return sampling_mode(self.vlm.model, NAME if self.share else None)
