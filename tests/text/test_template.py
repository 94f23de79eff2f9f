"""Chat templates: equal to jinja2's renders and to transformers; hostile ones are stopped; absent ones name the way out."""

import json
import time

import pytest

from slipstream.base.errors import InputError
from slipstream.text import sandbox
from slipstream.text.template import ChatTemplate

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 6 * 7? <b>&\"'"},
    {"role": "assistant", "content": "42"},
    {"role": "user", "content": "  Sicher?  "},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds <two> numbers",
            "parameters": {"type": "object", "properties": {"a": {"type": "number", "description": "é"}}, "required": ["a"]},
        },
    }
]


def test_equal_to_the_recorded_renders(shared):
    rows = (shared / "data/chat_templates/templates.jsonl").read_text(encoding="utf-8").splitlines()
    count = 0
    for row in map(json.loads, rows):
        template = ChatTemplate(row["template"], {"bos_token": row["bos_token"], "eos_token": row["eos_token"]})
        for case in row["cases"]:
            count += 1
            if case["jinja2_error"]:
                with pytest.raises(InputError, match="refuses them: .{10}"):
                    template.render(case["messages"])
            else:
                assert template.render(case["messages"]) == case["jinja2_render"], row["name"]
    assert count == 51


def sources(shared):
    folder = shared / "data/chat_templates"
    for path in sorted((folder / "jinja").iterdir()):
        yield path.stem, path.read_text(encoding="utf-8"), {"bos_token": "<s>", "eos_token": "</s>"}
    for path in sorted((folder / "tokenizer_config").iterdir()):
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config.get("chat_template"), str):
            yield path.stem, config["chat_template"], {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
def test_equal_to_transformers(shared, tools):
    render = pytest.importorskip("transformers.utils.chat_template_utils")._compile_jinja_template
    count = 0
    for name, source, tokens in sources(shared):
        for messages in (CHAT, CHAT[1:]):
            values = {"tools": tools, "documents": None, "add_generation_prompt": True, **tokens}
            expected = render(source).render(messages=messages, **values)
            assert ChatTemplate(source, tokens).render(messages, tools=tools) == expected, name
            count += 1
    assert count >= 20


def test_conventions():
    def render(source, **more):
        return ChatTemplate(source, {"bos_token": "<s>"}).render(CHAT[:2], **more)

    assert render("{{ bos_token }}{{ eos_token }}|{{ add_generation_prompt }}|{{ thinking }}", thinking=3) == "<s>|True|3"
    assert render("{{ messages | tojson }}") == json.dumps(CHAT[:2], ensure_ascii=False)
    assert render("{{ {'a': 1} | tojson(indent=2) }}") == '{\n  "a": 1\n}'
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"
    assert render("{% generation %}a{{ 1 }}{% endgeneration %}b") == "a1b"
    assert render("{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}") == "system"
    assert render("{% set n = namespace(x=1) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}{{ n.x }}") == "3"
    assert render("{{ strftime_now('%Y') }}") == time.strftime("%Y")
    assert render("{{ 'a-b'.split('-') | join('+') }}{{ 'x' * 3 }}{{ '%s' % 'y' }}{{ 'z{}'.format(1) }}") == "a+bxxxyz1"
    assert render("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('a') ~ m(2) }}") == "<a><2>"
    assert render("{% set tick = 3 %}{% set environment = 4 %}{{ tick ~ environment }}") == "34"


HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "loops of filters": "{% for a in range(99999) %}{% set x = range(99999) | select('none') | list %}{% endfor %}",
    "recursion": "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "branching recursion": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "output": "{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
    "repeated text": "{{ 'x' * 1000000000000 }}",
    "repeated list": "{{ [1] * 10000000000 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "powers": "{% set n = namespace(x=3) %}{% for a in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "doubling": "{% set n = namespace(x='xx') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling by +": "{% set n = namespace(x='xx') %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling lists": "{% set n = namespace(x=[1]) %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "replace": "{% set a = 'x' * 100000 %}{{ a | replace('x', a) }}",
    "str.replace": "{% set a = 'x' * 100000 %}{{ a.replace('', a) }}",
    "join": "{% set a = 'x' * 100000 %}{{ a.join(range(99999) | map('string') | list) }}",
    "width": "{{ '%1000000000d' % 1 }}",
    "star width": "{{ '%*d' % (1000000000, 1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "center": "{{ 'x'.center(1000000000) }}",
    "center filter": "{{ 'x' | center(1000000000) }}",
    "indent": "{{ 'x\\ny' | indent(1000000000) }}",
    "tojson indent": "{{ [1] | tojson(indent=1000000000) }}",
    "zfill": "{{ '1'.zfill(1000000000) }}",
    "bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "strftime": "{{ strftime_now('%1000000000Y') }}",
    "lipsum": "{{ lipsum(100000) }}",
    "blocks": "{% set a = 'x' * 1000000 %}{% set b %}" + "{{ a }}" * 1000 + "{% endset %}",
    "block filter": "{% set a = 'x' * 1000000 %}{% filter upper %}" + "{{ a }}" * 1000 + "{% endfilter %}",
    "concatenation": "{% set a = 'x' * 1000000 %}{{ " + " ~ ".join(["a"] * 100) + " }}",
    "join of one text": "{% set a = 'x' * 1000000 %}{{ ([a] * 100000) | join }}",
    "join by attribute": "{% set a = {'t': 'x' * 1000000} %}{{ ([a] * 1000) | join('', attribute='t') }}",
    "one text written often": "{% set a = 'x' * 1000000 %}{{ [a] * 100000 }}",
    "lists in lists": "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
    "tuples in tuples": "{% set n = namespace(l=(1,)) %}{% for i in range(60) %}{% set n.l = (n.l, n.l) %}{% endfor %}{{ {n.l: 1} }}",
    "dicts in dicts": "{% set n = namespace(l={}) %}{% for i in range(60) %}{% set n.l = {1: n.l, 2: n.l} %}{% endfor %}{{ n.l | tojson }}",
    "dict()": "{% set n = namespace(l={}) %}{% for i in range(60) %}{% set n.l = dict(a=n.l, b=n.l) %}{% endfor %}{{ n.l | string }}",
    "deep lists": "{% set n = namespace(l=[1]) %}{% for i in range(5000) %}{% set n.l = [n.l] %}{% endfor %}{{ n.l == n.l }}",
    "slices": "{% set a = 'x' * 10000000 %}" + "".join(f"{{% set a{i} = a[1:] %}}" for i in range(100)),
    "literal text": "{% set b %}{% for i in range(99999) %}" + "x" * 100_000 + "{% endfor %}{% endset %}",
    "indented lines": "{{ ('x\n' * 5000000) | indent(60) }}",
    "split": "{{ ('x' * 5000000).split('x') | length }}",
    "mutation": "{{ messages.append(1) }}",
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class by item": "{{ ''['__class__'] }}{{ ()['__class__']['__base__'] }}{{ messages['__class__'].__name__.upper() }}",
    "globals": "{{ raise_exception.__globals__ }}{{ range.__self__.x }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__['os'].system('true') }}",
    "attribute by format": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "attribute by filter": "{{ '' | attr('__class__') }}",
    "attribute by map": "{{ [''] | map(attribute='__class__') | map(attribute='__mro__') | first | first }}",
    "namespace": "{% set n = namespace(__class__=1) %}",
    "namespace by self": "{{ namespace(self=1, __init__=2) }}",
    "undefined": "{{ undefined_thing.__init__.__globals__ }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os }}",
    "extends": "{% extends '/etc/passwd' %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_stopped(name, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    begin = time.monotonic()
    with pytest.raises(InputError):
        ChatTemplate(HOSTILE[name]).render(CHAT)
    assert time.monotonic() - begin < 5


BROKEN = ("{% if %}", "{{ " + "(" * 5000, "{{ " + "[" * 300 + "]" * 300 + " }}", "{{ x | nosuch }}", "x" * 600_000)


@pytest.mark.parametrize("source", BROKEN)
def test_templates_that_do_not_compile_are_named(source):
    with pytest.raises(InputError, match="chat template: .*(take the instruction-tuned version|fails)"):
        ChatTemplate(source).render(CHAT)


def test_namespaces_that_hold_each_other():
    source = "{% set n = namespace() %}{% set n.n = n %}{% for i in range(60) %}{% set n.x = namespace(a=n.x, b=n.x) %}{% endfor %}{{ n }}"
    assert ChatTemplate(source).render(CHAT) == "<namespace>"


def test_long_chats_are_no_attack():
    messages = [{"role": "user", "content": "x" * 2000}, {"role": "assistant", "content": "y" * 2000}] * 500
    quadratic = "{% set n = namespace(t='') %}{% for m in messages %}{% set n.t = n.t ~ m.content %}{% endfor %}{{ n.t | trim }}"
    assert len(ChatTemplate(quadratic).render(messages[:200])) == 400_000
    assert len(ChatTemplate("{% for m in messages %}{{ m.content | trim }}{% endfor %}").render(messages)) == 2_000_000
    growing = "{% set n = namespace(l=[]) %}{% for m in messages %}{% set n.l = n.l + [m] %}{% endfor %}{{ n.l | length }}"
    assert ChatTemplate(growing).render(messages) == "1000"


def test_only_plain_values_reach_the_template(tmp_path):
    with pytest.raises(InputError, match="messages: holds PosixPath, which is no JSON value"):
        ChatTemplate("x").render([{"role": "user", "content": tmp_path}])
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InputError, match="nested too deep"):
        ChatTemplate("x").render([{"role": "user", "content": deep}])


def write(folder, **config):
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_found_in_a_folder(tmp_path):
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    template = ChatTemplate.load(write(tmp_path, chat_template="1{{ bos_token }}{{ eos_token }}{{ pad_token }}", **tokens))
    assert template.render([]) == "1<s></s>"
    (tmp_path / "chat_template.jinja").write_text("2{{ bos_token }}")
    assert ChatTemplate.load(tmp_path).render([]) == "2<s>"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates/rag.jinja").write_text("3")
    assert ChatTemplate.load(tmp_path, "rag").render([]) == "3"
    with pytest.raises(InputError, match="no chat template 'x'; it has default, rag"):
        ChatTemplate.load(tmp_path, "x")


def test_a_list_of_templates(tmp_path):
    write(tmp_path, chat_template=[{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}])
    assert [ChatTemplate.load(tmp_path, name).render([]) for name in ("default", "tool_use")] == ["a", "b"]
    with pytest.raises(InputError, match="each item needs name and template"):
        ChatTemplate.load(write(tmp_path, chat_template=[{"name": 1}]))


def test_absent_ones_name_the_way_out(tmp_path):
    for config in ({}, {"bos_token": "<s>"}):
        with pytest.raises(InputError, match="has no chat template .*give the text of the prompt instead of messages"):
            ChatTemplate.load(write(tmp_path, **config))
    with pytest.raises(InputError, match="no such folder"):
        ChatTemplate.load(tmp_path / "nowhere")


def test_found_in_gguf_metadata(shared):
    template = ChatTemplate.load(shared / "data/tokenizers/gguf/ggml-vocab-phi-3.gguf")
    assert template.render(CHAT[1:2]).startswith("<s><|user|>")
    with pytest.raises(InputError, match="has no chat template"):
        ChatTemplate.load(shared / "data/tokenizers/gguf/ggml-vocab-llama-spm.gguf")
