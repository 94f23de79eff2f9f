"""The environment that runs chat templates: Jinja's sandbox with the extras of `transformers`, and bounds on time and size.

A template is a program out of a model's repository. Jinja's sandbox keeps it from Python's insides, but not from looping or
growing for ever. So loops and macros tick a clock, whatever makes text or lists is charged for its size, operations that
could make something huge in one go are checked before, and what real templates do not use is not there at all.
Owns these bounds. Must not know models, messages or files.
"""

import functools
import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

SECONDS = 10.0  # of one render; real ones take milliseconds
MAX_SOURCE = 512_000  # characters of a template
MAX_TEXT = 16_000_000  # characters of one text
MAX_ITEMS = 1_000_000  # of one list, those of the lists in it too
MAX_DEPTH = 64  # of lists in lists
MAX_MADE = 500_000_000  # characters made during one render, intermediate ones too
_MAX_BITS = 4096  # of one whole number
_ITEM = 16  # characters that an item of a list counts for
_MAX_INDENT = 8  # of tojson
_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby", "indent", "int", "items"),
    *("last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe"),
    *("select", "selectattr", "sort", "string", "title", "trim", "unique", "upper", "wordcount"),
)
_TEXT_METHODS = (
    " capitalize count endswith find format index isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable"
    " isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split"
    " splitlines startswith strip swapcase title upper "
)
_WIDTH = re.compile(r"\d{3}|\*")
_PADDED_DATE = re.compile(r"%[-_0^#+]*\d")


class TooMuch(jinja2.TemplateError):
    """The template exceeded a bound."""


