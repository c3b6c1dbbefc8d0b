"""What a docstring says of parameters, in the styles of Google, NumPy and Sphinx."""

from __future__ import annotations

import inspect
import re
from typing import Final

MOST_TEXT: Final = 1000

_GOOGLE_SECTIONS = (
    "args",
    "arguments",
    "parameters",
    "params",
    "keyword args",
    "keyword arguments",
    "other parameters",
)
_GOOGLE_HEAD = re.compile(r"(\w[\w ]*):\s*")
_GOOGLE_ITEM = re.compile(r"(\*{0,2}\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")
_NUMPY_ITEM = re.compile(r"((?:\*{0,2}\w+)(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")
_NUMPY_SECTIONS = ("parameters", "other parameters", "keyword arguments")
_SPHINX_ITEM = re.compile(r":(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*?\s)?\\?(\*{0,2}\w+)\s*:\s*(.*)")
_SPHINX_FIELD = re.compile(r":\w+[^:]*:")
_UNDERLINE = re.compile(r"-{3,}\s*")


def parameter_texts(docstring: str | None) -> dict[str, str]:
    """The description of each parameter that has one, without stars, on one line."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    found: dict[str, list[str]] = {}
    for place, line in enumerate(lines):
        if (
            place + 1 < len(lines)
            and line.strip().lower() in _NUMPY_SECTIONS
            and _UNDERLINE.fullmatch(lines[place + 1])
        ):
            _numpy(lines[place + 2 :], found)
        elif (head := _GOOGLE_HEAD.fullmatch(line)) and head[1].lower() in _GOOGLE_SECTIONS:
            _google(lines[place + 1 :], found)
        elif item := _SPHINX_ITEM.fullmatch(line.strip()):
            found.setdefault(item[1].lstrip("*"), [item[2], *_sphinx_rest(lines[place + 1 :])])
    texts = {name: " ".join(" ".join(words).split())[:MOST_TEXT] for name, words in found.items()}
    return {name: text for name, text in texts.items() if text}


def summary(docstring: str | None) -> str:
    """The first paragraph, on one line."""
    text = inspect.cleandoc(docstring or "").strip()
    return " ".join(re.split(r"\n\s*\n", text, maxsplit=1)[0].split())[:MOST_TEXT]


def _google(lines: list[str], found: dict[str, list[str]]) -> None:
    """`name (type): text`, all indented; what is indented further goes on."""
    depth, words = 0, None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent == 0:
            return
        depth = depth or indent
        item = _GOOGLE_ITEM.fullmatch(line.strip()) if indent == depth else None
        if item:
            words = found.setdefault(item[1].lstrip("*"), [])
            words.append(item[2])
        elif words is not None:
            words.append(line)


def _numpy(lines: list[str], found: dict[str, list[str]]) -> None:
    """`name : type`, and the text below it, indented; the next section is underlined."""
    words: list[list[str]] = []
    for place, line in enumerate(lines):
        if place + 1 < len(lines) and line.strip() and _UNDERLINE.fullmatch(lines[place + 1]):
            return
        if line[:1].strip():
            item = _NUMPY_ITEM.fullmatch(line.strip())
            names = re.findall(r"\w+", item[1]) if item else []
            words = [found.setdefault(name, []) for name in names]
        else:
            for each in words:
                each.append(line)


def _sphinx_rest(lines: list[str]) -> list[str]:
    rest = []
    for line in lines:
        if not line.strip() or _SPHINX_FIELD.match(line.strip()):
            break
        rest.append(line)
    return rest
