"""What clients may send: every field, its type and its bounds. A field that is not here is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from luthier.serving.limits import Limits

LIMITS = Limits()
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=LIMITS.stop_characters)]
Text = Annotated[str, StringConstraints(max_length=LIMITS.characters)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]

NOT_SUPPORTED = (
    "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "logit_bias", "modalities", "audio", "prediction", "store", "metadata",
    "service_tier", "reasoning_effort", "verbosity", "web_search_options", "echo", "best_of", "suffix", "chat_template", "chat_template_kwargs", "prompt_embeds",
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "extra_body", "lora_request", "priority", "min_p", "repetition_penalty",
    "prompt_cache_key", "safety_identifier", "add_generation_prompt", "continue_final_message", "documents", "use_activation", "truncate_prompt_tokens",
)  # fmt: skip
"""Fields that OpenAI or vLLM know and this server does not: the answer says so, and suggests no other name."""


class RequestBody(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True, protected_namespaces=())


class Part(RequestBody):
    """A part of a turn; only texts are read."""

    type: Literal["text"]
    text: Text


class Turn(RequestBody):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(min_length=1, max_length=100)]
    name: Name | None = None


class StreamOptions(RequestBody):
    """How an answer is streamed."""

    include_usage: bool = False
    include_obfuscation: bool = False


class AnyText(RequestBody):
    """An answer may be any text."""

    type: Literal["text"]


class JsonObject(RequestBody):
    """An answer is a JSON object."""

    type: Literal["json_object"]


class Schema(RequestBody):
    """What the JSON looks like."""

    name: Name | None = Field(None, description="Is read by nobody.")
    description: Text | None = Field(None, description="Is read by nobody: tell the model in the messages.")
    schema_: dict[str, Any] = Field(alias="schema", description="A JSON schema; a keyword that cannot be followed is refused.")
    strict: bool | None = Field(None, description="The schema is followed in any case.")


class JsonOfSchema(RequestBody):
    """An answer is JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: Schema


Format = Annotated[AnyText | JsonObject | JsonOfSchema, Field(discriminator="type")]
"""What an answer looks like."""


class Sampling(RequestBody):
    """What chat and completion requests have in common."""

    model: Name
    temperature: float | None = Field(
        None, ge=0, le=2, description="0, the default, takes the likeliest token each time, as the evaluation did."
    )
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1000, description="0 draws from all tokens.")
    n: int | None = Field(None, ge=1, le=1)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63, description="The same seed gives the same answer, alone or beside others.")
    stop: Stop | Annotated[list[Stop], Field(max_length=LIMITS.stops)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    user: Name | None = Field(None, description="Is read by nobody.")
    max_tokens: int | None = Field(None, ge=1, le=LIMITS.max_tokens)
    response_format: Format | None = None


class ChatRequest(Sampling):
    """A conversation that waits for an answer."""

    messages: list[Turn] = Field(min_length=1, max_length=500)
    max_completion_tokens: int | None = Field(None, ge=1, le=LIMITS.max_tokens)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class CompletionRequest(Sampling):
    """A text, or several, to be continued."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=LIMITS.prompts)]
        | Annotated[list[TokenId], Field(min_length=1, max_length=100_000)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1, max_length=100_000)]], Field(min_length=1, max_length=LIMITS.prompts)]
    )
    logprobs: int | None = Field(None, ge=0, le=5)


class EmbeddingRequest(RequestBody):
    """Texts whose vectors are wanted."""

    model: Name
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=LIMITS.rows)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, le=1 << 16, description="Only the vectors' own.")
    user: Name | None = None


class ClassOptions(RequestBody):
    """Which classes are given, and how sure of them the model must be."""

    top: int | None = Field(None, ge=1, le=1000, description="Also give so many of the likeliest classes.")
    abstain_below: float | None = Field(None, ge=0, le=1, description="Leave the label out where the confidence is lower than this.")
    error_below: float | None = Field(
        None, gt=0, lt=1, description="Leave out so many of the unsure labels that no more than this share of the others is wrong."
    )


CLASS_FIELDS = tuple(ClassOptions.model_fields)


class ClassifyRequest(ClassOptions):
    """Texts, or images as base64, whose classes are wanted."""

    model: Name | None = None
    input: str | Annotated[list[str], Field(min_length=1, max_length=LIMITS.rows)]
    user: Name | None = None


class ScoreRequest(RequestBody):
    """Pairs of texts: one with one, one with many, or many with as many."""

    model: Name | None = None
    text_1: Text | Annotated[list[Text], Field(min_length=1, max_length=LIMITS.rows)]
    text_2: Text | Annotated[list[Text], Field(min_length=1, max_length=LIMITS.rows)]
    user: Name | None = None


class PredictRequest(ClassOptions):
    """Rows, each an object of the columns that the model reads; of an image its file as base64. A text is a row where the model reads one column."""

    model: Name | None = None
    rows: list[dict[str, Any] | str] = Field(min_length=1, max_length=LIMITS.rows)
    limit: int = Field(
        LIMITS.default_tokens, ge=1, le=LIMITS.max_tokens, description="Tokens that an answer may have, of a model that writes text."
    )
