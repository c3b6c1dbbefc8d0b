"""What a function takes, as a JSON schema: from its signature, type hints and docstring, or from its source alone."""

from __future__ import annotations

from headrace.sdk.input_schema.functions import of_function
from headrace.sdk.input_schema.source import docstring_of, of_source

__all__ = ["docstring_of", "of_function", "of_source"]
