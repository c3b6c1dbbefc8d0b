"""`user_config_template.yaml.j2` rendered with a user's options: Jinja2 in its sandbox, nothing undefined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import Any, Final

import jinja2
from jinja2.compiler import CodeGenerator, Frame
from jinja2.nodes import Concat
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from headrace.endpoint.configuration.splice import splice
from headrace.endpoint.configuration.templates import RESERVED, SUFFIXES, Templates
from headrace.endpoint.configuration.user_text import (
    Marks,
    UserText,
    current_marks,
    flow,
    from_outside,
    plain,
    shell_quoted,
)
from headrace.endpoint.errors import OptionsInvalid, TemplateInvalid

MOST_RENDERED_CHARACTERS: Final = 1_000_000
_MOST_EXPONENT: Final = 64
_METHODS_OF_OWN_TEXT: Final = frozenset({"strip", "lstrip", "rstrip", "split", "splitlines", "startswith", "endswith"})
_UNSAFE_FILTERS: Final = ("e", "escape", "forceescape", "safe", "striptags", "tojson", "urlize", "xmlattr")


def render(templates: Templates, options: Mapping[str, Any], reserved: Mapping[str, Any]) -> str:
    """The YAML text that a template gives for these options, which are JSON values, checked before.

    `reserved` are the values of `_GC`: `parent_config`, `user_runtime`, `mapped_identity`, `env`. Raises
    `TemplateInvalid`, naming file and line, and `OptionsInvalid` when the template needs an option that is not there.
    """
    environment = _Sandbox(templates)
    token = current_marks.set(environment.marks)
    try:
        text = environment.get_template(templates.main.name).render(_variables(options, reserved))
    except Exception as error:
        raise _problem(error, templates.main.parent) from error
    finally:
        current_marks.reset(token)
    if len(text) > MOST_RENDERED_CHARACTERS:
        raise TemplateInvalid(f"{templates.main} gives more than {MOST_RENDERED_CHARACTERS} characters")
    return splice(text, environment.marks, name=str(templates.main))


def _variables(options: Mapping[str, Any], reserved: Mapping[str, Any]) -> dict[str, Any]:
    names = from_outside({"parent_config": {}, "user_runtime": {}, "mapped_identity": {}, "env": {}} | dict(reserved))
    older = {name: names[name] for name in RESERVED if name != "_GC"}
    return {**{name: from_outside(value) for name, value in options.items()}, **older, "_GC": names}


class _Generator(CodeGenerator):
    def visit_Concat(self, node: Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment.joined((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")


class _Sandbox(ImmutableSandboxedEnvironment):
    """One rendering. What the template prints is a mark, unless it is text of the template itself: of a macro, a block.

    Jinja's automatic escaping tells the two apart; what it escapes is marked in our case, not made HTML.
    """

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "%", "*", "**"})

    def __init__(self, templates: Templates) -> None:
        super().__init__(
            loader=_Files(templates),
            undefined=jinja2.StrictUndefined,
            autoescape=True,
            finalize=_finalized,
            cache_size=0,
        )
        self.marks = Marks()
        for name in _UNSAFE_FILTERS:
            self.filters.pop(name, None)
        self.filters |= {
            "format": self._format,
            "join": self._join,
            "replace": self._replace,
            "shell_escape": shell_quoted,
            "shell_quote": shell_quoted,
            "tojson": lambda value: UserText(flow(plain(value)), None, flow(plain(value))),
        }

    def printed(self, value: Any) -> Markup:
        """What stands in the text for a value of an expression."""
        if isinstance(value, Markup):
            return value
        if isinstance(value, jinja2.Undefined):
            return Markup(str(value))  # noqa: S704 - it is empty, or an error
        if value is None or isinstance(value, bool | int | float):
            return Markup(flow(value))  # noqa: S704 - a number, true, false or null
        if isinstance(value, str | Mapping | list | tuple):
            # What the template has as a default, to print nothing; a user's empty text is a text.
            return Markup("") if type(value) is str and not value else self.marks.add(value)
        raise TypeError(f"a {type(value).__name__} cannot be printed into YAML; for many values use the filter `list`")

    def joined(self, parts: Sequence[Any], between: Any = "") -> str:
        """Texts one after the other."""
        if any(isinstance(part, Markup) for part in (*parts, between)):
            return self.printed(between).join(map(self.printed, parts))
        text = str(between).join(map(str, parts))
        return UserText(text) if any(isinstance(part, UserText) for part in (*parts, between)) else text

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Jinja's way to calculate."""
        if operator == "+" and (isinstance(left, Markup) or isinstance(right, Markup)):
            return self.joined((left, right))
        if operator == "%":
            _refuse_template_text(left, "be a format")
        elif operator in ("*", "**") and _is_large(left, right, operator):
            raise TypeError(f"the result of {operator} would be too large")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Methods of the template's own text that would put other text into it are not for templates: see `printed`."""
        if isinstance(obj, Markup) and attr not in _METHODS_OF_OWN_TEXT:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def _format(self, text: str, *args: Any, **kwargs: Any) -> str:
        _refuse_template_text(text, "be a format")
        return UserText(str(text) % (kwargs or args))

    def _replace(self, text: str, old: str, new: str, count: int = -1) -> str:
        if not isinstance(text, Markup):
            made = str(text).replace(str(old), str(new), count)
            return UserText(made) if isinstance(text, UserText) or isinstance(new, UserText) else made
        return self.joined([Markup(part) for part in str(text).split(str(old), count)], new)  # noqa: S704 - its own text

    def _join(self, values: Any, between: str = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            values = [self.getitem(value, attribute) for value in values]
        return self.joined(list(values), between)


def _refuse_template_text(value: Any, use: str) -> None:
    if isinstance(value, Markup):
        raise TypeError(f"text of a macro, or of a block that was set, cannot {use}; print the values in it instead")


def _is_large(left: Any, right: Any, operator: str) -> bool:
    if operator == "**":
        return isinstance(right, int | float) and abs(right) > _MOST_EXPONENT
    return any(
        isinstance(times, int) and isinstance(each, str | list | tuple) and times * len(each) > MOST_RENDERED_CHARACTERS
        for times, each in ((left, right), (right, left))
    )


@jinja2.pass_context
def _finalized(context: Context, value: Any) -> Markup:
    # With the context as an argument it is not done for constants when the template is compiled.
    environment = context.environment
    assert isinstance(environment, _Sandbox)  # noqa: S101 - the only one that has it
    return environment.printed(value)


class _Files(jinja2.BaseLoader):
    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        directory, name = self._templates.main.parent, str(plain(template))
        if name not in self._templates.texts:
            raise jinja2.TemplateNotFound(
                name,
                f"{name!r} cannot be included: it is no file of {directory} itself that ends with "
                f"{', '.join(SUFFIXES)}; there are {', '.join(self._templates.texts)}",
            )
        return self._templates.texts[name], str(directory / name), lambda: True


def _problem(error: Exception, directory: Path) -> TemplateInvalid | OptionsInvalid:
    where = _place(error, directory)
    if isinstance(error, jinja2.TemplateSyntaxError):
        return TemplateInvalid(f"{error.filename or error.name}, line {error.lineno}: {error.message}")
    if isinstance(error, jinja2.TemplateNotFound):
        return TemplateInvalid(f"{where}{error.message}")
    if isinstance(error, jinja2.UndefinedError):
        return OptionsInvalid(
            f"{where}{error.message}: the option is missing; give it in user_endpoint_config, or give it a default in "
            "the template, as in {{ name|default('value') }}"
        )
    if isinstance(error, jinja2.exceptions.SecurityError):
        return TemplateInvalid(f"{where}not allowed in a template: {error.message}")
    if isinstance(error, TemplateInvalid):
        return TemplateInvalid(f"{where}{error}")
    return TemplateInvalid(f"{where}{type(error).__name__}: {error}")


def _place(error: Exception, directory: Path) -> str:
    """The innermost line of a template that the error came through."""
    places = [
        f"{frame.f_code.co_filename}, line {line}: "
        for frame, line in walk_tb(error.__traceback__)
        if Path(frame.f_code.co_filename).parent == directory
    ]
    return places[-1] if places else ""


def check_syntax(templates: Templates) -> None:
    """Raises `TemplateInvalid` when the template has a mistake in its form."""
    environment = _Sandbox(templates)
    try:
        environment.get_template(templates.main.name)
    except Exception as error:
        raise _problem(error, templates.main.parent) from error
