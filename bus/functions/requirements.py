"""What a function needs where it runs: packages, and a version of Python.

They are written as everywhere in Python (PEP 508), given as a list, as a `requirements.txt`, or in the head of a script
(PEP 723):

    # /// script
    # requires-python = ">=3.11"
    # dependencies = ["numpy>=2"]
    # ///

Two functions that need the same share an environment, however they wrote it: names, versions and order are normalised.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace.bus.errors import RequirementsInvalid

MOST_REQUIREMENTS: Final = 200

_HEAD: Final = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_COMMENT: Final = re.compile(r"(^|\s+)#.*$")
_OLDEST: Final = (3, 11)


@dataclass(frozen=True, slots=True)
class Needs:
    """Packages and a Python, normalised. `python` is a version or a specifier; empty is any."""

    requirements: tuple[str, ...] = ()
    python: str = ""

    def __bool__(self) -> bool:
        return bool(self.requirements or self.python)

    @classmethod
    def of(cls, requirements: Iterable[str], python: str = "") -> Needs:
        """Read them as people write them. Raises `RequirementsInvalid`, which names the entry."""
        if isinstance(requirements, str):
            raise RequirementsInvalid(f"give a list, not one text: [{requirements!r}]")
        given = [_normalised(each) for each in requirements]
        if len(given) > MOST_REQUIREMENTS:
            raise RequirementsInvalid(f"{len(given)} entries; there may be {MOST_REQUIREMENTS}")
        return cls(tuple(sorted(set(given))), _python(python))

    @classmethod
    def of_text(cls, text: str) -> Needs:
        """Read what `text` wrote; empty is nothing. Raises `RequirementsInvalid`."""
        if not text:
            return cls()
        try:
            document = json.loads(text)
            return cls.of(document["requirements"], document["python"])
        except (ValueError, KeyError, TypeError) as error:
            raise RequirementsInvalid(f"{text[:100]!r} is no environment: {error}") from error

    @property
    def text(self) -> str:
        """One text for equal needs; empty for none."""
        if not self:
            return ""
        return json.dumps({"python": self.python, "requirements": self.requirements}, separators=(",", ":"))

    def key(self, *where: str) -> str:
        """A short name of the environment, of what it is built for (platform, index ...), too."""
        return hashlib.sha256("\0".join((self.text, *where)).encode()).hexdigest()[:16]

    @property
    def packages(self) -> tuple[str, ...]:
        """The normalised names of the packages that are asked for."""
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name

        return tuple(canonicalize_name(Requirement(each).name) for each in self.requirements)

    def runs_on(self, version: str) -> bool:
        """Whether this version of Python (`3.12.4`) will do."""
        from packaging.specifiers import SpecifierSet

        if self.python[:1].isdigit():
            return f"{version}.".startswith(f"{self.python}.")
        return SpecifierSet(self.python).contains(version)

    def describe(self) -> str:
        """For people: `Python 3.12 with numpy>=2`."""
        python = f"Python {self.python}" if self.python else "Python"
        return f"{python} with {', '.join(self.requirements)}" if self.requirements else python


def of_script(source: str) -> Needs:
    """What the head of a script says (PEP 723); nothing without one. Raises `RequirementsInvalid`."""
    found = [head for head in _HEAD.finditer(source) if head["type"] == "script"]
    if not found:
        return Needs()
    if len(found) > 1:
        raise RequirementsInvalid("the source has two `# /// script` heads; it may have one")
    import tomllib  # every SDK loads this module, and few functions have such a head

    lines = found[0]["content"].splitlines(keepends=True)
    text = "".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RequirementsInvalid(f"the `# /// script` head of the source is not TOML: {error}") from error
    dependencies, python = document.get("dependencies", []), document.get("requires-python", "")
    if not isinstance(dependencies, list) or not isinstance(python, str):
        raise RequirementsInvalid("in the `# /// script` head, dependencies is a list and requires-python a text")
    return Needs.of(dependencies, python)


def of_file(path: Path) -> list[str]:
    """The entries of a `requirements.txt`. Raises `RequirementsInvalid`, which names the line."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequirementsInvalid(f"{path} cannot be read: {error}") from error
    entries = []
    for number, line in enumerate(text.replace("\\\n", " ").splitlines(), 1):
        entry = _COMMENT.sub("", line).strip()
        if not entry:
            continue
        try:
            entries.append(_normalised(entry))
        except RequirementsInvalid as error:
            raise RequirementsInvalid(f"{path}, line {number}: {error.problem}") from error
    return entries


def _normalised(entry: object) -> str:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    if not isinstance(entry, str):
        raise RequirementsInvalid(f"{entry!r} is no text")
    if entry.lstrip().startswith("-"):
        raise RequirementsInvalid(f"{entry!r} is an option of pip; write packages, such as 'numpy>=2'")
    try:
        requirement = Requirement(entry)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise RequirementsInvalid(f"{entry!r} is no requirement: {reason}; write 'name' or 'name>=1.2'") from error
    requirement.name = canonicalize_name(requirement.name)
    requirement.extras = {canonicalize_name(extra) for extra in requirement.extras}
    return str(requirement)


def _python(text: str) -> str:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    field, text = "requires_python", text.strip()
    if not text:
        return ""
    try:
        release = Version(text).release
    except InvalidVersion:
        try:
            return str(SpecifierSet(text))
        except InvalidSpecifier as error:
            problem = f"{text!r} is neither a version of Python ('3.12') nor a specifier ('>=3.11')"
            raise RequirementsInvalid(problem, field=field) from error
    if len(release) not in (2, 3) or release[:2] < _OLDEST or release[0] != _OLDEST[0]:
        oldest = ".".join(map(str, _OLDEST))
        raise RequirementsInvalid(f"{text!r}: workers run Python {oldest} or later, such as '3.12'", field=field)
    return ".".join(map(str, release))
