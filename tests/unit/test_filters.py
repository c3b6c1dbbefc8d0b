"""Filters match what they say, and the index finds what evaluating all of them would find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import FilterInvalid
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.filters import Filter, FilterIndex, compile_filter
from headrace.bus.filters.dialects import Part
from headrace.bus.filters.view import EventView

NAMES = ("type", "subject", "ext")
TEXTS = ("a", "ab", "abc", "b", "bc", "1", "true")


def event(**more: Any) -> CloudEvent:
    return CloudEvent.of_document({"id": "1", "source": "/s", "specversion": "1.0", "type": "ab", **more})


def matches(document: Any, **more: Any) -> bool:
    return compile_filter(document).matches(event(**more))


@pytest.mark.parametrize(
    ("document", "more", "expected"),
    [
        ({"exact": {"type": "ab"}}, {}, True),
        ({"exact": {"type": "AB"}}, {}, False),
        ({"exact": {"type": "ab", "subject": "x"}}, {"subject": "x"}, True),
        ({"exact": {"type": "ab", "subject": "x"}}, {"subject": "y"}, False),
        ({"exact": {"subject": "x"}}, {}, False),
        ({"exact": {"flag": "true"}}, {"flag": True}, True),
        ({"exact": {"n": "3"}}, {"n": 3}, True),
        ({"prefix": {"type": "a"}}, {}, True),
        ({"prefix": {"type": "b"}}, {}, False),
        ({"suffix": {"type": "b"}}, {}, True),
        ({"all": [{"prefix": {"type": "a"}}, {"suffix": {"type": "b"}}]}, {}, True),
        ({"all": [{"prefix": {"type": "a"}}, {"suffix": {"type": "c"}}]}, {}, False),
        ({"any": [{"exact": {"type": "x"}}, {"exact": {"type": "ab"}}]}, {}, True),
        ({"any": [{"exact": {"type": "x"}}, {"exact": {"type": "y"}}]}, {}, False),
        ({"not": {"exact": {"subject": "x"}}}, {}, True),
        ({"not": {"exact": {"type": "ab"}}}, {}, False),
        ({"exact": {"type": "ab"}, "not": {"exact": {"subject": "x"}}}, {"subject": "x"}, False),
        ([{"exact": {"type": "ab"}}, {"prefix": {"subject": "x"}}], {"subject": "xy"}, True),
    ],
)
def test_a_filter_matches_what_it_says(document: Any, more: dict[str, Any], expected: bool) -> None:
    assert matches(document, **more) is expected


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({}, ""),
        ("text", ""),
        (None, ""),
        ([], ""),
        ({"exact": {}}, "/exact"),
        ({"exact": []}, "/exact"),
        ({"exact": {"type": ""}}, "/exact/type"),
        ({"exact": {"type": 5}}, "/exact/type"),
        ({"exact": {"Type": "x"}}, "/exact/Type"),
        ({"exact": {"data": "x"}}, "/exact/data"),
        ({"prefix": {"a/b": "x"}}, "/prefix/a~1b"),
        ({"regex": {"type": "x"}}, "/regex"),
        ({"all": []}, "/all"),
        ({"any": [{"exact": {"type": "x"}}, {"nope": 1}]}, "/any/1/nope"),
        ({"not": []}, "/not"),
        ([{"exact": {"type": "x"}}, {}], "/1"),
        ({"exact": {"type": "x" * 2049}}, "/exact/type"),
    ],
)
def test_an_invalid_filter_is_refused_with_its_place(document: Any, pointer: str) -> None:
    with pytest.raises(FilterInvalid) as caught:
        compile_filter(document)
    assert caught.value.pointer == pointer


def test_a_filter_is_not_nested_without_end() -> None:
    document: Any = {"exact": {"type": "x"}}
    for _ in range(20):
        document = {"not": document}
    with pytest.raises(FilterInvalid, match="deep"):
        compile_filter(document)


def test_a_filter_has_a_limit_of_clauses() -> None:
    with pytest.raises(FilterInvalid, match="256"):
        compile_filter({"any": [{"exact": {"type": str(n)}} for n in range(257)]})


_COMPARISON = st.sampled_from(["exact", "prefix", "suffix"]).flatmap(
    lambda dialect: st.dictionaries(st.sampled_from(NAMES), st.sampled_from(TEXTS), min_size=1).map(
        lambda wanted: {dialect: wanted}
    )
)
_FILTERS = st.recursive(
    _COMPARISON,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda each: {"all": each}),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: {"any": each}),
        inner.map(lambda each: {"not": each}),
    ),
    max_leaves=6,
)
_EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(TEXTS)},
    optional={"subject": st.sampled_from(TEXTS), "ext": st.sampled_from(TEXTS) | st.booleans() | st.integers(0, 2)},
)


def naive(document: Any, attributes: dict[str, str]) -> bool:
    """The specification, word by word."""
    [(dialect, body)] = document.items()
    match dialect:
        case "all":
            return all(naive(each, attributes) for each in body)
        case "any":
            return any(naive(each, attributes) for each in body)
        case "not":
            return not naive(body, attributes)
    comparisons: dict[str, Callable[[str, str], bool]] = {
        "exact": str.__eq__,
        "prefix": str.startswith,
        "suffix": str.endswith,
    }
    fits = comparisons[dialect]
    return all(name in attributes and fits(attributes[name], text) for name, text in body.items())


@given(_FILTERS, _EVENTS)
def test_a_filter_agrees_with_the_specification(document: Any, more: dict[str, Any]) -> None:
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in more.items()}
    assert matches(document, **more) == naive(document, texts)


@given(_FILTERS)
def test_the_opposite_of_the_opposite_is_the_filter_itself(document: Any) -> None:
    for text in TEXTS:
        assert matches({"not": {"not": document}}, subject=text) == matches(document, subject=text)


@given(st.lists(_FILTERS, max_size=8), st.sets(st.integers(0, 7)), _EVENTS)
def test_the_index_finds_what_evaluating_every_filter_finds(
    documents: list[Any], removed: set[int], more: dict[str, Any]
) -> None:
    index: FilterIndex[int] = FilterIndex()
    for key, document in enumerate(documents):
        index.put(key, compile_filter({"exact": {"type": "replaced"}}))
        index.put(key, compile_filter(document))
    for key in removed:
        index.remove(key)
    expected = {key for key, each in enumerate(documents) if key not in removed and matches(each, **more)}
    assert index.matching(event(**more)) == expected
    assert len(index) == len(set(range(len(documents))) - removed)


@pytest.mark.parametrize(
    "document",
    [
        lambda key: {"exact": {"type": f"t{key}"}},
        lambda key: {"prefix": {"subject": f"s{key}-"}, "suffix": {"type": "7"}},
        lambda key: {"suffix": {"subject": f"-s{key}"}},
        lambda key: {"pattern": {"type": [f"t{key}", "never"]}},
        lambda key: {"pattern": {"data": {"instrument": [key]}}},
        lambda key: {"pattern": {"subject": [{"prefix": f"s{key}-"}], "data": {"x": [{"exists": False}]}}},
        lambda key: {"pattern": {"$or": [{"type": [f"t{key}"]}, {"data": {"instrument": [key]}}]}},
        lambda key: {"sql": f"type = 't{key}' AND EXISTS subject"},
        lambda key: {"sql": f"subject LIKE 's{key}-%' OR type IN ('t{key}', 'never')"},
        lambda key: {"any": [{"exact": {"type": f"t{key}"}}, {"sql": f"subject LIKE 's{key}-%'"}]},
    ],
)
def test_an_index_evaluates_only_what_could_fit(document: Callable[[int], Any]) -> None:
    index: FilterIndex[int] = FilterIndex()
    evaluated: list[int] = []
    for key in range(300):
        compiled = compile_filter(document(key))

        def fits(view: EventView, key: int = key, root: Part = compiled.root) -> bool:
            evaluated.append(key)
            return root.fits(view)

        index.put(key, Filter(compiled.document, replace(compiled.root, fits=fits)))

    found = index.matching(event(type="t7", subject="s7-x-s7", data={"instrument": 7}))

    assert found == {7}
    assert evaluated == [7]
