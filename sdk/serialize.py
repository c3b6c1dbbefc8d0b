"""Serialisation strategies, under the names that Globus Compute's users know.

    from headrace.sdk.serialize import ComputeSerializer, DillCodeSource, JSONData

    executor.serializer = ComputeSerializer(strategy_code=DillCodeSource(), strategy_data=JSONData())
    executor.result_serializers = [JSONData()]

dill is not needed: the names stand for forms of Headrace's own (see `headrace.bus.functions.serializers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

import msgspec

from headrace.bus.data.arguments import encode_json_arguments
from headrace.bus.data.encodings import ENCODING_NAMES, JSON, OBJECT
from headrace.bus.data.json_values import encode_json
from headrace.bus.data.payloads import Large, Part, Source
from headrace.bus.data.values import decode, encode
from headrace.bus.errors import FunctionUnusable
from headrace.bus.functions.code import FunctionCode, from_function, load
from headrace.bus.functions.serializers import CODE_NAMES, DATA_NAMES, PICKLED, PLAIN, SOURCE, Allowed
from headrace.bus.structs import reader
from headrace.sdk.payloads import encode_call


class SerializationStrategy:
    """A way to write functions or values."""

    identifier: ClassVar[str] = ""
    """Globus Compute's three characters, without the end of the line."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class CodeStrategy(SerializationStrategy):
    """A way to write functions."""


class DataStrategy(SerializationStrategy):
    """A way to write arguments and results."""


class AllCodeStrategies(CodeStrategy):
    """By source and as a pickle: whichever the worker can read. The default."""

    identifier = "12"


class CombinedCode(CodeStrategy):
    """As `AllCodeStrategies`."""

    identifier = "10"


class DillCode(CodeStrategy):
    """As a pickle, which keeps closures, and which only the same minor version of Python reads."""

    identifier = "01"


class PickleCode(CodeStrategy):
    """As `DillCode`."""

    identifier = "02"


class DillCodeSource(CodeStrategy):
    """By source."""

    identifier = "04"


class DillCodeTextInspect(CodeStrategy):
    """By source."""

    identifier = "03"


class PureSourceTextInspect(CodeStrategy):
    """By source."""

    identifier = "st"


class PureSourceDill(CodeStrategy):
    """By source."""

    identifier = "sd"


class DillDataBase64(DataStrategy):
    """Any value: msgpack where that gives the same value back, else a pickle. The default. (No base64.)"""

    identifier = "00"


class AllDataStrategies(DataStrategy):
    """As `DillDataBase64`."""

    identifier = "13"


class JSONData(DataStrategy):
    """Plain data: tuples and sets become lists, dates and UUIDs texts; what has no form in JSON is refused."""

    identifier = "11"


_read_code = reader(FunctionCode, "a function")

STRATEGIES: Final[Mapping[str, type[SerializationStrategy]]] = {
    kind.__name__: kind for base in (CodeStrategy, DataStrategy) for kind in base.__subclasses__()
}
assert set(STRATEGIES) == {*CODE_NAMES, *DATA_NAMES}  # noqa: S101 - two lists of the same names

Strategy = SerializationStrategy | type[SerializationStrategy] | str


class ComputeSerializer:
    """How functions and arguments are written, and what is read here.

    strategy_code, strategy_data: an instance, a class, or a name, with or without its module.
    allowed_deserializer_types: the only strategies that `deserialize` reads; None is all.

    Raises `TypeError` and `ValueError` for what is no such strategy.
    """

    def __init__(
        self,
        strategy_code: Strategy | None = None,
        strategy_data: Strategy | None = None,
        *,
        allowed_deserializer_types: Iterable[Strategy] | None = None,
    ) -> None:
        self.code_serializer = _strategy(strategy_code or AllCodeStrategies, CodeStrategy)
        self.data_serializer = _strategy(strategy_data or DillDataBase64, DataStrategy)
        given = allowed_deserializer_types or ()
        self._allowed = Allowed.of(
            each if isinstance(each, str) else _strategy(each).__class__.__name__ for each in given
        )

    def code(self, code: FunctionCode) -> FunctionCode:
        """A function in the form of this strategy. Raises `FunctionUnusable` when it has none."""
        forms = CODE_NAMES[type(self.code_serializer).__name__]
        if code.source and SOURCE in forms:
            return code if PICKLED in forms else msgspec.structs.replace(code, pickled=b"")
        if code.pickled and PICKLED in forms:
            return code if SOURCE in forms else msgspec.structs.replace(code, source="", entry_point="")
        missing = "source" if SOURCE in forms else "pickle"
        raise FunctionUnusable(
            f"{self.code_serializer!r} stores functions by their {missing}, and {code.name!r} has none that could be "
            "stored; use another strategy_code, or define it otherwise"
        )

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, inline: int) -> tuple[int, bytes, list[Source]]:
        """The arguments of a call as `headrace.sdk.payloads.encode_call` gives them, in the form of this strategy."""
        if not isinstance(self.data_serializer, JSONData):
            return encode_call(args, kwargs, inline=inline)
        tag, data = encode_json_arguments(args, kwargs)
        if len(data) <= inline:
            return tag, data, []
        source = Source.of(data)
        part = Part([], bytes.fromhex(source.sha256), source.size, tag)
        return OBJECT, Large(0, b"", [part]).encode(), [source]

    def serialize(self, value: Any) -> bytes:
        """A function (anything that can be called) or a value as bytes for `deserialize`."""
        if callable(value):
            return b"code\n" + msgspec.msgpack.encode(self.code(from_function(value)))
        tag, data = (JSON, encode_json(value)) if isinstance(self.data_serializer, JSONData) else encode(value)
        return f"{ENCODING_NAMES[tag]}\n".encode() + data

    def deserialize(self, data: bytes) -> Any:
        """The function or value again. Raises `SerializerNotAllowed` before anything is read, and `BusError`."""
        kind, _, rest = data.partition(b"\n")
        if kind == b"code":
            return load(self._allowed.of_code(_read_code(rest)))
        tags = {name.encode(): tag for tag, name in ENCODING_NAMES.items()}
        tag = tags.get(kind, 0)
        self._allowed.check_data(tag, rest)
        return decode(tag, rest)

    def check_strategies(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """[function, args, kwargs] as they would arrive: written and read again here. Raises what either raises."""
        return [
            self.deserialize(self.serialize(function)),
            *(self.deserialize(self.serialize(each)) for each in (list(args), kwargs)),
        ]


def only_json(strategies: Iterable[Strategy] | None) -> bool:
    """Whether results of these strategies must be JSON. Raises `TypeError` and `ValueError`."""
    kinds = [_strategy(each, DataStrategy) for each in strategies or ()]
    return bool(kinds) and all(DATA_NAMES[type(kind).__name__] == {PLAIN} for kind in kinds)


def _strategy(given: Strategy, base: type[SerializationStrategy] = SerializationStrategy) -> SerializationStrategy:
    kind: Any = STRATEGIES.get(given.rpartition(".")[2]) if isinstance(given, str) else given
    if kind is None:
        raise ValueError(f"{given!r} is no serialisation strategy; there are {', '.join(STRATEGIES)}")
    made = kind() if isinstance(kind, type) and issubclass(kind, SerializationStrategy) else kind
    if not isinstance(made, base) or type(made).__name__ not in STRATEGIES:
        known = [name for name, each in STRATEGIES.items() if issubclass(each, base)]
        raise TypeError(f"{given!r} is not one of {', '.join(known)}")
    return made
