"""The methods of `Client` about functions."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from headrace.bus.functions.code import FunctionCode, from_function, from_source
from headrace.bus.functions.modules import Modules
from headrace.bus.functions.requirements import of_script
from headrace.sdk.documents import Document, Id, check_json, check_text, given, id_or_none, id_text, items
from headrace.sdk.http import Http
from headrace.sdk.needs import Requirements, needs_of, with_needs
from headrace.sdk.serialize import ComputeSerializer

_MOST_DOCSTRING: Final = 65_536
"""As much as a description may have (`function-registration.json`)."""


class FunctionMethods:
    """What a client says of functions; whoever inherits it has `_http`."""

    _http: Http

    def register_function(
        self,
        function: Callable[..., Any],
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        public: bool = False,
        *,
        requirements: Requirements | None = None,
        python: str | None = None,
        modules: Iterable[Modules] = (),
        serializer: ComputeSerializer | None = None,
        input_schema: Mapping[str, Any] | None = None,
        default_endpoint: Id | None = None,
    ) -> str:
        """Store a function, by source and by cloudpickle; gives its id. The docstring is its description by default.

        requirements: the packages that it needs, as a list (`["numpy>=2"]`) or as the path of a `requirements.txt`.
        python: the Python that it needs (`"3.12"`, `">=3.11"`). modules: what travels with it: modules, `.py` files,
            folders. serializer: in which form it is stored; None is both.
        input_schema: what the body of its own action provider must be (a JSON schema of an object); by default it
            follows from signature, type hints and docstring. default_endpoint: where that provider runs it.

        Raises `FunctionUnusable` when the function or a module cannot be stored, and `RequirementsInvalid`.
        """
        from headrace.sdk.input_schema import of_function

        about = description if description is not None else (getattr(function, "__doc__", None) or "")[:_MOST_DOCSTRING]
        code = from_function(function) if serializer is None else serializer.code(from_function(function))
        code = with_needs(code, needs_of(requirements, python), modules)
        schema = of_function(function) if input_schema is None else dict(input_schema)
        return self._register(code, about, metadata, public, schema, default_endpoint)

    def register_source_code(
        self,
        source: str,
        function_name: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        public: bool = False,
        *,
        requirements: Requirements | None = None,
        python: str | None = None,
        modules: Iterable[Modules] = (),
        input_schema: Mapping[str, Any] | None = None,
        default_endpoint: Id | None = None,
    ) -> str:
        """Store the text of a module; gives the id of its function `function_name`, by default the only one in it. Its
        docstring is its description by default.

        What it needs is said as for `register_function`, or else in the text itself (`# /// script`, PEP 723). The
        text is read for its input schema, never run.

        Raises `FunctionUnusable` when the text does not compile, or defines no such function, and
        `RequirementsInvalid`.
        """
        from headrace.sdk.input_schema import docstring_of, of_source

        check_text(source, "source")
        said = requirements is not None or python is not None
        needs = needs_of(requirements, python) if said else of_script(source)
        code = with_needs(from_source(source, function_name), needs, modules)
        schema = of_source(source, code.name) if input_schema is None else dict(input_schema)
        about = docstring_of(source, code.name)[:_MOST_DOCSTRING] if description is None else description
        return self._register(code, about, metadata, public, schema, default_endpoint)

    def get_function(self, function_id: Id) -> Document:
        """What is known of a function, its source included."""
        return self._http.document("GET", f"functions/{id_text(function_id, 'function_id')}")

    def list_functions(self) -> list[Document]:
        """The functions that belong to whoever asks."""
        return items(self._http.request("GET", "functions"), "functions")

    def delete_function(self, function_id: Id) -> None:
        """Remove a function; tasks that were submitted before may still need it, and then fail."""
        self._http.request("DELETE", f"functions/{id_text(function_id, 'function_id')}")

    def _register(
        self,
        code: FunctionCode,
        description: str,
        metadata: Mapping[str, Any] | None,
        public: bool,
        input_schema: Mapping[str, Any],
        default_endpoint: Id | None,
    ) -> str:
        body = given(
            name=code.name,
            source=code.source or None,
            pickled=base64.b64encode(code.pickled).decode("ascii") or None,
            entry_point=code.entry_point or None,
            python_version=code.python_version,
            modules=base64.b64encode(code.modules).decode("ascii") or None,
            requirements=code.requirements or None,
            requires_python=code.requires_python or None,
            description=description or None,
            public=public,
            metadata=None if metadata is None else dict(metadata),
            input_schema=input_schema,
            default_endpoint=id_or_none(default_endpoint, "default_endpoint"),
        )
        check_json(body)
        return str(self._http.request("POST", "functions", body=body)["function_id"])
