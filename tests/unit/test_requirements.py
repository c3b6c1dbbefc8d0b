"""What functions need, as people write it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import RequirementsInvalid
from headrace.bus.functions.requirements import Needs, of_file, of_script
from headrace.sdk.needs import needs_of

NAMES = st.sampled_from(["numpy>=2", "NumPy >= 2", "a_b[x]==1", "A.B[X]==1", 'c; python_version > "3"'])


@given(st.lists(NAMES), st.randoms())
def test_equal_needs_are_one_environment_however_they_are_written(names: list[str], random: Random) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)
    written = [each.replace("NumPy >= 2", "numpy>=2").replace("A.B[X]", "a-b[x]") for each in shuffled]

    assert Needs.of(names, " 3.12 ") == Needs.of(written, "3.12")
    assert Needs.of(names).key() == Needs.of(written).key()
    assert Needs.of_text(Needs.of(names, "3.12").text) == Needs.of(names, "3.12")


def test_no_needs_are_no_environment() -> None:
    assert not Needs.of([])
    assert Needs().text == ""
    assert Needs.of_text("") == Needs()
    assert Needs.of(["a"]).key("linux") != Needs.of(["a"]).key("darwin")
    assert Needs.of(["A_b>1"], "3.12").packages == ("a-b",)
    assert Needs.of(["A_b>1"], "3.12").describe() == "Python 3.12 with a-b>1"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("-r other.txt", "an option of pip"),
        ("numpy =! 2", "is no requirement"),
        ("", "is no requirement"),
        (3, "no text"),
    ],
)
def test_an_entry_that_is_no_requirement_is_named(entry: str, problem: str) -> None:
    with pytest.raises(RequirementsInvalid, match=problem):
        Needs.of([entry])


@pytest.mark.parametrize("python", ["3", "2.7", "3.9", "three", "4.0"])
def test_a_python_that_cannot_be_is_refused(python: str) -> None:
    with pytest.raises(RequirementsInvalid, match="requires_python: "):
        Needs.of([], python)


def test_a_script_says_what_it_needs_in_its_head() -> None:
    head = '# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#   "numpy>=2",\n# ]\n# ///\n'

    assert of_script(f"#!/usr/bin/env python\n{head}\ndef f(): pass\n") == Needs(("numpy>=2",), ">=3.11")
    assert of_script("def f(): pass\n") == Needs()
    for text, problem in (
        (f"{head}\n{head}", "two"),
        (head.replace("[\n", "3\n#\n", 1), "not TOML"),
        ('# /// script\n# dependencies = "numpy"\n# ///\n', "is a list"),
    ):
        with pytest.raises(RequirementsInvalid, match=problem):
            of_script(text)


def test_a_file_of_requirements_is_read_and_its_wrong_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("# what we need\nnumpy>=2  # fast\n\nscipy \\\n  >=1\nx @ https://example.org/x-1.whl#sha256=a\n")

    assert of_file(path)[:2] == ["numpy>=2", "scipy>=1"]
    assert needs_of(path, "3.12") == needs_of(str(path), "3.12")
    path.write_text("numpy\n--index-url https://example.org\n")
    with pytest.raises(RequirementsInvalid, match=r"requirements\.txt, line 2: .*option of pip"):
        of_file(path)
    with pytest.raises(RequirementsInvalid, match="cannot be read"):
        of_file(tmp_path / "nowhere.txt")
    with pytest.raises(RequirementsInvalid, match=r"not 'numpy': \['numpy'\]"):
        needs_of("numpy", None)
    with pytest.raises(RequirementsInvalid, match="requires_python"):
        needs_of(None, 3.12)  # type: ignore[arg-type]  # what people write
