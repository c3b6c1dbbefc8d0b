"""Texts that come from outside a template, as the template sees them, and where they went.

A template never prints such a text. It prints a mark, and the text takes the mark's place when the YAML has been read,
so that no text can become anything but a part of one scalar: see `splice`.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, cast

from markupsafe import Markup

_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\uf8ff\ufeff\ufffe\uffff]")
_NUMBER: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?|true|false|null")

current_marks: ContextVar[Marks] = ContextVar("current_marks")


def quoted(text: str) -> str:
    """The text in double quotes, on one line, as both JSON and YAML read it."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def flow(value: Any) -> str:
    """A value as JSON that YAML reads as the same value."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(str(key))}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, float):
        # YAML 1.1 takes 1e+22 for a text, and 1.0e+22 for a number.
        text = json.dumps(value, allow_nan=False)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return json.dumps(value)


@dataclass(frozen=True, slots=True)
class Inserted:
    """What a mark stands for."""

    whole: Any
    """The value, where the mark is a scalar of its own."""
    bare: str
    """The text, within a longer scalar that the template does not quote."""
    inside: str
    """The text, within quotes of the template."""
    is_own: bool = False
    """Whether the template itself made the text, which then may be a number."""

    @property
    def alone(self) -> str:
        """The YAML of a scalar that is only this."""
        if self.is_own and _NUMBER.fullmatch(self.whole):
            return str(self.whole)
        return flow(self.whole)


class Marks:
    """The marks of one rendering. Nobody can guess them, so nothing that comes from outside holds one."""

    def __init__(self) -> None:
        tag = secrets.randbits(64)
        self._format = f"\ue000{tag}.{{}}\ue001"
        self.pattern: Final = re.compile(f"\ue000{tag}\\.(\\d+)\ue001")
        self._inserted: list[Inserted] = []

    def add(self, value: Any) -> Markup:
        """A mark for a text, a list or an object."""
        self._inserted.append(_inserted(value))
        return Markup(self._format.format(len(self._inserted) - 1))  # noqa: S704 - a mark is what makes it harmless

    def only(self, text: str) -> Inserted | None:
        """What the text stands for when it is nothing but one mark."""
        found = self.pattern.fullmatch(text)
        return self._inserted[int(found[1])] if found else None

    def filled(self, text: str, part: Callable[[Inserted], str]) -> str:
        """The text with this part of everything that it has marks for."""
        return self.pattern.sub(lambda found: part(self._inserted[int(found[1])]), text)

    def parts(self, text: str, part: Callable[[Inserted], str]) -> list[str]:
        """This part of everything that the text has marks for."""
        return [part(self._inserted[int(found[1])]) for found in self.pattern.finditer(text)]


class UserText(str):
    """A text from outside. To the template it is the quoted text, as in Globus Compute; it equals the bare text, too.

    What is made of it is a `UserText` again.
    """

    __slots__ = ("_plain", "_shell")
    _plain: str | None
    _shell: str | None

    def __new__(cls, text: str, plain: str | None = None, shell: str | None = None) -> UserText:
        """`plain` is what `text` quotes; `shell` the form for a command line, when that is what is wanted."""
        made = super().__new__(cls, text)
        made._plain = plain
        made._shell = shell
        return made

    def __html__(self) -> Markup:
        """What stands for it in text of the template."""
        return current_marks.get().add(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and (
            str(self) == str(other) or (self._plain is not None and self._plain == other)
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return super().__hash__()

    def __iter__(self) -> Iterator[UserText]:
        return map(UserText, str(self))

    def __radd__(self, other: str) -> UserText:
        return UserText(other + str(self))


def _kept(name: str) -> Callable[..., Any]:
    original = getattr(str, name)

    def method(self: UserText, *args: Any, **kwargs: Any) -> Any:
        made = original(self, *args, **kwargs)
        if isinstance(made, list | tuple):
            return type(made)(map(UserText, made))
        return UserText(made) if isinstance(made, str) else made

    method.__name__ = name
    return method


_METHODS: Final = """
    __add__ __getitem__ __mod__ __mul__ capitalize casefold center expandtabs join ljust lower lstrip partition
    removeprefix removesuffix replace rjust rpartition rsplit rstrip split splitlines strip swapcase title translate
    upper zfill
"""
for _name in _METHODS.split():
    setattr(UserText, _name, _kept(_name))


def from_outside(value: Any) -> Any:
    """A JSON value with its texts, however deep, as `UserText`."""
    if isinstance(value, str):
        return UserText(quoted(value), value)
    if isinstance(value, Mapping):
        return {UserText(key): from_outside(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [from_outside(each) for each in value]
    return value


def plain(value: Any) -> Any:
    """A value of the template without `UserText` in it."""
    if isinstance(value, UserText):
        return value._shell or (str(value) if value._plain is None else value._plain)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def shell_quoted(value: Any) -> Any:
    """A text as one word of a command line; anything else as it is."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    word = shlex.quote(cast("str", plain(value)))
    return UserText(quoted(word), word, word)


def _inserted(value: Any) -> Inserted:
    bare = plain(value)
    if not isinstance(value, str):
        return Inserted(bare, flow(bare), flow(bare))
    if isinstance(value, UserText):
        return Inserted(bare, value._shell or str(value), bare)
    return Inserted(bare, bare, bare, is_own=True)