class Refused(jinja2.TemplateError):
    """The template itself called raise_exception."""


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks the model's own text for training; here it only groups."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Namespace(jinja2.utils.Namespace):
    """`namespace()`: its attributes cannot begin with an underscore."""

    def __init__(*args: Any, **fields: Any) -> None:
        self, args = args[0], args[1:]
        values = dict(*args, **fields)
        for name in values:
            _public(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    def __repr__(self) -> str:
        return "<namespace>"  # not what it holds, which may hold it


def _public(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"namespace: {name!r} cannot be an attribute")


class Sandbox(ImmutableSandboxedEnvironment):
    """One template's environment; renders one thing at a time."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControls])
        self.filters = {name: self._guarded(self.filters[name]) for name in _FILTERS}
        self.filters |= {name: self._guarded(function) for name, function in (("tojson", _to_json), ("sum", _sum))}
        self.filters["replace"] = self._checked(self.filters["replace"], lambda text, *pair: self._check_replace(str(text), *pair))
        self.filters["indent"] = self._checked(self.filters["indent"], self._check_indent)
        self.filters["join"] = self._guarded(self._join)
        self.globals = {
            "range": self.globals["range"],
            "dict": lambda *args, **fields: dict(*args, **fields),
            "namespace": _Namespace,
            "raise_exception": _refuse,
            "strftime_now": _now,
        }
        self._own = (self.tick, self.emit, self.concat_texts, self.charge)
        self.begin()

    def begin(self) -> None:
        """A new render begins: full budget."""
        self._made = 0
        self._weights: dict[int, tuple[Any, int, int, int]] = {}  # of what lies in lists: by id, with the object, so that it stays
        self._deadline = time.monotonic() + SECONDS

    def prepare(self, source: str) -> jinja2.Template:
        """Compiles a template with its ticks. Raises jinja2.TemplateError, RecursionError, MemoryError or SyntaxError."""
        if len(source) > MAX_SOURCE:
            raise TooMuch(f"it has {len(source)} characters; {MAX_SOURCE} are the most")
        self.begin()
        tree = self.parse(source)
        self._instrument(tree)
        return jinja2.Template.from_code(self, self.compile(tree), self.make_globals(None))

    def tick(self) -> bool:
        """One round of a loop or one call of a macro."""
        if time.monotonic() > self._deadline:
            raise TooMuch(f"it takes longer than {SECONDS:g} s")
        return True

    def emit(self, value: Any) -> Any:
        """`value` goes to the output, or into the text that a macro or a block makes."""
        text = value if isinstance(value, str) else str(value)
        self.charge(text)
        return text

    def concat_texts(self, *values: Any) -> str:
        """a ~ b ~ c"""
        texts = [str(value) for value in values]
        self._fits(sum(map(len, texts)))
        return self.charge("".join(texts))

    def charge(self, value: Any) -> Any:
        """Books what `value` takes."""
        if isinstance(value, str):
            self._fits(len(value))
            self._made += len(value)
        elif isinstance(value, list | tuple | dict | range):
            self._made += _ITEM * len(value)
            self._weigh(value)
        elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise TooMuch("it makes a number that is too large")
        if self._made > MAX_MADE:
            raise TooMuch(f"it makes more than {MAX_MADE} characters")
        self.tick()
        return value

    def call(__self, __context: Any, __obj: Any, *args: Any, **fields: Any) -> Any:  # noqa: N805, jinja's own signature
        if __obj in __self._own:
            return __obj(*args)  # fields: only what jinja adds for functions that take its context
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            __self._check_replace(owner, *args)
        elif isinstance(owner, str) and name == "join" and args:
            texts = list(args[0])
            __self._fits(sum(len(text) if isinstance(text, str) else 0 for text in texts) + len(owner) * len(texts))
            args = (texts, *args[1:])
        return __self.charge(super().call(__context, __obj, *args, **fields))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            self._fits(len(left) + len(right))
        elif operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, str | list | tuple) and isinstance(times, int):
                    self._fits(len(value) * max(0, times))
        elif operator == "%" and isinstance(left, str):
            if _WIDTH.search(left):
                raise SecurityError("a % format with a width of three digits or more is not supported")
            self._fits(len(left) + left.count("%") * _longest(right))
        elif operator == "**" and not (_small(left, _MAX_BITS) and _small(right, 12)):
            raise TooMuch("it makes a number that is too large")
        return self.charge(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return f" {attr} " in _TEXT_METHODS
        return not isinstance(obj, int | float | bytes | None) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text = value.__self__

        def format(*args: Any, **fields: Any) -> str:
            if ":" in text or "!" in text:
                raise SecurityError("str.format with widths or conversions is not supported; use ~ to join texts")
            self._fits(len(text) + text.count("{") * _longest((*args, *fields.values())))
            return wrapped(*args, **fields)

        return format

    def _fits(self, length: int) -> None:
        if length > MAX_TEXT:
            raise TooMuch(f"it makes a text of {length} characters; {MAX_TEXT} are the most")

    def _check_replace(self, text: str, old: Any = "", new: Any = "", *_: Any) -> None:
        times = text.count(str(old)) if str(old) else len(text) + 1
        self._fits(len(text) + times * len(str(new)))

    def _check_indent(self, text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
        self._fits(len(str(text)) + (str(text).count("\n") + 1) * (len(width) if isinstance(width, str) else abs(int(width))))

    def _join(self, values: Any, d: Any = "", attribute: Any = None) -> str:
        """The filter `join`, which looks at the length while it grows."""
        take = make_attrgetter(self, attribute) if attribute is not None else lambda value: value
        texts, length = [], 0
        for value in values:
            texts.append(str(take(value)))
            length += len(texts[-1]) + len(str(d))
            self._fits(length)
            self.tick()
        return str(d).join(texts)

    def _weigh(self, value: Any) -> tuple[int, int, int]:
        """(items, characters, depth) of a value written out in full, where one list may stand in many places.

        What lies in a list was weighed when that was made, so this looks one level deep; only what comes from outside is
        walked once.
        """
        if isinstance(value, str):
            return 1, len(value), 0
        if isinstance(value, range) or not isinstance(value, list | tuple | dict):
            return (len(value), _ITEM * len(value), 1) if isinstance(value, range) else (1, _ITEM, 0)
        if len(value) > MAX_ITEMS:
            raise TooMuch(f"it makes a list of {len(value)} items; {MAX_ITEMS} are the most")
        items, length, depth = 1, 2, 0
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            known = self._weights.get(id(part))
            if known is None:
                weight = self._weigh(part)
                if isinstance(part, list | tuple | dict):
                    self._weights[id(part)] = (part, *weight)
            else:
                weight = known[1:]
            items, length, depth = items + weight[0], length + weight[1], max(depth, weight[2])
        if items > MAX_ITEMS or depth >= MAX_DEPTH:
            raise TooMuch(f"it makes a list of more than {MAX_ITEMS} items or {MAX_DEPTH} levels")
        self._fits(length)
        return items, length, depth + 1

    def _guarded(self, function: Callable) -> Callable:
        """A filter that is charged for what it takes and gives."""

        @functools.wraps(function)
        def guarded(*args: Any, **fields: Any) -> Any:
            for value in args:
                self.charge(value)
            return self.charge(function(*args, **fields))

        return guarded

    def _checked(self, function: Callable, check: Callable[..., None]) -> Callable:
        """A filter whose arguments are looked at before. Jinja's own leading argument, if it takes one, is passed over."""
        skip = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def checked(*args: Any, **fields: Any) -> Any:
            check(*args[skip:], **fields)
            return function(*args, **fields)

        return checked

    def _instrument(self, node: nodes.Node) -> None:
        """Puts ticks into loops and macros, and checks around what is concatenated or put out."""
        for name, value in node.iter_fields():
            if isinstance(value, nodes.Node):
                self._instrument(value)
                setattr(node, name, self._replaced(value))
            elif isinstance(value, list):
                for item in value:
                    if isinstance(item, nodes.Node):
                        self._instrument(item)
                setattr(node, name, [self._replaced(item) for item in value])
        if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            node.body = [nodes.ExprStmt(_own_call("tick", [], node.lineno)).set_lineno(node.lineno), *node.body]
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(_own_call("tick", [], node.lineno), node.test).set_lineno(node.lineno)
        if isinstance(node, nodes.Output):
            node.nodes = [_own_call("emit", [_constant(part)], node.lineno) for part in node.nodes]

    @staticmethod
    def _replaced(node: Any) -> Any:
        if isinstance(node, nodes.Concat):
            return _own_call("concat_texts", node.nodes, node.lineno)
        makes = isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice))
        makes = makes or (isinstance(node, nodes.Tuple) and node.ctx == "load")
        return _own_call("charge", [node], node.lineno) if makes else node


