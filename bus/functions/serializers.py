"""In which forms functions and values travel, under the names that Globus Compute has for them.

    kind   form      what it is here                                     the names that mean it
    code   source    the text of the function and what it needs          DillCodeSource, PureSourceTextInspect ...
    code   pickle    cloudpickle                                         DillCode, PickleCode
    data   plain     msgpack and JSON: nothing runs when it is read      JSONData
    data   pickle    pickle and cloudpickle                              DillDataBase64

An endpoint may allow some only (`allowed_serializers`): everything else is refused before anything is read of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from headrace.bus.data.encodings import CLOUDPICKLE, ENCODING_NAMES, JSON, MSGPACK, OBJECT, PICKLE
from headrace.bus.errors import SerializerNotAllowed
from headrace.bus.functions.code import FunctionCode

SOURCE: Final = "source"
PICKLED: Final = "pickle"
PLAIN: Final = "plain"

CODE_NAMES: Final[Mapping[str, frozenset[str]]] = {
    "DillCodeSource": frozenset({SOURCE}),
    "DillCodeTextInspect": frozenset({SOURCE}),
    "PureSourceTextInspect": frozenset({SOURCE}),
    "PureSourceDill": frozenset({SOURCE}),
    "DillCode": frozenset({PICKLED}),
    "PickleCode": frozenset({PICKLED}),
    "CombinedCode": frozenset({SOURCE, PICKLED}),
    "AllCodeStrategies": frozenset({SOURCE, PICKLED}),
}
DATA_NAMES: Final[Mapping[str, frozenset[str]]] = {
    "JSONData": frozenset({PLAIN}),
    "DillDataBase64": frozenset({PLAIN, PICKLED}),
    "AllDataStrategies": frozenset({PLAIN, PICKLED}),
}
_ANY_CODE, _ANY_DATA = "*Code", "*Data"
_FORMS: Final = {MSGPACK: PLAIN, JSON: PLAIN, PICKLE: PICKLED, CLOUDPICKLE: PICKLED}
PICKLES: Final = frozenset({PICKLE, CLOUDPICKLE})


@dataclass(frozen=True, slots=True)
class Allowed:
    """The forms that may be read."""

    code: frozenset[str] = frozenset({SOURCE, PICKLED})
    data: frozenset[str] = frozenset({PLAIN, PICKLED})

    @classmethod
    def of(cls, names: Iterable[str]) -> Allowed:
        """Those of `allowed_serializers`; with none of a kind (code, data) all of that kind. None at all: all.

        A name may stand behind its module (`globus_compute_sdk.serialize.JSONData`); `globus_compute_sdk.*Code` and
        `globus_compute_sdk.*Data` are all of a kind. Raises `ValueError`, which names the one that there is not.
        """
        code: set[str] = set()
        data: set[str] = set()
        for name in names:
            short = name.rpartition(".")[2]
            if short in CODE_NAMES or short == _ANY_CODE:
                code |= CODE_NAMES.get(short, ALL.code)
            elif short in DATA_NAMES or short == _ANY_DATA:
                data |= DATA_NAMES.get(short, ALL.data)
            else:
                raise ValueError(_unknown(name))
        return cls(frozenset(code) or ALL.code, frozenset(data) or ALL.data)

    def of_code(self, code: FunctionCode) -> FunctionCode:
        """The function without the forms that may not be read. Raises `SerializerNotAllowed` when none is left."""
        if self.code == ALL.code:
            return code
        pickled = code.pickled if PICKLED in self.code else b""
        source = code.source if SOURCE in self.code else ""
        if not pickled and not source and (code.pickled or code.source):
            has = "as a pickle" if code.pickled else "by its source"
            raise SerializerNotAllowed(
                f"function {code.name!r} came {has} only, and this endpoint reads functions {_shown(self.code)} only "
                f"(allowed_serializers): register it with {_advice(self.code, CODE_NAMES)}"
            )
        if code.modules and SOURCE not in self.code:
            raise SerializerNotAllowed(
                f"function {code.name!r} brings modules, which are source, and this endpoint reads no source "
                "(allowed_serializers)"
            )
        return msgspec.structs.replace(code, pickled=pickled, source=source)

    def check_data(self, tag: int, data: bytes) -> None:
        """Raises `SerializerNotAllowed` when a value in this encoding may not be read."""
        if self.data == ALL.data:
            return
        for encoding in _encodings(tag, data):
            if _FORMS.get(encoding) not in self.data:
                name = ENCODING_NAMES.get(encoding, str(encoding))
                raise SerializerNotAllowed(
                    f"the arguments came as {name}, and this endpoint reads arguments {_shown(self.data)} only "
                    f"(allowed_serializers): send plain data (numbers, texts, lists, dicts), or use "
                    f"{_advice(self.data, DATA_NAMES)}"
                )


ALL: Final = Allowed()


def _encodings(tag: int, data: bytes) -> list[int]:
    if tag != OBJECT:
        return [tag]
    from headrace.bus.data.payloads import read_large

    large = read_large(data)
    return [*([large.encoding] if large.data else []), *(part.encoding for part in large.parts)]


def _unknown(name: str) -> str:
    known = [*CODE_NAMES, *DATA_NAMES]
    likely = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
    advice = f"did you mean {likely[0]!r}?" if likely else f"there are {', '.join(known)}"
    return f"{name!r} is no serialisation strategy; {advice}"


_WORDS: Final = {SOURCE: "by source", PICKLED: "as pickles", PLAIN: "as plain data"}


def _shown(forms: frozenset[str]) -> str:
    return " and ".join(_WORDS[form] for form in sorted(forms))


def _advice(forms: frozenset[str], names: Mapping[str, frozenset[str]]) -> str:
    return next(name for name, meant in names.items() if meant <= forms)
