"""Commands with fields: what bash makes of a value is the value, wherever its field stands."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.bus.shell_template import field_names, fill

PLACES = (
    "printf %s {x}",
    "printf %s '{x}'",
    'printf %s "{x}"',
    'printf %s "$(printf %s {x}.)"',
    'printf %s "$(printf %s "{x}.")"',
    'a={x}; printf %s "$a"',
    "# it's fine\nprintf %s {x}",
    "cat <<END >/dev/null\nit's \"\nEND\nprintf %s {x}",
    'say() {{ printf %s "$1"; }}; say {x}',
    "echo ${NOPE:-it} >/dev/null; printf %s {x}",
    "((1 + (2 * 3))); printf %s {x}",
    "printf %s pre-{x}'-'\"{x}\"",
)
shell_texts = st.text(st.sampled_from("ab \n\t'\"\\$`()*~!#;&|<>{}[]-é"), max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PLACES), shell_texts)
def test_a_value_arrives_as_it_is_wherever_its_field_stands(place: str, value: str) -> None:
    wanted = value
    if '"$(' in place:
        wanted = f"{value}."
    elif "pre-" in place:
        wanted = f"pre-{value}-{value}"

    printed = subprocess.run(["bash", "-c", fill(place, {"x": value})], capture_output=True, check=True)

    assert printed.stdout.decode() == wanted


@pytest.mark.parametrize(
    "command",
    [
        "cat <<END\n{x}\nEND",
        "cat <<-'END'\n\t{x}\n\tEND",
        "echo `echo {x}`",
        "echo a # {x}",
        "echo $((1 + {x}))",
        "((a = {x}))",
        "echo $'{x}'",
        "echo \\{x}",
        'echo "\\{x}"',
        "echo ${A:-{x}}",
        'echo "$(case a in a) echo {x};; esac)"',
        'echo "$((echo a); echo {x})"',
    ],
)
def test_a_field_where_no_quoting_helps_is_refused(command: str) -> None:
    with pytest.raises(ValueError, match=r"field \{x\} .* no quoting .* \{x!raw\}"):
        fill(command, {"x": 1})

    assert fill(command.replace("{x}", "{x!raw}"), {"x": "v"}) == command.replace("{x}", "v")


@pytest.mark.parametrize(
    "command",
    [
        "awk '{print $1}' f",
        "echo ${HOME} {1..3} {a,b}",
        "find . -exec ls {} +",
        "f() { if true; then { date; } fi; }",
        "awk 'BEGIN{if(1){print 2 }}'",
    ],
)
def test_braces_of_the_shell_stay(command: str) -> None:
    assert fill(command, {}) == command


def test_doubled_braces_are_single_ones_as_for_format() -> None:
    assert fill("awk '{{if ($1) {{print {n}}}}}'", {"n": 3}) == "awk '{if ($1) {print 3}}'"
    assert fill("echo ${{HOME}} {{x}}", {}) == "echo ${HOME} {x}"


def test_values_are_formatted_quoted_and_joined_or_left_alone() -> None:
    assert fill("{n:03d} {t!r} {more!raw} {files}", {"n": 7, "t": "a", "more": "| wc", "files": ["a b", "c"]}) == (
        """007 ''"'"'a'"'"'' | wc 'a b' c"""
    )
    assert fill("'{files}'", {"files": ("a", "it's")}) == "'a it'\"'\"'s'"


def test_arguments_that_do_not_fit_are_named() -> None:
    assert field_names("{b} {a} {b!raw}") == ("b", "a")
    with pytest.raises(TypeError, match=r"needs 'print'; .*write \{\{print\}\}"):
        fill("awk '{print}'", {})
    with pytest.raises(TypeError, match=r"no field 'patern'; its fields are pattern"):
        fill("grep {pattern}", {"pattern": 1, "patern": 2})
    with pytest.raises(TypeError, match="it has no fields"):
        fill("date", {"x": 1})
