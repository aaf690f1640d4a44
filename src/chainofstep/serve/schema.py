"""What requests may hold: OpenAI's fields as far as they can be met, and this server's own.

A field that would change the answer and is not supported is refused by its name; those that change nothing are taken
and ignored, and so is any unsupported one at the value that means nothing (`tools: []`, a penalty of 0).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from chainofstep.serve.errors import HALF

MethodName = Literal["greedy", "self_consistency", "best_of_n", "weighted_vote", "step_beam"]
Nothing = Annotated[float, Field(ge=0, le=0)]
MOST_STOPS = 8
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class _Strict(BaseModel):
    """No field that is not named here, no value turned into another type, and no text that UTF-8 cannot hold."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """Halves of surrogate pairs, which JSON can spell and no tokenizer takes."""
        texts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else [value]
        for text in texts:
            if isinstance(text, str) and not _is_whole(text):
                raise PydanticCustomError("surrogate", HALF)
        return value


def _is_whole(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# Messages


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    url: str = Field(min_length=1, description="data:image/png;base64,... ; http(s) only where the server allows it")
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Ignored.")


class ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class SystemMessage(_Strict):
    """Models are prompted without a system message: its content must be blank."""

    role: Literal["system", "developer"]
    content: str | list[TextPart]
    name: str | None = None


class UserMessage(_Strict):
    """The question and its pictures. The model sees the pictures first, in their order, then all text."""

    role: Literal["user"]
    content: str | list[Part]
    name: str | None = None


class AssistantMessage(_Strict):
    """The assistant's raw text so far, with which the model goes on."""

    role: Literal["assistant"]
    content: str | list[TextPart]
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


# Chat completions


class StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="Ignored.")


class ResponseFormat(_Strict):
    type: Literal["text"]


class SearchOptions(_Strict):
    """Choose one answer among many chains."""

    method: MethodName | None = Field(None, description="May be left out where the model's name ends in it.")
    n: int | None = Field(None, ge=1, description="Samples; in step_beam, of a level.")
    width: int = Field(1, ge=1, description="step_beam alone: chains kept a level; divides n.")
    step_weight: float = Field(
        0.2, ge=0, le=1, description="Weight of the steps' mean score; the rest is the answer's."
    )
    max_steps: int = Field(12, ge=1, le=64, description="step_beam alone.")


class ChatRequest(_Strict):
    """OpenAI's chat completion, with this server's extensions."""

    model: str = Field(min_length=1, max_length=512)
    messages: list[Message] = Field(min_length=1, max_length=16)
    n: int | None = Field(None, ge=1)
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Extensions
    search: SearchOptions | None = None
    top_k: int | None = Field(None, ge=-1, le=1_000_000, description="0 and -1: no limit.")
    skip_special_tokens: bool = Field(True, description="false: the content is the raw text with the step tokens.")
    continue_final_message: bool | None = Field(None, description="Go on with the last message, the assistant's.")
    return_token_ids: bool = False
    first: int = Field(
        0, ge=0, le=2**31, description="Samples first .. first + n - 1 of the seed, to ask for more later."
    )
    scores: bool = Field(True, description="false: the PRM is not asked, except where the method goes by its scores.")
    # Taken and ignored
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool | None = None
    # Taken at the value that means nothing
    presence_penalty: Nothing | None = None
    frequency_penalty: Nothing | None = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    tools: Annotated[list[str], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _telling_stop(cls, value: Any) -> Any:
        """What pydantic would say of each thing that `stop` may be, in one line."""
        stops = value if isinstance(value, list) else [value]
        if "" in stops:
            raise PydanticCustomError("stop", "an empty text stops nothing; give the text to stop at, or leave it out")
        if len(stops) > MOST_STOPS:
            count, most = len(stops), MOST_STOPS
            raise PydanticCustomError("stop", "{count} texts; give at most {most}", {"count": count, "most": most})
        return value


# Scores


class GivenStep(_Strict):
    name: str
    thought: str
    reflection: str


class GivenChain(_Strict):
    steps: list[GivenStep] = Field(max_length=256)
    answer: str | None = None


class ScoreRequest(_Strict):
    """Chains of one question, whose steps the PRM is to score. The question is text, or a user's message."""

    model: str | None = Field(None, max_length=512)
    question: str | None = None
    messages: list[UserMessage] | None = Field(None, min_length=1, max_length=1)
    images: list[Annotated[str, Field(min_length=1)]] = Field(default=[], description="Data URLs.")
    chains: list[str | GivenChain] = Field(min_length=1)
