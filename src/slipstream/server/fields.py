"""Strict request bodies: an unknown field is an error that names the nearest known one (promise P4).

Owns the base class of request bodies, the fields that are accepted without effect and those that are refused by name. What a
single route takes is in schemas.py.
"""

import difflib
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

LATER = "is not supported by this server"
REFUSED: dict[str, str] = {
    **dict.fromkeys(("tools", "tool_choice", "functions", "function_call"), f"tool calling {LATER}"),
    **dict.fromkeys(
        ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "json_schema", "grammar", "regex", "ebnf"),
        f"structured output {LATER}",
    ),
    **dict.fromkeys(("audio", "input_audio"), f"audio {LATER}"),
    **dict.fromkeys(("web_search_options", "suffix", "moderation"), LATER),
    **dict.fromkeys(("use_beam_search", "length_penalty"), f"beam search {LATER}"),
    "best_of": f"{LATER}; ask for n samples and choose among them",
    "reasoning_effort": f"{LATER}; templates take such things through chat_template_kwargs",
    "verbosity": LATER,
    "chat_template": "templates come with the model, not with a request",
    "prompt_logprobs": "ask for the prompt's log-probabilities with echo=true and logprobs",
    "truncate_prompt_tokens": "prompts are never truncated; shorten them before they are sent",
    "priority": LATER,
    "continue_final_message": LATER,
    "dimensions": f"{LATER}; vectors have the model's width",
}


class Strict(BaseModel):
    """A JSON object whose fields are all known, each of the right type. A null is the same as leaving the field out."""

    model_config = ConfigDict(extra="forbid", strict=True)
    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {}  # refused fields -> values that ask for nothing

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        kept = {}
        for name, value in body.items():
            if name in cls.model_fields:
                if value is not None or cls.model_fields[name].is_required():
                    kept[name] = value
            elif name in REFUSED:
                if value is not None and value not in cls.NEUTRAL.get(name, ()):
                    raise _error("unsupported_parameter", REFUSED[name], name)
            else:
                near = difflib.get_close_matches(name, [*cls.model_fields, *REFUSED], 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(cls.model_fields)}"
                raise _error("unknown_parameter", f"there is no such field; {hint}", name[:64])
        return kept


def _error(code: str, message: str, field: str) -> PydanticCustomError:
    return PydanticCustomError(code, "{text}", {"text": message, "field": field})


def unsupported(message: str) -> PydanticCustomError:
    """A value that is known and not built."""
    return PydanticCustomError("unsupported_value", "{text}", {"text": message})


def invalid(message: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_value", "{text}", {"text": message})
