"""endpoint-config.md: the keys of an endpoint's configuration, from their schemas and from the engines."""

from __future__ import annotations

from configuration_keys import engine_sections, file_keys, foreign_keys, provider_sections
from tables import NOTE, Rows, table

_CONFIG = """\
# Configuration of an endpoint

The files lie in `HOME/endpoints/NAME`; `headrace endpoint configure NAME` writes them with comments.

| file | what it says |
| --- | --- |
| `config.yaml` | the endpoint, and what all its pools have in common |
| `user_config_template.yaml.j2` | the configuration of one pool, made from a user's options |
| `user_config_schema.json` | the options that the template takes, as a JSON schema (2020-12) |
| `user_environment.yaml` | variables that all pools find in their environment |

**How they go together.** Without a template, `config.yaml` configures the one pool, and users can give no options. With
a template, each pool is what the template gives for a user's options, on top of what `config.yaml` says of pools; who
gives no options gets what it gives for none. So what a template demands, a container for instance, nobody gets around.
Where the template needs an option that is not given, that submission is refused, with the option's name.

Unknown keys, keys that are there twice and wrong values are refused with line and key: `headrace endpoint validate
NAME` says so before anybody meets it, `headrace endpoint render-user-config NAME --options '{"workers": 2}'` shows what
comes of options. A change counts from the next start of the endpoint, or with `headrace endpoint reload NAME` (a
SIGHUP to its manager): it says what changed, and no task is cut short. How to bring an endpoint of Globus Compute
along is in [its own how-to](../how-to/move-from-globus-compute.md); where other settings lie is in
[settings.md](settings.md).

## `config.yaml`
"""

_WATCH = """\
### `watch`

Each folder of the list has these keys; `folder` is the only one that must be there. What the events hold and what is
promised is in [announce files](../how-to/announce-files.md). A change counts after `headrace endpoint reload`.
"""

_TEMPLATE = """\
## `user_config_template.yaml.j2`

A Jinja2 template, in its sandbox, in which nothing may be undefined: `{{ blocks|default(1) }}` makes an option one
that may be left out. It may `extends`, `include` and `import` files of its directory that end with `.j2`, `.jinja`,
`.jinja2`, `.yaml` or `.yml`. What it gives is YAML with these keys; without a value (`key:`) a key is as if it were
not there:
"""

_VALUES = """\
### What stands for an option

Whatever is in a text, it stays a part of one value: the YAML is read before the texts are put into it.

| in the template | with the option `it's` | |
| --- | --- | --- |
| `key: {{ name }}` | `key: "it's"` | a text stays a text, also `true` and `3` |
| `key: load {{ name }}` | `key: "load \\"it's\\""` | in a longer text it brings quotes, as in Globus Compute |
| `key: "load {{ name }}"` | `key: "load it's"` | within quotes of the template it has none |
| `key: "load {{ name \\| shell_quote }}"` | `key: "load 'it'\\"'\\"'s'"` | one word for a shell, whatever is in it |
| `key: {{ values }}` | `key: [1, "it's"]` | lists and objects, in one line |

**Quotes are no protection from a shell**, not even those that a text brings along: `$(...)` works within them. What
ends up in `worker_init`, `endpoint_setup` or another command goes through `shell_quote` (Globus Compute's name,
`shell_escape`, is the same), unless users shall give commands.

Texts compare as they are, `{% if queue == 'long' %}`, and in the form that Globus Compute compares, `'"long"'`.

### What templates know besides

No option may have one of these names.

| variable | what it is |
| --- | --- |
| `_GC.user_runtime` | their `python_version`, `python.version_tuple` and `headrace_version`, as far as known |
| `_GC.mapped_identity` | who the user is on this machine; empty where no identities are mapped |
| `_GC.parent_config` | what `config.yaml` says |
| `_GC.env` | what `user_environment.yaml` says |
| `user_runtime`, `mapped_identity`, `parent_config` | the same, by their older names |

Users with the same options share no pool, but one user's clients do: what `_GC.user_runtime` says is that of the client
which asked for the pool first.
"""

_SCHEMA_FILE = """\
## `user_config_schema.json`

Options are held against it before the template sees them. With `"additionalProperties": false` an option that it does
not name is refused. All options together have at most 65 536 bytes as JSON.

## `user_environment.yaml`

Names and values, nothing nested. They go before the `environment` of `config.yaml`, and that of the template goes
before them. Variables that begin with `HEADRACE_` are refused, and those of the manager are taken out: no token reaches
a pool's workers.

## `engine`

`type` names one of these; without it, it is `ProcessEngine`. Each takes its own keys.
"""

_PROVIDERS = """\
## `provider`

Under the `engine` of a `ParslEngine`. `type` names one of these; keys that are left out are as Parsl has them.
"""

_FOREIGN = """\
## Keys of Globus Compute that do nothing here
"""


def configuration() -> str:
    """The keys of an endpoint's configuration, from their schemas and from the engines."""
    head = ("key", "meaning", "default")
    parts = [NOTE, _CONFIG, table(head, file_keys("endpoint-config"))]
    parts += [_WATCH, table(head, file_keys("watch-folder"))]
    parts += [_TEMPLATE, table(head, file_keys("pool-config")), _VALUES, _SCHEMA_FILE]
    parts += [each for section in engine_sections() for each in _section(section)]
    parts.append(_PROVIDERS)
    parts += [each for section in provider_sections() for each in _section(section)]
    parts += [_FOREIGN, table(("key", "in", "what becomes of it"), foreign_keys())]
    return "\n".join(parts)


def _section(section: tuple[str, str, Rows]) -> list[str]:
    title, text, rows = section
    return [f"### {title}\n", text + "\n", table(("key", "meaning", "default"), rows)]
