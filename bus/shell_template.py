"""Shell commands with fields, filled in so that a value can never become more than a value.

`{name}` is a field. What its value must be written as depends on where it stands, so the command is read as bash would:

    grep {pattern} log          quoted as one word; a list or tuple is several words
    grep 'x {pattern}' log      its ' are escaped
    grep "x {pattern}" log      its \\ " $ ` are escaped
    grep {options!raw} log      as it is: the opt-out, for values that are shell code

`{name:05d}` and `{name!r}` format as `str.format` does. Braces that are no field stay (`awk '{print $1}'`, `${HOME}`,
`{1..3}`, `find -exec ls {} +`); `{{` and `}}` are single braces, as commands written for `str.format` have them.

In some places no quoting helps (a here-document, a comment, arithmetic, backquotes): a field there is refused.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Quoting = Literal["word", "single", "double", "raw"]

_FIELD: Final = re.compile(r"\{([A-Za-z_]\w*)(?:!(raw|[rsa]))?(?::([^{}]*))?\}", re.ASCII)
_CONVERSIONS: Final[Mapping[str, Callable[[Any], str]]] = {"r": repr, "s": str, "a": ascii}
_IN_DOUBLE: Final = str.maketrans({mark: f"\\{mark}" for mark in '\\"$`'})
_WORD_BREAKS: Final = frozenset(" \t\n;|&()<>")
_CLOSES: Final = {"paren": ")", "param": "}", "backquotes": "`", "double": '"', "single": "'", "ansi": "'"}
_REFUSED: Final = {
    "ansi": "$'...'",
    "backquotes": "backquotes, for which there is $(...)",
    "arithmetic": "arithmetic",
    "param": "${...}",
    "comment": "a comment",
    "heredoc": "a here-document",
    "backslash": "the place behind a backslash",
    "lost": "a command substitution with `case` or `((` in it, whose end cannot be told",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A place for a value."""

    name: str
    conversion: str = ""
    form: str = ""
    quoting: Quoting = "word"

    def text(self, value: Any) -> str:
        """The value as it is written there. Raises what formatting it raises."""
        many = isinstance(value, list | tuple) and not self.conversion and not self.form
        texts = [self._formatted(item) for item in value] if many else [self._formatted(value)]
        if self.quoting == "word":
            return shlex.join(texts)
        text = " ".join(texts)
        if self.quoting == "single":
            return text.replace("'", "'\"'\"'")
        return text.translate(_IN_DOUBLE) if self.quoting == "double" else text

    def _formatted(self, value: Any) -> str:
        converted = _CONVERSIONS[self.conversion](value) if self.conversion else value
        return format(converted, self.form) if self.form else str(converted)


Piece = str | Field


@functools.lru_cache(maxsize=256)
def parse(template: str) -> tuple[Piece, ...]:
    """The text and the fields of a command. Raises `ValueError` for a field where no quoting makes a value safe."""
    return tuple(_Reader(_tokens(template)).read())


