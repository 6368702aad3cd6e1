"""The HTTP API as `docs/http.md` shows it, read from the OpenAPI document that the gateway itself hands out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.after.markdown import table

Json = Mapping[str, Any]

HEAD = """\
# HTTP API

Written by `make docs` from the gateway's own OpenAPI document; do not edit.

A running service hands the same document out at `/openapi.json`, with an example for each body that works with what it
serves. [serving.md](serving.md) says what the routes mean and which knobs are behind them. A key goes into
`authorization: Bearer KEY` or `x-api-key`; on loopback the client routes are open until there are keys, those below
`/v1/admin/` never are: they want a key with the role admin. Every request may carry `x-request-id`.
"""
BOUNDS = {
    "maxLength": "at most {} characters", "minLength": "not shorter than {}", "maxItems": "at most {} items",
    "minItems": "not fewer than {}", "minimum": "at least {}", "maximum": "at most {}",
    "exclusiveMinimum": "above {}", "exclusiveMaximum": "below {}",
}  # fmt: skip


def page() -> str:
    """The whole of docs/http.md."""
    document = openapi()
    parts = [HEAD, "## Routes\n"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(f"{method.upper()} {path}", operation)
    parts += ["## Errors\n", "RFC 9457 problem documents (`application/problem+json`, fields: "
              "[Problem](#problem)); programs go by `code`.\n", _codes()]  # fmt: skip
    parts.append("## Bodies\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += _schema(name, schema)
    return "\n".join(parts).rstrip() + "\n"


def openapi() -> Json:
    """The document of the gateway's application, with nothing served behind it but the default recipe's names."""
    from serving.seams.observe import Quiet
    from serving.web import routes
    from serving.web.auth import Keys

    class Shown:
        """What the document asks a desk for: examples are made of it, and nobody is answered."""

        observer, keys, body_bytes_max = Quiet(), Keys(()), 0

        def models(self) -> list[dict[str, Any]]:
            return [{"id": "digits", "arm": "champion"}]

        def example(self) -> dict[str, Any]:
            return {"text": "what digit is this ?"}

    desk: Any = Shown()
    found: Json = routes.create(desk).openapi()
    return found


def _operation(title: str, operation: Json) -> Iterator[str]:
    yield f"### {title}\n"
    yield _words(operation["description"]) + "\n"
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]
        forms = " or ".join(f"`{form}`" for form in content)
        (schema,) = {_type(one["schema"]) for one in content.values()}
        yield f"Takes {schema} as {forms}.\n"
    refused, given = [], []
    for status, answer in sorted(operation["responses"].items()):
        kinds = list(dict.fromkeys(_type(one["schema"]) for one in answer["content"].values() if "schema" in one))
        if kinds == ["[Problem](#problem)"]:
            refused.append(status)
        else:
            given.append(f"{status}: {' or '.join(kinds)}")
    yield f"Gives {', '.join(given)}. [Errors](#errors): {', '.join(refused)}.\n"


def _codes() -> str:
    from serving.seams.problems import KINDS

    rows = [(f"`{code}`", str(status), told) for code, (status, told) in KINDS.items()]
    return table(("code", "status", "means"), sorted(rows, key=lambda row: row[1]))


def _schema(name: str, schema: Json) -> Iterator[str]:
    yield f"### {name}\n"
    if "description" in schema:
        yield _words(schema["description"]) + "\n"
    required = schema.get("required", ())
    rows = [
        (f"`{field}`", _type(one), "needed" if field in required else _default(one), _about(one))
        for field, one in schema.get("properties", {}).items()
    ]
    if rows:
        yield table(("field", "type", "default", "what"), rows)


def _type(schema: Json) -> str:
    """A JSON schema in words; a schema of its own is linked."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    choices = schema.get("anyOf", schema.get("oneOf"))
    if choices is not None:
        return " or ".join(dict.fromkeys(_type(one) for one in choices))
    if "const" in schema or "enum" in schema:
        return " or ".join(_value(value) for value in schema.get("enum", [schema.get("const")]))
    return _plain(schema)


def _plain(schema: Json) -> str:
    kind, values = schema.get("type"), schema.get("additionalProperties")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if isinstance(values, Mapping):
        return f"mapping to {_type(values)}"
    if schema.get("format") in ("byte", "binary"):
        return "base64"
    names = {"string": "text", "boolean": "true or false", None: "anything"}
    return names.get(kind, str(kind))


def _default(schema: Json) -> str:
    return _value(schema["default"]) if "default" in schema else "–"


def _value(value: Any) -> str:
    """A value as JSON has it."""
    return f"`{value}`" if value and isinstance(value, str) else f"`{json.dumps(value)}`"


def _about(schema: Json) -> str:
    """The field's description, and the bounds of its value wherever they stand in the schema."""
    bounds = [
        said.format(f"{part[key]:g}" if isinstance(part[key], float) else part[key])
        for part in (schema, *schema.get("anyOf", ()))
        for key, said in BOUNDS.items()
        if key in part
    ]
    told = _words(schema.get("description", "")).rstrip(".")
    return "; ".join(filter(None, [told, ", ".join(bounds)]))


def _words(text: str) -> str:
    return " ".join(text.split())