def _own_call(name: str, args: list[nodes.Expr], line: int) -> nodes.Expr:
    """A call of a method of the sandbox, which no variable of the template can replace."""
    return nodes.Call(nodes.EnvironmentAttribute(name).set_lineno(line), args, [], None, None).set_lineno(line)


def _constant(part: nodes.Expr) -> nodes.Expr:
    return nodes.Const(part.data).set_lineno(part.lineno) if isinstance(part, nodes.TemplateData) else part


def _refuse(message: Any = "") -> None:
    raise Refused(str(message))


def _now(format: str) -> str:
    if not isinstance(format, str) or len(format) > 200 or _PADDED_DATE.search(format):
        raise SecurityError(f"strftime_now: {str(format)[:40]!r} is not supported")
    return datetime.now().strftime(format)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | str | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if (isinstance(indent, int) and indent > _MAX_INDENT) or (isinstance(indent, str) and len(indent) > _MAX_INDENT):
        raise TooMuch(f"tojson: indent can be {_MAX_INDENT} at most")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _sum(values: Any, start: int | float = 0) -> int | float:
    total = start
    for value in values:
        if not isinstance(value, int | float):
            raise SecurityError("sum: only numbers can be added; use join for texts")
        total += value
    return total


def _longest(values: Any) -> int:
    """Characters of the longest of some values when written out, at least 32."""
    values = values if isinstance(values, tuple) else (values,)
    return max([32, *(len(value) if isinstance(value, str) else len(repr(value)) for value in values)])


def _small(value: Any, bits: int) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= bits)