def field_names(template: str) -> tuple[str, ...]:
    """The names of the fields, in the order in which they come first. Raises `ValueError` as `parse` does."""
    return tuple(dict.fromkeys(piece.name for piece in parse(template) if isinstance(piece, Field)))


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The command with its values. Raises `TypeError` for a value that is missing or that no field takes."""
    names = field_names(template)
    missing = [name for name in names if name not in values]
    if missing:
        braces = f"{{{{{missing[0]}}}}}"
        raise TypeError(
            f"the command needs {', '.join(map(repr, missing))}; if braces are meant for the shell, write {braces}"
        )
    unknown = [name for name in values if name not in names]
    if unknown:
        takes = f"its fields are {', '.join(names)}" if names else "it has no fields"
        raise TypeError(f"the command has no field {unknown[0]!r}; {takes}")
    return "".join(piece.text(values[piece.name]) if isinstance(piece, Field) else piece for piece in parse(template))


def _tokens(template: str) -> list[Piece]:
    """Single characters, and fields; doubled braces are single ones from here on."""
    tokens: list[Piece] = []
    opened: list[str] = []
    at = 0
    while at < len(template):
        found = _FIELD.match(template, at)
        if template.startswith("{{", at):
            opened.append("}}")
            tokens.append("{")
            at += 2
        elif found and tokens[-1:] != ["$"]:
            conversion, form = found[2] or "", found[3] or ""
            raw = conversion == "raw"
            tokens.append(Field(found[1], "" if raw else conversion, form, "raw" if raw else "word"))
            at = found.end()
        else:
            width = 1
            if template[at] == "{":
                opened.append("}")
            elif template[at] == "}" and opened and template.startswith(opened[-1], at):
                width = len(opened.pop())
            tokens.append(template[at])
            at += width
    return tokens


class _Reader:
    """Follows the quotes, substitutions and comments that bash would see, to know where each field stands."""

    def __init__(self, tokens: list[Piece]) -> None:
        self._tokens = tokens
        self._at = 0
        self._inside: list[str] = []
        self._documents: list[tuple[str, bool]] = []
        self._is_lost = False
        self._pieces: list[Piece] = []

    def read(self) -> list[Piece]:
        """All of it. Raises `ValueError` for a field where nothing makes a value safe."""
        while self._at < len(self._tokens):
            self._step()
        return self._pieces

    @property
    def _place(self) -> str:
        return self._inside[-1] if self._inside else "bare"

    def _step(self) -> None:
        mark, place = self._tokens[self._at], self._place
        if isinstance(mark, Field):
            self._take_field(mark, place)
        elif place == "comment" and mark == "\n":
            self._inside.pop()  # and the line's end is read again, where the comment stood
        elif place in ("single", "comment"):
            self._take()
            if mark == "'" and place == "single":
                self._inside.pop()
        elif mark == "\\":
            self._take()
            self._take_escaped()
        elif mark == _CLOSES.get(place):
            self._take()
            self._inside.pop()
        elif place == "arithmetic":
            self._arithmetic(mark)
        elif place in ("ansi", "backquotes"):
            self._take()
        else:
            self._code(mark, place)

    def _code(self, mark: str, place: str) -> None:
        """Bare words, what is inside of double quotes, and inside of `${...}`."""
        if mark == "$":
            self._dollar(in_double=place == "double")
        elif mark == "`":
            self._enter("backquotes", 1)
        elif mark == '"':
            self._enter("double", 1)
        elif place == "double" or (mark == "'" and place == "param" and "double" in self._inside):
            self._take()
        elif mark == "'":
            self._enter("single", 1)
        elif place == "param":
            self._take()
        else:
            self._bare(mark)

    def _bare(self, mark: str) -> None:
        starts_word = not self._at or self._tokens[self._at - 1] in _WORD_BREAKS
        if mark == "(":
            two = self._ahead(2) == "(("
            self._enter("arithmetic" if two else "paren", 2 if two else 1)
        elif mark == "#" and starts_word:
            self._enter("comment", 1)
        elif self._ahead(3) == "<<<":
            self._take(3)
        elif self._ahead(2) == "<<":
            self._here_document()
        elif mark == "\n" and self._documents:
            self._take()
            self._bodies()
        else:
            # The `)` of its patterns has no `(`: from here on nobody can say where the substitution ends.
            self._is_lost = self._is_lost or (starts_word and bool(self._inside) and self._ahead(4) == "case")
            self._take()

    def _dollar(self, *, in_double: bool) -> None:
        ahead = self._ahead(3)
        if ahead == "$((":
            self._enter("arithmetic", 3)
        elif ahead[:2] == "$(":
            self._enter("paren", 2)
        elif ahead[:2] == "${":
            self._enter("param", 2)
        elif ahead[:2] == "$'" and not in_double:
            self._enter("ansi", 2)
        else:
            self._take(2 if ahead[:2] == "$$" else 1)

    def _arithmetic(self, mark: str) -> None:
        if mark == "(":
            self._enter("arithmetic", 1)
        elif mark == ")":
            # `((` is one step in, `))` one out; a single `(` needs a single `)`.
            outer = len(self._inside) < 2 or self._inside[-2] != "arithmetic"
            closes = self._ahead(2) == "))"
            self._is_lost = self._is_lost or (outer and not closes and len(self._inside) > 1)
            self._take(2 if outer and closes else 1)
            self._inside.pop()
        else:
            self._take()

    def _here_document(self) -> None:
        self._take(2)
        strips_tabs = self._ahead(1) == "-"
        self._take(int(strips_tabs))
        while self._ahead(1) in (" ", "\t"):
            self._take()
        delimiter = ""
        while self._ahead(1) and self._ahead(1) not in _WORD_BREAKS:
            delimiter += self._ahead(1)
            self._take()
        self._documents.append((re.sub(r"[\\'\"]", "", delimiter), strips_tabs))

    def _bodies(self) -> None:
        documents, self._documents = self._documents, []
        self._inside.append("heredoc")
        for delimiter, strips_tabs in documents:
            while self._at < len(self._tokens):
                line = self._line()
                if (line.lstrip("\t") if strips_tabs else line) == delimiter:
                    break
        self._inside.pop()

    def _line(self) -> str:
        line = ""
        while self._at < len(self._tokens):
            mark = self._tokens[self._at]
            if isinstance(mark, Field):
                self._take_field(mark, "heredoc")
                line += "\0"
                continue
            self._take()
            if mark == "\n":
                break
            line += mark
        return line

    def _take_field(self, field: Field, place: str) -> None:
        if field.quoting != "raw":
            place = "lost" if self._is_lost else place
            if place in _REFUSED:
                raise ValueError(
                    f"the field {{{field.name}}} stands in {_REFUSED[place]}, where no quoting makes a value safe: "
                    f'assign it first (value={{{field.name}}}) and use "$value", or write {{{field.name}!raw}} to have '
                    "it as it is"
                )
            quoting: Quoting = "single" if place == "single" else "double" if place == "double" else "word"
            field = Field(field.name, field.conversion, field.form, quoting)
        self._pieces.append(field)
        self._at += 1

    def _take_escaped(self) -> None:
        if self._at < len(self._tokens):
            mark = self._tokens[self._at]
            if isinstance(mark, Field):
                self._take_field(mark, "backslash")
            else:
                self._take()

    def _take(self, count: int = 1) -> None:
        for mark in self._tokens[self._at : self._at + count]:
            if self._pieces and isinstance(self._pieces[-1], str) and isinstance(mark, str):
                self._pieces[-1] += mark
            else:
                self._pieces.append(mark)
        self._at += count

    def _enter(self, place: str, width: int) -> None:
        self._take(width)
        self._inside.append(place)

    def _ahead(self, count: int) -> str:
        """The next characters; a field is none of them."""
        tokens = self._tokens[self._at : self._at + count]
        return "".join(mark if isinstance(mark, str) else "\0" for mark in tokens)
