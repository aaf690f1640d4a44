"""One client for every OpenAI-compatible endpoint: `ask` sends prompts, keeps every reply and says what it cost.

`stand_in` is a server without a model, for tests and for trying things out.
"""

from chainofstep.llm.client import ask
from chainofstep.llm.estimate import Estimate, estimate, estimated_prompt_tokens
from chainofstep.llm.records import Endpoint, EndpointDown, Failure, Outcome, Prompt, Reply, Spending

__all__ = [
    "Endpoint",
    "EndpointDown",
    "Estimate",
    "Failure",
    "Outcome",
    "Prompt",
    "Reply",
    "Spending",
    "ask",
    "estimate",
    "estimated_prompt_tokens",
]
