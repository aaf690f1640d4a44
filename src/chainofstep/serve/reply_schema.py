"""What replies hold, for the OpenAPI document: `replies` makes them, and the tests hold them against this."""

from typing import Literal

from pydantic import BaseModel, Field

from chainofstep.serve.schema import MethodName

Score = float | None
Finish = Literal["stop", "length"]


class ErrorFields(BaseModel):
    message: str = Field(description="One line.")
    type: str
    param: str | None = Field(description="The field at fault.")
    code: str | None


class ErrorReply(BaseModel):
    """Any refusal."""

    error: ErrorFields


# Chat completions


class StepReply(BaseModel):
    name: str
    thought: str
    reflection: str
    score: Score = Field(description="The PRM's probability that the step is right.")


class ChainReply(BaseModel):
    """The closed part of what was said."""

    steps: list[StepReply]
    answer: str | None
    score: Score = Field(description="Of the answer.")
    problem: str = Field(description="Why the text is no whole chain; empty for one.")
    unscored: str = Field(description="Why the PRM could not score the chain; empty where it did, or was not asked.")


class MessageReply(BaseModel):
    role: Literal["assistant"]
    content: str = Field(description="The answer; without one, the text.")
    reasoning_content: str | None = Field(description="The steps as plain text.")
    refusal: None
    chain: ChainReply


class TokenReply(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None = Field(description="null for a part of a character.")
    top_logprobs: list[str] = Field(description="Always empty.")


class LogprobsReply(BaseModel):
    content: list[TokenReply]
    refusal: None


class ChoiceReply(BaseModel):
    index: int
    message: MessageReply
    finish_reason: Finish
    logprobs: LogprobsReply | None
    token_ids: list[int] | None = None


class UsageReply(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CostReply(BaseModel):
    sampled_tokens: int
    scored_chains: int
    scored_steps: int
    seconds: float


class CandidateReply(BaseModel):
    text: str
    count: int = Field(description="Samples that came to this text.")
    value: float | None = Field(description="By which candidates are compared.")
    kept: bool
    problem: str


class SearchReply(BaseModel):
    """What a search looked at."""

    method: MethodName
    n: int
    width: int
    failure: str = Field(description="Why there is no answer; empty where there is one.")
    candidates: list[list[CandidateReply]] = Field(description="Level by level.")


class ChatReply(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChoiceReply]
    usage: UsageReply
    cost: CostReply
    seed: int = Field(description="With it the same request has the same reply.")
    search: SearchReply | None = None


# Streamed


class NumberedStep(StepReply):
    """A step that has closed. A search may think again: it takes the place of its number and of all after it."""

    number: int


class AnswerReply(BaseModel):
    answer: str
    score: Score


class ProgressReply(BaseModel):
    samples: int
    of: int


class DeltaReply(BaseModel):
    """What is new; all fields may be missing."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    step: NumberedStep | None = None
    answer: AnswerReply | None = None
    progress: ProgressReply | None = None
    chain: ChainReply | None = Field(None, description="With the finish_reason.")
    token_ids: list[int] | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: DeltaReply
    finish_reason: Finish | None
    logprobs: LogprobsReply | None


class ChatChunk(BaseModel):
    """One event of a streamed reply. The last one before `[DONE]` has usage where it is asked for, and no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    cost: CostReply | None = None
    seed: int | None = None
    search: SearchReply | None = None
    usage: UsageReply | None = None


# Scores, models, health


class ScoreRow(BaseModel):
    index: int
    steps: list[float]
    answer: Score
    path: float | None = Field(description="The path score of the whole chain.")
    error: str | None = Field(description="Why it could not be scored.")


class ScoreUsage(BaseModel):
    scored_chains: int
    scored_steps: int


class ScoreReply(BaseModel):
    object: Literal["list"]
    model: str
    data: list[ScoreRow]
    usage: ScoreUsage


class ModelReply(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    methods: list[MethodName]
    prm: str | None
    n: int = Field(description="Samples of a search that names no number.")
    max_tokens: int
    context: int | None = Field(description="Tokens that the model can take; null where it is an endpoint's.")
    tokens: dict[str, int] | None = Field(None, description="The control tokens and their ids.")


class ModelsReply(BaseModel):
    object: Literal["list"]
    data: list[ModelReply]


class HealthReply(BaseModel):
    status: Literal["ok", "stopping"]
    model: str
    prm: str | None
    in_progress: int
