"""The readable page of the API at `/docs`: self-contained, made from the OpenAPI document."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h2 { border-bottom: 1px solid var(--line); margin-top: 2.5rem; text-transform: capitalize; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: var(--soft); border-radius: 6px; overflow-x: auto; padding: .8rem; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .6rem .3rem 0; text-align: left; vertical-align: top; }
.method { display: inline-block; font-weight: 700; min-width: 4.5rem; }
.quiet { opacity: .75; }
"""


def page(document: dict[str, Any]) -> str:
    """The page as one HTML document, without anything from elsewhere."""
    info = document["info"]
    title = f"{_text(info['title'])} {_text(info['version'])}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: HTTP API</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{_text(info['summary'])}</p><p>{_text(info['description'])}</p>"
        '<p>Send <code>Authorization: Bearer TOKEN</code>. The same as a document: <a href="/openapi.json">'
        'openapi.json</a>; the schemas of all bodies: <a href="/schemas">schemas</a>.</p>'
        + "".join(_sections(document))
        + "</body></html>"
    )


def _sections(document: dict[str, Any]) -> Iterator[str]:
    for tag in document["tags"]:
        yield f'<section><h2 id="{_text(tag["name"])}">{_text(tag["name"].replace("_", " "))}</h2>'
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    yield _operation(method, path, operation, document["components"]["schemas"])
        yield "</section>"
    yield "<section><h2>Errors</h2><p>Every error has one shape:</p>"
    yield f"{_schema('error', document['components']['schemas'])}</section>"


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    head = (
        f'<details id="{_text(operation["operationId"])}"><summary><span class="method">{method.upper()}</span>'
        f' <code>{_text(path)}</code> <span class="quiet">{_text(operation["summary"])}</span></summary>'
        f"<p>{_text(operation['description'])}</p>"
    )
    return head + _parameters(operation) + _bodies(operation, schemas) + "</details>"


def _parameters(operation: dict[str, Any]) -> str:
    if not operation["parameters"]:
        return ""
    rows = "".join(
        f"<tr><td><code>{_text(p['name'])}</code></td><td>{_text(p['in'])}{', needed' if p['required'] else ''}</td>"
        f"<td>{_text(p.get('description') or p['schema'].get('format') or '')}</td></tr>"
        for p in operation["parameters"]
    )
    return f"<table>{rows}</table>"


def _bodies(operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    parts = []
    if "requestBody" in operation:
        parts.append("<h4>Body</h4>" + _contents(operation["requestBody"], schemas))
    for status, response in operation["responses"].items():
        if status != "default":
            parts.append(f"<h4>{_text(status)}</h4>" + _contents(response, schemas))
    return "".join(parts)


def _contents(holder: dict[str, Any], schemas: dict[str, Any]) -> str:
    shown = []
    for media_type, content in holder.get("content", {}).items():
        reference = content.get("schema", {}).get("$ref", "")
        body = _schema(reference.rsplit("/", 1)[-1], schemas) if reference else ""
        shown.append(f'<p class="quiet">{_text(media_type)}</p>{body}')
    return "".join(shown) or f"<p>{_text(holder.get('description', ''))}</p>"


def _schema(name: str, schemas: dict[str, Any]) -> str:
    text = json.dumps(schemas[name], indent=2, ensure_ascii=False)
    link = f'<a href="/schemas/{_text(name)}">{_text(name)}</a>'
    return f"<details><summary>{link}</summary><pre>{_text(text)}</pre></details>"


def _text(value: object) -> str:
    return html.escape(str(value))
