"""`user_config_template.yaml.j2`: what it gives for a user's options."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.endpoint.configuration.files import ConfigurationFiles
from headrace.endpoint.configuration.pool_config import PoolConfig
from headrace.endpoint.errors import ConfigInvalid, OptionsInvalid, TemplateInvalid

THE_PAGE = """\
display_name: My Containerized Endpoint
engine:
  type: GlobusComputeEngine
  container_type: {{ container_type }}
  container_uri: {{ container_uri }}
  container_cmd_options: {{ container_cmd_options|default() }}
  provider:
    init_blocks: 1
    max_blocks: 1
    min_blocks: 0
    type: LocalProvider
"""
"""As "Globus Compute for AWS Lambda Developers" prints it."""

EVERY_PLACE = """\
# {{ a }}
{% macro given(x) %}
macro: {{ x }}
{% endmacro %}
{% set block %}
first {{ a }}
second
{% endset %}
plain: {{ a }}
longer: module load {{ a }} # {{ a }}
double: "load {{ a }} \\n"
single: 'load {{ a }}'
whole_double: "{{ a }}"
shell: "module load {{ a | shell_escape }}"
shell_alone: {{ a | shell_quote }}
cut: {{ a[1:-1] }}
added: {{ "py" ~ a }}
plus: {{ "py" + a }}
joined: {{ ["x", a] | join("-") }}
upper: {{ a | upper }}
formatted: {{ "%s!" | format(a) }}
number: {{ n }}
list: {{ l }}
mapping: {{ d }}
{{ given(a) }}
lines: |
  #!/bin/sh
  echo {{ a }}
  {{ block | indent(2) }}
folded: >-
  {{ a }}
  {{ a | shell_escape }}
flow: {a: "{{ a }}", b: {{ a }}, c: ['{{ a }}']}
anchored: &it {{ a }}
again: *it
tagged: !!str {{ a }}
nested:
  - - {{ a }}
    - deeper: {{ a }}
