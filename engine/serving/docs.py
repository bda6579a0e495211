"""The page at /docs: the API in words, from its OpenAPI facts. It loads nothing, from nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content-Security-Policy under which a browser shows it."""
_HEAD = (
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">'
    "<style>body{font:16px sans-serif;max-width:60em;margin:2em auto}td{padding:.1em 1em .1em 0;"
    "vertical-align:top}code{font-size:.95em}</style>"
)


def page(facts: Mapping[str, Any]) -> str:
    """HTML of the OpenAPI ``facts``: each route, what it takes, what it answers with which status."""
    title = escape(facts["info"]["title"])
    about = escape(facts["info"].get("description", ""))
    parts = [_HEAD, f"<title>{title}</title></head><body><h1>{title}</h1><p>{about}</p>"]
    for path, verbs in facts["paths"].items():
        for verb, route in verbs.items():
            parts.append(f"<h2><code>{escape(verb.upper())} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(route.get('description', ''))}</p>")
            parts += _body(route)
            parts += _answers(route, facts)
    parts.append('<p>The same as JSON: <a href="/openapi.json">/openapi.json</a></p></body></html>')
    return "".join(parts)


def _body(route: Mapping[str, Any]) -> Iterator[str]:
    kinds = route.get("requestBody", {}).get("content", {})
    if kinds:
        yield f"<p>Takes {escape(' or '.join(kinds))}.</p>"


def _answers(route: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    for status, answer in route.get("responses", {}).items():
        name = _name(answer.get("content", {}).get("application/json", {}).get("schema", {}))
        yield f"<h3>{escape(status)} {escape(name or answer.get('description', ''))}</h3>"
        fields = facts.get("components", {}).get("schemas", {}).get(name, {}).get("properties", {})
        if fields:
            rows = (
                f"<tr><td><code>{escape(field)}</code><td>{escape(str(said.get('description', '')))}"
                for field, said in fields.items()
            )
            yield f"<table>{''.join(rows)}</table>"


def _name(schema: Mapping[str, Any]) -> str:
    """The model that a schema refers to."""
    return str(schema.get("$ref") or schema.get("items", {}).get("$ref", "")).rpartition("/")[2]
