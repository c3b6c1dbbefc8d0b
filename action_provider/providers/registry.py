"""Which provider answers at an address."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl
from uuid import UUID

from headrace.action_provider.providers.provider import Provider, ProviderAddress

_PARAMETER = re.compile(r"{(\w+)(?::(uuid))?}")


@dataclass(frozen=True, slots=True)
class Place:
    """A provider, its address, and what stands behind the address in the path."""

    provider: Provider
    at: ProviderAddress
    steps: tuple[str, ...] = ()


class Registry:
    """The providers of a service. Where two could answer, the one with the longer path does.

    Slashes may be doubled or trail: clients join addresses in many ways, and none of them likes a redirect.
    """

    def __init__(self, providers: Iterable[Provider]) -> None:
        self.providers = tuple(providers)
        forms = [(tuple(_steps(provider.path)), provider) for provider in self.providers]
        self._forms = sorted(forms, key=lambda form: -len(form[0]))
        self._first = {form[0] for form, _ in forms}

    def find(self, path: str, query: str = "") -> Place | None:
        """Who answers at this path; None when nobody does.

        A client that appends `/run` to an address that ends with a query sends the rest of the path as part of the
        query (`?endpoint=ID/run`): it is read as what was meant.
        """
        steps = _steps(path)
        if not steps or steps[0] not in self._first:
            return None
        for form, provider in self._forms:
            parameters = _match(form, steps)
            if parameters is not None:
                at = ProviderAddress(path=_filled(form, parameters), parameters=parameters)
                place = Place(provider, at, tuple(steps[len(form) :]))
                return _with_query(place, query) if query else place
        return None


def _with_query(place: Place, query: str) -> Place:
    parts = query.split("&")
    behind: tuple[str, ...] = ()
    appended = next((number for number, part in enumerate(parts) if "/" in part), None)
    if not place.steps and appended is not None:
        parts[appended], _, rest = parts[appended].partition("/")
        behind = tuple(_steps(rest))
    at = replace(place.at, query=dict(parse_qsl("&".join(parts))))
    return replace(place, at=at, steps=place.steps + behind)


def _steps(path: str) -> list[str]:
    return [step for step in path.split("/") if step]


def _filled(form: tuple[str, ...], parameters: dict[str, str]) -> str:
    if not parameters:
        return f"/{'/'.join(form)}"
    names = (_PARAMETER.fullmatch(step) for step in form)
    return "".join(f"/{parameters[name[1]] if name else step}" for name, step in zip(names, form, strict=True))


def _match(form: tuple[str, ...], steps: list[str]) -> dict[str, str] | None:
    """The parameters of a path that begins as the form does; None when it does not."""
    if len(steps) < len(form):
        return None
    parameters: dict[str, str] = {}
    for wanted, step in zip(form, steps, strict=False):
        if wanted == step:
            continue
        parameter = _PARAMETER.fullmatch(wanted)
        if parameter is None:
            return None
        try:
            parameters[parameter[1]] = str(UUID(step)) if parameter[2] else step
        except ValueError:
            return None
    return parameters