"""

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def files(
    directory: Path, template: str | None, *, config: str = "", schema: object = None, **others: str
) -> ConfigurationFiles:
    """The configuration of a directory with these files."""
    (directory / "config.yaml").write_text(config)
    if template is not None:
        (directory / "user_config_template.yaml.j2").write_text(template)
    if schema is not None:
        (directory / "user_config_schema.json").write_text(json.dumps(schema))
    for name, text in others.items():
        (directory / name.replace("__", ".")).write_text(text)
    return ConfigurationFiles.read(directory)


def rendered(directory: Path, template: str, **options: Any) -> Any:
    return yaml.safe_load(files(directory, template).render(options))


def structure(value: Any) -> Any:
    """A document without its texts."""
    if isinstance(value, dict):
        return [structure(each) for each in value.values()]
    if isinstance(value, list):
        return [structure(each) for each in value]
    return type(value)


def test_the_pages_template_gives_what_it_gives_there(tmp_path: Path) -> None:
    text = files(tmp_path, THE_PAGE).render({"container_type": "docker", "container_uri": "python:3.12-slim"})

    assert text.splitlines() == [
        "display_name: My Containerized Endpoint",
        "engine:",
        "  type: GlobusComputeEngine",
        '  container_type: "docker"',
        '  container_uri: "python:3.12-slim"',
        "  container_cmd_options: ",
        "  provider:",
        "    init_blocks: 1",
        "    max_blocks: 1",
        "    min_blocks: 0",
        "    type: LocalProvider",
    ]


def test_the_pages_template_is_a_pool_configuration(tmp_path: Path) -> None:
    pool = files(tmp_path, THE_PAGE).pool(
        {"container_type": "podman", "container_uri": "lab", "container_cmd_options": "-v /d"}
    )

    assert pool.display_name == "My Containerized Endpoint"
    assert pool.engine == {
        "type": "GlobusComputeEngine",
        "container_type": "podman",
        "container_uri": "lab",
        "container_cmd_options": "-v /d",
        "provider": {"init_blocks": 1, "max_blocks": 1, "min_blocks": 0, "type": "LocalProvider"},
    }


def test_a_missing_option_is_named_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(OptionsInvalid) as caught:
        files(tmp_path, THE_PAGE).pool({"container_type": "docker"})

    assert f"{tmp_path}/user_config_template.yaml.j2, line 5: 'container_uri' is undefined" in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(text=TEXTS)
def test_no_text_changes_the_structure_of_what_is_rendered(tmp_path: Path, text: str) -> None:
    def document(a: str) -> Any:
        return rendered(tmp_path, EVERY_PLACE, a=a, n=3, l=["x", a], d={"k": a})

    found = document(text)

    assert structure(found) == structure(document("abc"))
    assert found["plain"] == found["whole_double"] == found["again"] == found["macro"] == text
    assert found["double"] == f"load {text} \n"
    assert shlex.split(found["shell"]) == ["module", "load", text]
    assert shlex.split(found["shell_alone"]) == [text]
    assert found["list"] == ["x", text]
    assert found["mapping"] == {"k": text}
    assert found["flow"] == {"a": text, "b": text, "c": [text]}
    assert found["nested"] == [[text, {"deeper": text}]]


@pytest.mark.parametrize(
    "text",
    [
        'x", evil: 1, y: "', "x\nevil: 1", "x: y", "*it", "&b", "!!int 3", "true", "3", "null", "# no", "- a", "{}",
        "[1", "%", "---", "...", "'", "''", '"', "\\", "\\n", "|", ">", " x", "\t", "", "\x00", "\x85", "\u2028",
        "\ue0001.0\ue001", "{{ 1 }}",
        "<<", "\U0001f600", "$(id)", "`id`", "; id", "'; id; '",
    ],
)  # fmt: skip
def test_what_somebody_would_try_stays_a_text(tmp_path: Path, text: str) -> None:
    found = rendered(tmp_path, EVERY_PLACE, a=text, n=3, l=[text], d={"k": text})

    assert structure(found) == structure(rendered(tmp_path, EVERY_PLACE, a="abc", n=3, l=["x"], d={"k": "x"}))
    assert found["plain"] == text
    assert shlex.split(found["shell"]) == ["module", "load", text]


@pytest.mark.parametrize(
    "mixed",
    [
        "{{ own % (a|list|join) }}", "{{ own|format(a[1:-1]) }}", "{{ own.replace('@', a[1:-1]) }}",
        "{{ own.format(a|list|join) }}", "{{ own.join(['x', a[1:-1]]) }}", "{{ own|replace('@', a[1:-1]|list|join) }}",
        "{{ own + ('%s' % a[1:-1]) }}", "{{ own ~ [a]|string }}", "{{ own|indent(a) }}", "{{ own|indent(a[1:-1]) }}",
        "{{ [own, a[1:-1]|list|join]|join('\n') }}", "{{ own|truncate(3, true, a[1:-1], 0) }}",
        "{% autoescape false %}{{ own ~ a[1:-1] }}{% endautoescape %}", "{{ '%s'|format(a[1:-1]) }}",
        "{{ own|center(40) }}{{ a[1:-1]|list|join }}", "{{ ('%s' % own).replace('@', a) }}",
    ],
)  # fmt: skip
def test_no_way_to_mix_a_text_into_text_of_the_template_makes_it_structure(tmp_path: Path, mixed: str) -> None:
    template = "{% set own %}x: @ %s {}{% endset %}\nbefore: 1\n" + mixed + "\nafter: 2\n"
    for text in ("{b: evil}", "1\nevil: 2", "\nevil: 2\n", "&evil [1]", "evil: 3"):
        try:
            found = rendered(tmp_path, template, a=text)
        except TemplateInvalid:
            continue
        assert "evil" not in found.keys() - {"before", "after", "x"}
        assert all(isinstance(value, int | str | None) for value in found.values())


@pytest.mark.parametrize("much", ["{{ 'x' * n }}", "{{ n * [1] }}", "{{ 2 ** n }}", "{{ range(n)|list }}"])
def test_a_number_of_a_user_does_not_fill_the_memory(tmp_path: Path, much: str) -> None:
    with pytest.raises(TemplateInvalid, match=r"too large|too big"):
        files(tmp_path, f"a: {much}").render({"n": 10**12})


def test_the_name_of_an_option_inside_another_cannot_change_the_structure_either(tmp_path: Path) -> None:
    template = "{% for key, value in d.items() %}\n{{ key }}: {{ value }}\n{% endfor %}"

    assert rendered(tmp_path, template, d={"a: b\nc": 1, "<<": "x"}) == {"a: b\nc": 1, "<<": "x"}


def test_values_keep_their_types(tmp_path: Path) -> None:
    template = (
        "a: {{ a }}\nb: {{ b }}\nc: {{ c }}\nd: {{ d }}\ne: {{ e }}\nf: {{ f|default('4') }}\ng: {{ a|default(2) }}"
    )

    assert rendered(tmp_path, template, a=1, b=True, c=1e22, d=None, e=[1, {"x": "y"}]) == {
        "a": 1, "b": True, "c": 1e22, "d": None, "e": [1, {"x": "y"}], "f": 4, "g": 1,
    }  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(value=JSON)
def test_every_value_of_json_arrives_as_it_was_given(tmp_path: Path, value: Any) -> None:
    found = rendered(tmp_path, "a: {{ v }}\nb:\n- {{ v }}\n- [{{ v }}]\nc: {{ v|tojson }}", v=value)

    assert found["a"] == value
    assert found["b"] == [value, [value]]
    assert json.loads(json.dumps(found["a"])) == value


def test_texts_compare_as_in_globus_compute_and_as_they_are(tmp_path: Path) -> None:
    template = (
        """a: {{ environment == '"test"' }}\nb: {{ environment == 'test' }}\nc: {{ environment in ['x', 'test'] }}"""
    )

    assert rendered(tmp_path, template, environment="test") == {"a": True, "b": True, "c": True}
    assert rendered(tmp_path, template, environment="no") == {"a": False, "b": False, "c": False}


def test_templates_extend_and_include_what_lies_beside_them(tmp_path: Path) -> None:
    template = "{% extends 'base.yaml.j2' %}{% block provider %}{% include 'slurm.yaml' %}{% endblock %}"

    found = files(
        tmp_path,
        template,
        base__yaml__j2="engine:\n  type: {{ kind }}\n  provider:\n{% block provider %}{% endblock %}",
        slurm__yaml="    type: SlurmProvider\n    account: {{ account }}\n",
    ).pool({"kind": "GlobusComputeEngine", "account": "a: b"})

    assert found.engine == {"type": "GlobusComputeEngine", "provider": {"type": "SlurmProvider", "account": "a: b"}}


@pytest.mark.parametrize("name", ["endpoint.token", "../other/x.yaml", "/etc/passwd", "link.yaml"])
def test_nothing_else_is_included(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "endpoint.token").write_text("secret")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.yaml").write_text("secret: 1")
    (directory / "link.yaml").symlink_to(tmp_path / "other" / "x.yaml")

    with pytest.raises(TemplateInvalid, match=r"line 2: .* cannot be included"):
        files(directory, f"a: 1\n{{% include '{name}' %}}").render({})


def test_what_headrace_knows_is_there_under_both_names(tmp_path: Path) -> None:
    found = files(
        tmp_path,
        "python: {{ _GC.user_runtime.python_version[1:-1] }}\nwho: {{ mapped_identity.local.uname }}\n"
        "name: {{ _GC.parent_config.display_name }}\nenv: {{ _GC.env.SITE }}\n"
        "{% if 1001 in _GC.mapped_identity.local.groups %}group: yes{% endif %}",
        config="display_name: The lab",
        user_environment__yaml="SITE: 12",
    ).render(
        {},
        user_runtime={"python_version": "3.12.1 (main)"},
        mapped_identity={"local": {"uname": "ada", "groups": [1001]}},
    )

    assert yaml.safe_load(found) == {
        "python": "3.12.1 (main)", "who": "ada", "name": "The lab", "env": "12", "group": True,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["_GC", "parent_config", "user_runtime", "mapped_identity"])
def test_reserved_names_are_no_options(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionsInvalid, match=f"the option '{name}': this name is reserved"):
        files(tmp_path, THE_PAGE).render({name: {}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": "many"}, "the option 'blocks': 'many' is not of type 'integer'"),
        ({"blok": 1}, "the option 'blok': this endpoint does not know it; did you mean 'blocks'?"),
        ({"zzz": 1}, "the option 'zzz': this endpoint does not know it; it knows blocks, deep"),
        ({"deep": {"x": "1"}}, "the option 'deep/x': '1' is not of type 'integer'"),
    ],
)
def test_options_are_held_against_the_schema(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    schema = {
        "properties": {"blocks": {"type": "integer"}, "deep": {"properties": {"x": {"type": "integer"}}}},
        "additionalProperties": False,
    }
    with pytest.raises(OptionsInvalid) as caught:
        files(tmp_path, "a: 1", schema=schema).render(options)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": "\ud800"}, "half a character"),
        ({"a": float("nan")}, "no number of JSON"),
        ({"a": {1}}, "is a set"),
        ({"a": "x" * 70_000}, "more than 65536 bytes"),
        ({"a": 10**5000}, "more than 64 bits"),
    ],
)
def test_options_are_small_and_json(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsInvalid, match=message):
        files(tmp_path, "a: 1").render(options)


def test_options_are_refused_where_there_is_no_template(tmp_path: Path) -> None:
    configuration = files(tmp_path, None, config="workers: 3")

    assert configuration.pool({}).workers == 3
    with pytest.raises(OptionsInvalid, match="this endpoint takes no options \\(given: 'a'\\)"):
        configuration.pool({"a": 1})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a: 1\n{% if %}", "user_config_template.yaml.j2, line 2: Expected an expression"),
        ("a: 1\nb: {{ ''.__class__ }}", "line 2: not allowed in a template: access to attribute '__class__'"),
        ("a: 1\nb: {{ 1 / 0 }}", "line 2: ZeroDivisionError"),
        ("a: 1\nb: {{ 'x'|safe }}", "line 2: No filter named 'safe'"),
        ("a: 1\n b: 2", "rendered, is not valid YAML in line 2: mapping values are not allowed here: b: 2"),
        ("a: &{{ 'x' }} 1", "rendered, is not valid YAML in line 1"),
        ("b: {% filter truncate(9, true, '') %}{{ ['x', 'y'] }}{% endfilter %}", "cut apart"),
    ],
)
def test_a_wrong_template_is_named_with_its_line(tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(TemplateInvalid) as caught:
        files(tmp_path, template).render({})

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rendered", "message"),
    [
        ("engine:\n  type: X\nenigne: 1", "line 3: unknown key 'enigne'; did you mean 'engine'?"),
        ("idle_soft_s: soon", "line 1: idle_soft_s: 'soon' is not of type 'number'"),
        ("\nhigh_assurance: true", "line 2: high_assurance: Headrace does not take this key of Globus Compute"),
        ("allowed_functions: [x]", "line 1: allowed_functions/0: 'x'"),
        ("engine: X", "line 1: engine: 'X' is not of type 'object'"),
    ],
)
def test_what_a_template_gives_is_checked_with_lines(rendered: str, message: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        PoolConfig().parse(rendered, name="rendered")

    assert f"rendered, {message}" in str(caught.value)


def test_a_pool_has_what_config_yaml_says_and_its_template_goes_before(tmp_path: Path) -> None:
    allowed, other = uuid4(), uuid4()
    pool = files(
        tmp_path,
        f"workers: {{{{ n }}}}\nenvironment: {{C: 4}}\nallowed_functions: [{allowed}, {other}]\n"
        "idle_heartbeats_soft: 2",
        config=f"workers: 3\nsandbox: true\nenvironment: {{A: 1, B: 1}}\nallowed_functions: [{allowed}]",
        user_environment__yaml="B: 2\nC: 3",
    ).pool({"n": 5})

    assert pool.workers == 5
    assert pool.sandbox is True
    assert pool.environment == {"A": "1", "B": "2", "C": "4"}
    assert all(each.permits(allowed, "") for each in pool.allow_lists)
    assert not all(each.permits(other, "") for each in pool.allow_lists)
    assert (pool.idle_soft_s, pool.idle_hard_s) == (60.0, 172_800.0)


def test_keys_of_globus_compute_that_nothing_is_lost_without_are_told_of() -> None:
    pool = PoolConfig().parse("heartbeat_threshold: 120\n", name="rendered")

    assert pool == PoolConfig()
    assert pool.notes == ("line 1: heartbeat_threshold has no effect: a manager that is gone ends its pools at once",)


def test_a_config_from_before_there_were_templates_is_read(tmp_path: Path) -> None:
    without_effect = "heartbeat_threshold: 120\nidle_heartbeats_soft: 0\ndetach_endpoint: true\nlog_dir: logs\n"
    since = "mu_child_ep_grace_period_s: 30\n"
    (tmp_path / "config.yaml").write_text(f"{without_effect}{since}engine: {{type: ThreadEngine}}\n")

    read = ConfigurationFiles.read(tmp_path)

    assert read.config.engine is not None
    assert len(read.notes) == 5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("user_environment.yaml", "A: 1\nHEADRACE_TOKEN: x", "is not a variable's name"),
        ("user_environment.yaml", "A: [1]", "line 1: A: \\[1\\] is not of type"),
        ("user_config_schema.json", '{"type":\n 3', "line 2, column 3: not valid JSON"),
        ("user_config_schema.json", '{"type": "thing"}', "/type"),
        ("user_config_schema.json", "[]", "a schema is a JSON object"),
        ("config.yaml", "user_config_template_path: nowhere.j2", "there is no file"),
        (
            "config.yaml",
            "queue_limits:\n  bundels: 3",
            "line 2: unknown key 'queue_limits/bundels'; did you mean 'bundles'",
        ),
        ("config.yaml", "\nadmins: [x]", "line 2: admins: Headrace does not take this key"),
        (
            "config.yaml",
            "endpoint_setup: x",
            "line 1: endpoint_setup: .* here: put it into user_config_template.yaml.j2",
        ),
    ],
)
def test_the_other_files_are_checked_too(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / name).write_text(text)

    with pytest.raises(ConfigInvalid, match=message) as caught:
        ConfigurationFiles.read(tmp_path)

    assert str(tmp_path / name.replace("nowhere", "")) in str(caught.value) or "config.yaml" in str(caught.value)


def test_a_template_that_needs_options_leaves_nothing_to_those_who_give_none(tmp_path: Path) -> None:
    pool, refusal = files(tmp_path, THE_PAGE, config="workers: 3").default_pool()

    assert pool == PoolConfig(workers=1)
    assert refusal is not None
    assert "takes no task without options" in refusal
    assert "line 4: 'container_type' is undefined" in refusal


def test_a_template_that_needs_none_gives_the_default_pool(tmp_path: Path) -> None:
    template = "workers: {{ workers|default(2) }}\nenvironment: {PYTHON: {{ _GC.user_runtime.python_version }}}"

    pool, refusal = files(tmp_path, template, config="workers: 3").default_pool()

    assert (pool.workers, refusal) == (2, None)
    assert pool.environment["PYTHON"].startswith("3.")
