"""The words and signs of an expression."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from headrace.bus.errors import InvalidExpression

MOST_CHARACTERS: Final = 8192
MOST_TOKENS: Final = 2048

Kind = Literal["sign", "keyword", "name", "function", "integer", "string", "end"]

KEYWORDS: Final = frozenset({"AND", "OR", "XOR", "NOT", "LIKE", "EXISTS", "IN", "TRUE", "FALSE"})

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<string>'(?:\\.|''|[^'\\])*'|"(?:\\.|""|[^"\\])*")
    |(?P<word>[A-Za-z0-9_]+)
    |(?P<sign><>|<=|>=|!=|[()=<>,*/%+-])""",
    re.VERBOSE | re.DOTALL,
)
_FUNCTION_NAME = re.compile(r"[A-Za-z][A-Za-z_]*")


@dataclass(frozen=True, slots=True)
class Token:
    """One of them. `text` is a keyword in capitals, a name in small letters, or a string without quotes."""

    kind: Kind
    text: str
    at: int

    def is_sign(self, *signs: str) -> bool:
        """Whether it is one of these signs."""
        return self.kind == "sign" and self.text in signs

    def is_keyword(self, *words: str) -> bool:
        """Whether it is one of these keywords."""
        return self.kind == "keyword" and self.text in words


def tokens_of(text: str) -> list[Token]:
    """All tokens, with one for the end. Raises `InvalidExpression`."""
    if len(text) > MOST_CHARACTERS:
        raise InvalidExpression(f"an expression has at most {MOST_CHARACTERS} characters, this one {len(text)}")
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            problem = "a text that does not end" if text[at] in "'\"" else f"{text[at]!r} has no meaning here"
            raise InvalidExpression(problem, position=at + 1)
        if found.lastgroup != "space":
            tokens.append(_token(found.lastgroup, found.group(), at))
        at = found.end()
    if len(tokens) > MOST_TOKENS:
        raise InvalidExpression(f"an expression has at most {MOST_TOKENS} words and signs, this one {len(tokens)}")
    return [*tokens, Token("end", "", len(text))]


def _token(group: str | None, text: str, at: int) -> Token:
    if group == "string":
        quote = text[0]
        return Token("string", text[1:-1].replace(f"\\{quote}", quote).replace(quote * 2, quote), at)
    if group == "sign":
        return Token("sign", text, at)
    if text.isdigit():
        return Token("integer", text, at)
    if text.upper() in KEYWORDS:
        return Token("keyword", text.upper(), at)
    if "_" not in text:
        return Token("name", text, at)
    if _FUNCTION_NAME.fullmatch(text):
        return Token("function", text, at)
    raise InvalidExpression(f"{text[:40]!r} is no name of an attribute or function", position=at + 1)
