from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from headrace.bus.errors import FunctionUnusable
from headrace.bus.functions.code import FunctionCode, from_function, from_source, load, python_version, show_lines

LIMIT = 3
LOCK = threading.Lock()


def helper(x: float) -> float:
    return min(x, LIMIT)


def doubled(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return 2 * function(*args)

    return inner


def uses_surroundings(x: float, scale: float = 1) -> float:
    """Uses a helper, a constant and two modules."""
    return scale * helper(math.sqrt(x)) + float(np.sum([LIMIT]))


@doubled
def decorated(x: int) -> int:
    return x + 1


def holds_a_lock() -> bool:
    return LOCK.locked()


class Counter:
    def __init__(self, start: int) -> None:
        self.start = start

    def add(self, x: int) -> int:
        return self.start + x

    def __call__(self, x: int) -> int:
        return self.start * x


def other_version(code: FunctionCode) -> FunctionCode:
    return msgspec.structs.replace(code, python_version="2.7.18")


def there_and_back(function: Callable[..., Any]) -> Callable[..., Any]:
    code = msgspec.msgpack.decode(msgspec.msgpack.encode(from_function(function)), type=FunctionCode)
    return load(code)


def test_functions_of_every_kind_come_back() -> None:
    offset = 10
    assert there_and_back(uses_surroundings)(4, scale=2) == 7
    assert there_and_back(decorated)(1) == 4
    assert there_and_back(lambda x: x + offset)(1) == 11
    assert there_and_back(functools.partial(uses_surroundings, scale=0))(4) == 3
    assert there_and_back(Counter(2).add)(3) == 5
    assert there_and_back(Counter(2))(3) == 6
    assert there_and_back(Counter)(3).start == 3
    assert there_and_back(math.sqrt) is math.sqrt
    assert there_and_back("a".join)(["b", "c"]) == "bac"


def test_a_function_is_stored_by_source_as_well_and_runs_from_it_on_another_python() -> None:
    code = from_function(uses_surroundings)

    assert '"""Uses a helper, a constant and two modules."""' in code.source
    assert (code.name, code.entry_point) == ("uses_surroundings", "uses_surroundings")
    assert code.python_version == python_version()
    assert load(other_version(code))(4, scale=2) == 7


def test_decorators_stay_in_the_source() -> None:
    code = from_function(decorated)

    assert "@doubled" in code.source
    assert load(other_version(code))(1) == 4


def test_a_closure_runs_from_source_with_its_plain_variables() -> None:
    offset = 10

    def closure(x: int) -> int:
        return x + offset

    assert load(other_version(from_function(closure)))(1) == 11


def test_a_lambda_has_a_source_when_it_is_alone_in_its_statement() -> None:
    function = lambda x: x + LIMIT  # noqa: E731 - that is the case

    code = from_function(function)

    assert code.name.endswith("<lambda>")
    assert "lambda x: x + LIMIT" in code.source
    assert load(other_version(code))(1) == 4


def test_installed_functions_go_by_name_and_are_read_by_any_python() -> None:
    assert load(other_version(from_function(math.sqrt))) is math.sqrt
    assert load(other_version(from_function(functools.partial(math.pow, 2))))(3) == 8


def test_a_pickle_of_another_python_without_source_says_what_to_do() -> None:
    code = msgspec.structs.replace(from_function(Counter(2)), python_version="3.9.1", source="")

    with pytest.raises(
        FunctionUnusable, match=r"registered by Python 3\.9 .* this worker runs Python 3\.\d+.*register"
    ):
        load(code)


def test_what_has_neither_source_nor_pickle_is_refused() -> None:
    with pytest.raises(
        FunctionUnusable, match=r"cannot be sent to a worker.*cannot pickle .*lock.*Define it with `def`"
    ):
        from_function(functools.partial(print, LOCK))
    with pytest.raises(FunctionUnusable, match="a int was given in the place of a function"):
        from_function(3)  # type: ignore[arg-type]  # what is refused


def test_a_function_whose_globals_cannot_be_pickled_is_stored_somehow() -> None:
    code = from_function(holds_a_lock)

    assert "LOCK.locked()" in code.source
    assert load(code)() is False


def test_a_function_of_main_comes_back_in_a_process_that_lacks_it(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "notebook.py"
    script.write_text(
        "import sys, msgspec\nfrom headrace.bus.functions.code import from_function\nimport own_tools\n"
        "class Sample:\n    weight = 2\n"
        "def weigh(x):\n    return Sample().weight * own_tools.scale(x)\n"
        "sys.stdout.buffer.write(msgspec.msgpack.encode(from_function(weigh)))\n"
    )
    (tmp_path / "own_tools.py").write_text("def scale(x): return 10 * x\n")

    data = subprocess.run([sys.executable, str(script)], capture_output=True, check=True).stdout

    code = msgspec.msgpack.decode(data, type=FunctionCode)
    assert code.source.endswith("def weigh(x):\n    return Sample().weight * own_tools.scale(x)\n")
    assert load(code)(3) == 60


# From source


SOURCE = """\
from __future__ import annotations
import dataclasses

@dataclasses.dataclass
class Level:
    metres: float | None = None

def read(metres):
    return Level(metres)

def broken():
    raise RuntimeError("dry")

if __name__ == "__main__":
    raise SystemExit("run as a program")
"""


def test_a_module_text_is_run_in_a_module_of_its_own() -> None:
    read = load(from_source(SOURCE, "read"))

    assert dataclasses.asdict(read(1.5)) == {"metres": 1.5}
    assert sys.modules[read.__module__].__name__.startswith("headrace_function_")


def test_tracebacks_show_the_lines_of_source_that_has_no_file() -> None:
    with pytest.raises(RuntimeError) as caught:
        load(from_source(SOURCE, "broken"))()

    assert 'raise RuntimeError("dry")' in "".join(traceback.format_exception(caught.value))


def test_tracebacks_show_the_lines_of_a_pickled_function_whose_file_is_elsewhere(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "elsewhere.py"
    path.write_text("\n\n\ndef fails(x):\n    # a comment\n    return 1 / x\n")
    namespace: dict[str, Any] = {"__name__": "elsewhere"}
    exec(compile(path.read_text(), str(path), "exec"), namespace)  # noqa: S102 - a function of that file
    code = from_function(namespace["fails"])
    path.unlink()

    function = load(code)
    show_lines(code, function)
    with pytest.raises(ZeroDivisionError) as caught:
        function(0)

    text = "".join(traceback.format_exception(caught.value))
    assert "line 6, in fails" in text
    assert "return 1 / x" in text


def test_a_syntax_error_is_told_with_its_position() -> None:
    with pytest.raises(FunctionUnusable, match=r"does not compile: .* at line 2, column \d+: 'return \('"):
        from_source("def f():\n  return (\n", "f")
    with pytest.raises(FunctionUnusable, match="does not compile"):
        from_source("x = '\0'", "f")


def test_a_name_that_the_source_does_not_define_is_told_with_those_that_it_does() -> None:
    with pytest.raises(FunctionUnusable, match="does not define 'reed': it defines Level, read, broken"):
        from_source(SOURCE, "reed")
    with pytest.raises(FunctionUnusable, match="does not define 'f': it defines no function"):
        from_source("x = 1", "f")
    with pytest.raises(FunctionUnusable, match="say which function"):
        from_source(SOURCE)


def test_the_only_function_of_a_source_needs_no_name() -> None:
    assert load(from_source("import math\n\ndef area(r):\n    return math.pi * r * r\n"))(1) == math.pi


def test_a_name_may_come_from_an_import_or_from_under_an_if() -> None:
    assert load(from_source("from math import sqrt", "sqrt")) is math.sqrt
    assert load(from_source("if True:\n    def f(): return 1\n", "f"))() == 1
    assert load(from_source("f = lambda: 2", "f"))() == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_package\ndef f(): ...", "No module named 'no_such_package'; install the package"),
        ("f = 3", "which cannot be called"),
        ("def f(): ...\ndel f", "does not define 'f'"),
        ("def f(): ...\nraise SystemExit(1)", "running its source failed: SystemExit: 1"),
    ],
)
def test_source_that_cannot_be_run_is_an_error_that_says_why(source: str, message: str) -> None:
    with pytest.raises(FunctionUnusable, match=message):
        load(from_source(source, "f"))


def test_code_without_code_is_refused() -> None:
    with pytest.raises(FunctionUnusable, match="has no code"):
        load(FunctionCode("ghost"))
