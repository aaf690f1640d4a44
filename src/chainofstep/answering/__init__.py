"""Answering one question while someone watches: steps as they close, each with its score.

`open_models` loads a policy and perhaps a PRM, `Models.caller()` gives each question a sampler and scorer of its own,
`answer` spends samples by a search method, `complete` samples texts. Both tell `watch` what happens on the way.
"""

from chainofstep.answering.answer import answer
from chainofstep.answering.complete import Completion, complete
from chainofstep.answering.events import AnswerMade, Event, Progress, StepMade, TextMade, Watch, ignore
from chainofstep.answering.models import Caller, Models, open_models
from chainofstep.models.calls import Cancelled

__all__ = [
    "AnswerMade",
    "Caller",
    "Cancelled",
    "Completion",
    "Event",
    "Models",
    "Progress",
    "StepMade",
    "TextMade",
    "Watch",
    "answer",
    "complete",
    "ignore",
    "open_models",
]
