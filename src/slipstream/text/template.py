"""Chat templates: messages to the prompt that a model was trained on. Owns finding, compiling and rendering; errors are named.

Conventions of `transformers` (docs: "Writing a chat template"): variables messages, tools, documents, add_generation_prompt
and the special tokens by name. The rendered text holds its special tokens; encode it with `special=False`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from slipstream.base.errors import InputError
from slipstream.files import gguf
from slipstream.files.folder import model_gguf
from slipstream.files.safetensors import read_json
from slipstream.text.sandbox import Refused, Sandbox

FILE = "chat_template.jinja"
CONFIG = "tokenizer_config.json"
MORE = "additional_chat_templates"
DEFAULT = "default"
WAY_OUT = "give the text of the prompt instead of messages, or take the instruction-tuned version of the model"
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_GGUF_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "sep_token": "seperator", "pad_token": "padding"}
# what a template can raise while it runs
_FAILURES = (
    jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError, MemoryError
)  # fmt: skip
_MAX_FILE = 4_000_000  # bytes


class ChatTemplate:
    """A compiled template. Renders one thing at a time.

    Args:
        source: the Jinja text.
        tokens: special tokens by the names that templates use: {"bos_token": "<s>", ...}.
        where: how messages call it.

    Raises:
        InputError: it cannot be compiled; names the line.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None, where: str = "chat template"):
        self.source, self.tokens, self.where = source, dict(tokens or {}), where
        self._sandbox = Sandbox()
        try:
            self._template = self._sandbox.prepare(source)
        except (jinja2.TemplateError, RecursionError, MemoryError, SyntaxError, ValueError, TypeError) as error:
            line = getattr(error, "lineno", None)
            place = f"line {line}: " if line else ""
            raise InputError(f"{where}: cannot be used: {place}{_reason(error)}; give another one, or {WAY_OUT}") from error

    @staticmethod
    def load(source: Path | str, name: str = DEFAULT) -> "ChatTemplate":
        """The template of a model.

        Args:
            source: a folder (chat_template.jinja, else tokenizer_config.json) or a GGUF file.
            name: which one, where a model has several ("default", "tool_use", "rag").

        Raises:
            InputError: the model has none, or none of this name; names the way out.
        """
        path = Path(source)
        file = model_gguf(path)
        found, tokens = _of_gguf(file) if file is not None else _of_folder(path)
        if not found:
            raise InputError(f"model={str(source)!r}: has no chat template (a base model); {WAY_OUT}")
        if name not in found:
            raise InputError(f"model={str(source)!r}: has no chat template {name!r}; it has {', '.join(sorted(found))}; name one of these")
        text, where = found[name]
        return ChatTemplate(text, tokens, where)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt.

        Args:
            messages: {"role", "content", ...} each, plain JSON values.
            tools, documents: as the template wants them; None where there are none.
            add_generation_prompt: end with the beginning of the model's answer.
            variables: what else the template may read (`enable_thinking`).

        Raises:
            InputError: the template refuses the messages, fails, or takes too much time or memory.
        """
        values = {"messages": messages, "tools": tools, "documents": documents, **variables}
        try:
            values = {key: _plain(value, key) for key, value in values.items()}
        except RecursionError as error:
            raise InputError("messages: are nested too deep; give flat messages") from error
        self._sandbox.begin()
        try:
            return "".join(self._template.generate(**{**self.tokens, "add_generation_prompt": add_generation_prompt, **values}))
        except Refused as error:
            raise InputError(f"messages: the model's chat template refuses them: {error}") from error
        except _FAILURES as error:
            raise InputError(f"{self.where}: fails on these messages: {_reason(error)}; change them, or {WAY_OUT}") from error


def _of_folder(folder: Path) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """({name: (text, where)}, special tokens)."""
    if not folder.is_dir():
        raise InputError(f"model={str(folder)!r}: no such folder; give the folder that holds {CONFIG}")
    path = folder / CONFIG
    config = read_json(path) if path.is_file() else {}
    found: dict[str, tuple[str, str]] = {}
    stored = config.get("chat_template")
    if isinstance(stored, str):
        found[DEFAULT] = stored, f"{path}: chat_template"
    elif isinstance(stored, list):
        for item in stored:
            if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not isinstance(item.get("template"), str):
                raise InputError(f"{path}: chat_template: each item needs name and template; fetch the file again")
            found[item["name"]] = item["template"], f"{path}: chat_template {item['name']!r}"
    elif stored is not None:
        raise InputError(f"{path}: chat_template={str(stored)[:40]!r}: must be a text or a list; fetch the file again")
    files = {DEFAULT: folder / FILE} | {file.stem: file for file in sorted((folder / MORE).glob("*.jinja"))}
    found |= {name: (_read(file), str(file)) for name, file in files.items() if file.is_file()}
    return found, {name: text for name in _TOKENS if (text := _token(config.get(name))) is not None}


def _of_gguf(path: Path) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    metadata = gguf.read(path).metadata
    key = "tokenizer.chat_template"
    found = {DEFAULT: metadata[key]} if key in metadata else {}
    found |= {name.removeprefix(key + "."): text for name, text in metadata.items() if name.startswith(key + ".")}
    vocabulary, tokens = metadata.get("tokenizer.ggml.tokens", ()), {}
    usual = {"bos": 1, "eos": 2} if metadata.get("tokenizer.ggml.model") == "llama" else {}
    for name, short in _GGUF_TOKENS.items():
        number = metadata.get(f"tokenizer.ggml.{short}_token_id", usual.get(short))
        if isinstance(number, int) and isinstance(vocabulary, list) and 0 <= number < len(vocabulary):
            tokens[name] = str(vocabulary[number])
    return {name: (text, f"{path}: {key}") for name, text in found.items() if isinstance(text, str)}, tokens


def _read(path: Path) -> str:
    if path.stat().st_size > _MAX_FILE:
        raise InputError(f"{path}: larger than {_MAX_FILE} bytes, which is no chat template; fetch the file again")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); fetch the file again") from error


def _token(value: Any) -> str | None:
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _plain(value: Any, where: str) -> Any:
    """A copy out of plain JSON types, so that a template meets no object with methods of its own."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    raise InputError(f"{where}: holds {type(value).__name__}, which is no JSON value; give texts, numbers, lists and objects")


def _reason(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
