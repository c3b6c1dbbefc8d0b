"""YAML as far as JSON goes."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def plain_loader() -> Any:
    """YAML's safe loader, without dates: JSON has none, and what looks like one is a text."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader
