"""The ways in which servers of language models fail, for the stand-in to fail in."""

import hashlib
import random
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Fault:
    """Which requests a fault strikes: the first so many, every k-th, a share of them."""

    first: int = 0
    every: int = 0
    rate: float = 0.0


@dataclass(frozen=True)
class Faults:
    """What goes wrong. If several faults would strike a request, the one named first here does.

    The share that `rate` names is drawn from the seed, the request's body and how often that body was seen, so it
    hits the same requests in whatever order they come.
    """

    hang: Fault = Fault()  # no answer at all
    busy: Fault = Fault()  # 429 with `Retry-After`
    server_error: Fault = Fault()  # 500
    refused: Fault = Fault()  # 400, as for a prompt that is too long
    cut: Fault = Fault()  # the connection closes in the middle of the body
    not_json: Fault = Fault()
    error_object: Fault = Fault()  # 200 with an error in place of choices
    error_text: Fault = Fault()  # 200 with an error message for a reply, which no client can tell from one
    empty: Fault = Fault()  # 200 with empty content
    half: Fault = Fault()  # 200 with half of the text, finish_reason "length"
    drip: Fault = Fault()  # the body comes byte by byte, without end in any useful time
    retry_after: str = "0"  # header of a 429: seconds, or a date
    seed: int = 0

    def strike(self, number: int, body: bytes, seen: int) -> str | None:
        """The fault of request `number` (from 1), whose body was seen `seen` times before."""
        digest = hashlib.sha256(body).hexdigest()
        draw = random.Random(f"{self.seed}/{digest}/{seen}").random()
        for name in FAULT_NAMES:
            fault: Fault = getattr(self, name)
            if number <= fault.first or (fault.every and number % fault.every == 0) or draw < fault.rate:
                return name
            draw -= fault.rate
        return None


FAULT_NAMES = tuple(field.name for field in fields(Faults) if field.type is Fault)
NO_FAULTS = Faults()
