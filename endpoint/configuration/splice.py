"""A rendered template's marks become YAML.

The YAML is read while it still has marks in place of texts, so its structure is what the template says, whatever the
texts are. Then each scalar with marks is written anew as one scalar.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from headrace.endpoint.configuration.user_text import Marks, quoted
from headrace.endpoint.errors import TemplateInvalid

_BLOCK_TAIL: Final = re.compile(r"\n *\Z")
_PART_OF_A_MARK: Final = re.compile("[\ue000\ue001]")
_NOT_IN_A_LINE: Final = re.compile("[\\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\uf8ff\ufeff]")


def splice(text: str, marks: Marks, *, name: str) -> str:
    """The YAML text with what the marks stand for.

    Raises `TemplateInvalid`, naming the line in the rendered text, when it is not YAML, or the marks are damaged.
    """
    try:
        tokens = [token for token in yaml.scan(text, Loader=yaml.SafeLoader) if isinstance(token, yaml.ScalarToken)]
        before = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise TemplateInvalid(_yaml_problem(error, text, marks, name)) from error
    pieces, at = [], 0
    for token in tokens:
        begin, end = token.start_mark.index, token.end_mark.index
        if marks.pattern.search(token.value):
            pieces += [text[at:begin], _scalar(token, text[begin:end], marks)]
            at = end
    pieces.append(text[at:])
    # What is left stands in comments.
    whole = marks.filled("".join(pieces), lambda inserted: quoted(inserted.inside))
    if _PART_OF_A_MARK.search(whole):
        raise TemplateInvalid(
            f"{name}: an option's text was cut apart after it was printed; cut it before, in {{{{ }}}}"
        )
    if before is not None and not _is_same(before, yaml.compose(whole, Loader=yaml.SafeLoader), marks):
        raise TemplateInvalid(f"{name}: an option would change the structure of the configuration")
    return whole


def _scalar(token: yaml.ScalarToken, written: str, marks: Marks) -> str:
    if token.style not in ("|", ">"):
        only = marks.only(token.value)
        return only.alone if only else quoted(_filled(token.value, token.style, marks))
    if all(map(_is_part_of_a_line, marks.parts(written, lambda inserted: inserted.bare))):
        return marks.filled(written, lambda inserted: inserted.bare)
    # A block stays readable as long as its lines are lines; what has line breaks goes into quotes.
    tail = _BLOCK_TAIL.search(written)
    return quoted(_filled(token.value, token.style, marks)) + (tail[0] if tail else "")


def _is_part_of_a_line(text: str) -> bool:
    # What begins with a blank may change how far a block is indented.
    return text != "" and text[0] not in " \t" and not _NOT_IN_A_LINE.search(text)


def _filled(value: str, style: str | None, marks: Marks) -> str:
    if style in ("'", '"'):
        return marks.filled(value, lambda inserted: inserted.inside)
    return marks.filled(value, lambda inserted: inserted.bare)


def _is_same(before: yaml.Node, after: yaml.Node | None, marks: Marks) -> bool:
    if isinstance(before, yaml.ScalarNode):
        return _is_same_scalar(before, after, marks)
    if type(before) is not type(after) or len(before.value) != len(after.value):
        return False
    if isinstance(before, yaml.MappingNode):
        pairs = zip(before.value, after.value, strict=True)
        return all(_is_same(old[0], new[0], marks) and _is_same(old[1], new[1], marks) for old, new in pairs)
    return all(_is_same(old, new, marks) for old, new in zip(before.value, after.value, strict=True))


def _is_same_scalar(before: yaml.ScalarNode, after: yaml.Node | None, marks: Marks) -> bool:
    only = marks.only(before.value)
    if only is not None:
        return after is not None and _constructed(after) == yaml.safe_load(only.alone)
    return isinstance(after, yaml.ScalarNode) and after.value == _filled(before.value, before.style, marks)


def _constructed(node: yaml.Node) -> Any:
    return yaml.SafeLoader("").construct_document(node)


def _yaml_problem(error: yaml.YAMLError, text: str, marks: Marks, name: str) -> str:
    mark = (error.problem_mark or error.context_mark) if isinstance(error, yaml.MarkedYAMLError) else None
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return f"{name}, rendered, is not valid YAML: {error}"
    lines = text.splitlines()
    shown = marks.filled(lines[mark.line], lambda inserted: inserted.bare).strip() if mark.line < len(lines) else ""
    problem = error.problem or error.context
    return f"{name}, rendered, is not valid YAML in line {mark.line + 1}: {problem}{f': {shown}' if shown else ''}"
