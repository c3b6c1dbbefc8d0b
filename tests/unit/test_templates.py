"""Input templates give arguments with their types, and nothing else."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.bus.errors import FilterInvalid, InputFailed
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.templates import check_variables, compile_input

EVENT = CloudEvent.of_document(
    {
        "id": "7",
        "source": "/lab",
        "specversion": "1.0",
        "type": "org.example.done",
        "data": {
            "n": 3,
            "list": [1, 2.5, None],
            "text": "hello",
            "items": ["a", "b"],
            "flag": False,
            "nested": {"x": 1},
        },
    }
)


def rendered(template: Any) -> Any:
    return compile_input({"args": [template]}).render(EVENT).args[0]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        (5, 5),
        (None, None),
        ("{{ event.data.n }}", 3),
        ("{{event.data.n}}", 3),
        ("{{ event.data.list }}", [1, 2.5, None]),
        ("{{ event.data.flag }}", False),
        ("{{ event.data.nested }}", {"x": 1}),
        ("{{ event.data.items }}", ["a", "b"]),
        ("{{ event['data']['text'] }}", "hello"),
        ("{{ event.data.list[1] }}", 2.5),
        ("n is {{ event.data.n }}", "n is 3"),
        (" {{ event.data.n }}", " 3"),
        ("{{ event.data.n }}\n", "3\n"),
        ("{{ event.data.n }}{{ event.data.n }}", "33"),
        ("{{ event.data.n + 1 }}", 4),
        ("{{ event.data.n ~ '/' ~ event.id }}", "3/7"),
        ("{{ event.data.missing | default(9) }}", 9),
        ("{{ event.data.text | upper }}", "HELLO"),
        ("{{ event.data.items | join('-') }}", "a-b"),
        ("{{ event.data.items | map('upper') | list }}", ["A", "B"]),
        ("{{ event.data.nested | tojson }}", '{"x":1}'),
        ("{{ {'k': event.data.n} }}", {"k": 3}),
        ("{{ range(3) | list }}", [0, 1, 2]),
        ("{% if event.data.n > 2 %}big{% else %}small{% endif %}", "big"),
        ("{% for i in event.data['items'] %}{{ loop.index }}{{ i }}{% endfor %}", "1a2b"),
        ({"deep": ["{{ event.id }}", {"er": "{{ event.data.n }}"}]}, {"deep": ["7", {"er": 3}]}),
    ],
)
def test_a_template_gives_this(template: Any, expected: Any) -> None:
    value = rendered(template)
    assert value == expected
    assert type(value) is type(expected)


def test_args_and_kwargs_are_rendered_both() -> None:
    arguments = compile_input({"args": ["{{ event.id }}"], "kwargs": {"n": "{{ event.data.n }}"}}).render(EVENT)
    assert (arguments.args, arguments.kwargs) == (["7"], {"n": 3})


def test_without_an_input_the_event_is_the_argument() -> None:
    arguments = compile_input(None).render(EVENT)
    assert (arguments.args, arguments.kwargs) == ([EVENT.document], {})


def test_an_empty_input_is_a_call_without_arguments() -> None:
    arguments = compile_input({}).render(EVENT)
    assert (arguments.args, arguments.kwargs) == ([], {})


@pytest.mark.parametrize(
    ("document", "pointer", "words"),
    [
        ([], "", "args"),
        ({"more": 1}, "", "args"),
        ({"args": {}}, "/args", "list"),
        ({"kwargs": []}, "/kwargs", "object"),
        ({"args": ["a", "{{ event. }}"]}, "/args/1", "line 1"),
        ({"args": ["\n\n{{ ) }}"]}, "/args/0", "line 3"),
        ({"kwargs": {"a/b": ["{% if %}"]}}, "/kwargs/a~1b/0", "line 1"),
        ({"args": ["{{ x | nosuch }}"]}, "/args/0", "nosuch"),
        ({"args": ["{{ x is nosuch }}"]}, "/args/0", "nosuch"),
        ({"args": ["{% set x = 1 %}"]}, "/args/0", "not allowed"),
        ({"args": ["{% include 'x' %}"]}, "/args/0", "not allowed"),
        ({"args": ["{% macro m() %}{% endmacro %}"]}, "/args/0", "not allowed"),
        ({"args": ["{% for x in y recursive %}{{ loop(x) }}{% endfor %}"]}, "/args/0", "recursive"),
        ({"args": ["{{ f(*x) }}"]}, "/args/0", "not allowed"),
        ({"args": ["{{" + "(" * 5000 + "1" + ")" * 5000 + "}}"]}, "/args/0", "deep"),
        ({"args": ["{{ 1 }}" + " " * 20_000]}, "/args/0", "characters"),
        ({"args": ["x" * 70_000]}, "", "65536"),
        ({"args": ["{{ event.data | _steps }}"]}, "/args/0", "_steps"),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_its_place(document: Any, pointer: str, words: str) -> None:
    with pytest.raises(FilterInvalid, match=words) as caught:
        compile_input(document)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    "template",
    [
        "{{ event.data.missing }}",
        "{{ event.data.missing.deeper }}",
        "text {{ event.data.missing }}",
        "{{ nothing }}",
        "{{ [event.data.missing] }}",
        "{{ 'x' if event.data.n > 5 }}",
        "{{ 1 / 0 }}",
        "{{ range }}",
        "{{ self }}",
        "{{ {1: 2} }}",
    ],
)
def test_a_value_that_is_missing_or_no_json_is_an_error(template: str) -> None:
    with pytest.raises(InputFailed) as caught:
        rendered(template)
    assert caught.value.pointer == "/args/0"


ATTACKS = [
    "{{ event.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ event.data.text.format }}",
    "{{ '{0.__class__}'.format(event) }}",
    "{{ event['__class__'] }}",
    "{{ event | map(attribute='__class__') | list }}",
    "{{ event.update({'a': 1}) }}",
    "{{ event.data.list.append(1) }}",
    "{{ range.__globals__ }}",
    "{{ loop.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler }}",
    "{{ lipsum() }}",
]
BOMBS = [
    "{{ 'x' * 10000000000 }}",
    "{{ [0] * 10000000000 }}",
    "{{ 9 ** 99999999 }}",
    "{{ (10 ** 1000) * (10 ** 1000) }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ range(10000000000) | list }}",
    "{{ '{:9999999999}'.format(1) }}",
    "{{ 'x'.ljust(9999999999) }}",
    "{{ 1.5 | round(999999999, 'ceil') }}",
    "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}",
    "{% for a in range(10000) %}{{ event.data | tojson }}{{ range(10000) | list }}{% endfor %}",
    "{{ range(10000) | map('string') | join('x' ~ range(1000) | join('y')) }}",
    "{{ ('a' ~ range(9999) | join) | replace('1', range(9999) | join) }}",
    "{{ [" + ", ".join(["range(9999) | list"] * 50) + "] }}",
]


@pytest.mark.parametrize("template", ATTACKS)
def test_a_template_does_not_get_out_of_its_sandbox(template: str) -> None:
    with pytest.raises((FilterInvalid, InputFailed)):
        rendered(template)


@pytest.mark.parametrize(
    "template", ["{{ ''.__class__ }}", "{{ event['__class__'] }}", "{{ event.data.__init__ }}", "{{ 'a'.format(1) }}"]
)
def test_an_attribute_that_no_event_could_have_is_refused_when_the_template_is_made(template: str) -> None:
    with pytest.raises(FilterInvalid, match="may not be read here") as caught:
        compile_input({"args": [template]})
    assert caught.value.pointer == "/args/0"


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({"args": ["{{ data.level }}"]}, "/args/0"),
        ({"kwargs": {"a/b": ["at {{ events[0].id }}"]}}, "/kwargs/a~1b/0"),
        ({"args": [1, "{% if level %}high{% endif %}"]}, "/args/1"),
    ],
)
def test_a_variable_that_there_never_is_has_its_place(document: Any, pointer: str) -> None:
    compile_input(document)
    with pytest.raises(FilterInvalid, match=r"there is no variable '.*' here; templates see 'event'") as caught:
        check_variables(document, "event")
    assert caught.value.pointer == pointer


def test_variables_of_loops_and_functions_are_there() -> None:
    text = "{% for each in event.data.list %}{{ each }}{{ loop.index }}{{ range(3) }}{% endfor %}"
    check_variables({"args": [text, 5, None]}, "event")
    check_variables("{{ message.data }}", "message")
    for known in ("event", "events"):
        check_variables({"args": [f"{{{{ {known} }}}}", "{{ events if events is defined else event }}"]}, known)


@pytest.mark.parametrize("template", ["{{ event.data._id }}", "{{ event.data.__typename }}", "{{ 'a'.upper() }}"])
def test_data_may_have_names_that_look_private(template: str) -> None:
    compile_input({"args": [template]})


@pytest.mark.timeout(30)
@pytest.mark.parametrize("template", BOMBS)
def test_a_template_that_would_take_all_time_or_memory_is_ended(template: str) -> None:
    with pytest.raises((FilterInvalid, InputFailed)):
        rendered(template)


def test_rendering_does_not_change_the_event() -> None:
    before = EVENT.encode()
    rendered("{{ event.data.list }}").append("changed")
    assert EVENT.encode() == before


@settings(max_examples=100)
@given(st.text(alphabet="{}%|()[]'\" .,+-*~abcdefgeventdata0123\n", max_size=40))
def test_any_text_is_compiled_or_refused_and_rendered_or_refused(text: str) -> None:
    with contextlib.suppress(FilterInvalid, InputFailed):
        compile_input({"args": [text]}).render(EVENT)
