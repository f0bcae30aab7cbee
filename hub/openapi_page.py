"""The interface's documentation as a page, made of the OpenAPI document: no script, nothing from elsewhere.

So it can be read where there is no internet, and a browser needs to allow it nothing but its own style.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

from hub.openapi import complete
from hub.resources import Resource

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "code{font-family:ui-monospace,monospace}nav a{margin-right:1rem}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}"
    "details{border:1px solid #ddd;border-radius:4px;margin:.4rem 0;padding:.3rem .8rem}summary{cursor:pointer}"
    "summary b{display:inline-block;width:5rem;font-family:ui-monospace,monospace}"
    "table{border-collapse:collapse;margin:.5rem 0}td,th{border:1px solid #ddd;padding:.1rem .6rem;text-align:left}"
    ".old{text-decoration:line-through}"
)
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""What a browser is to allow the page: its style."""

Document = dict[str, Any]
_METHODS = ("get", "post", "put", "patch", "delete")


def page_of(document: Document) -> str:
    """Return the page of a document."""
    groups: dict[str, list[tuple[str, str, Document]]] = {}
    for path, item in sorted(document["paths"].items()):
        for method in _METHODS:
            if method in item:
                tag = (item[method].get("tags") or ["other"])[0]
                groups.setdefault(tag, []).append((method, path, item[method]))
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    links = " ".join(f'<a href="#{_anchor(tag)}">{escape(tag)}</a>' for tag in groups)
    parts = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>",
        '<p>The same for programs: <a href="openapi.json">openapi.json</a>. Every request carries',
        "<code>Authorization: Token KEY</code> or <code>JWT TOKEN</code>.</p>",
        f"<nav>{links}</nav>",
    ]
    for tag, operations in groups.items():
        parts.append(f'<h2 id="{_anchor(tag)}">{escape(tag)}</h2>')
        parts += [_operation(method, path, one) for method, path, one in operations]
    parts.append('<h2 id="objects">Objects</h2>')
    parts += [_object(name, one) for name, one in sorted(document.get("components", {}).get("schemas", {}).items())]
    parts.append("</body></html>")
    return "\n".join(parts)


def _anchor(text: str) -> str:
    return escape(text.replace(" ", "-"), quote=True)


def _operation(method: str, path: str, one: Document) -> str:
    old = ' class="old"' if one.get("deprecated") else ""
    summary = f"<b>{method.upper()}</b> <code{old}>{escape(path)}</code> {escape(one.get('summary', ''))}"
    parts = [f"<details><summary>{summary}</summary><p>{escape(one.get('description') or '')}</p>"]
    rows = [
        (
            escape(told["name"]),
            escape(told.get("in", "")),
            _kind(told.get("schema", {})),
            escape(told.get("description") or ""),
        )
        for told in one.get("parameters", [])
    ]
    parts.append(_table(("parameter", "in", "kind", ""), rows))
    for media, content in (one.get("requestBody") or {}).get("content", {}).items():
        parts.append(f"<p>Body: <code>{escape(media)}</code> {_kind(content.get('schema', {}))}</p>")
    rows = [
        (status, escape(answer.get("description") or ""), _contents(answer), "")
        for status, answer in one.get("responses", {}).items()
    ]
    parts.append(_table(("status", "", "body", ""), rows))
    return "".join([*parts, "</details>"])


def _contents(answer: Document) -> str:
    return ", ".join(
        f"<code>{escape(media)}</code> {_kind(content.get('schema') or {})}"
        for media, content in (answer.get("content") or {}).items()
    )


def _object(name: str, schema: Document) -> str:
    required = set(schema.get("required", []))
    rows = [
        (escape(field), "required" if field in required else "", _kind(one), escape(one.get("description") or ""))
        for field, one in schema.get("properties", {}).items()
    ]
    text = f"<p>{escape(schema.get('description') or '')}</p>"
    return f'<details id="{_anchor(name)}"><summary><code>{escape(name)}</code></summary>{text}' + (
        _table(("field", "", "kind", ""), rows) + "</details>"
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    top = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<table><tr>{top}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _kind(schema: Document) -> str:
    return " or ".join(dict.fromkeys(_kinds(schema))) or "any"


def _kinds(schema: Document) -> Iterator[str]:
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        yield f'<a href="#{_anchor(name)}">{escape(name)}</a>'
        return
    for word in ("oneOf", "anyOf", "allOf"):
        for one in schema.get(word, []):
            yield from _kinds(one)
    if "enum" in schema:
        yield ", ".join(f"<code>{escape(str(one))}</code>" for one in schema["enum"])
        return
    told = schema.get("type", [])
    for kind in [told] if isinstance(told, str) else told:
        if kind == "array":
            yield f"list of {_kind(schema.get('items') or {})}"
        else:
            yield escape(f"{kind} ({schema['format']})" if schema.get("format") and kind != "null" else kind)


class OfflinePage(OpenAPIRenderPlugin):
    """Serves the page of the complete document."""

    def __init__(self, resources: Sequence[Resource], open_paths: Sequence[str], *, path: str) -> None:
        super().__init__(path=path)
        self._resources, self._open_paths = resources, open_paths

    def render(self, _request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """Return the page."""
        return page_of(complete(openapi_schema, self._resources, self._open_paths)).encode()
