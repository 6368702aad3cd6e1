"""Bodies: JSON or a multipart form to a checked request, and nothing that is larger, deeper or other than expected."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesHeaderParser
from typing import TypeVar

import pydantic
from fastapi import Request
from fastapi.exceptions import RequestValidationError

from serving.seams.problems import Refusal

JSON, FORM = "application/json", "multipart/form-data"
PARTS_MAX = 80
PART_HEAD_BYTES_MAX = 2048
BOUNDARY_CHARACTERS_MAX = 70  # RFC 2046, 5.1.1

Body = TypeVar("Body", bound=pydantic.BaseModel)


async def read_json(request: Request, kind: type[Body]) -> Body:
    """The body as `kind`. Raises Refusal for another content type (strict: a page elsewhere cannot post as a form),
    RequestValidationError for what is no such JSON."""
    if content_type(request)[0] != JSON:
        raise Refusal("unsupported_media", f"got {_sent_as(request)}, expected {JSON}")
    return _checked(kind, await request.body())


async def read_either(request: Request, kind: type[Body], lists: frozenset[str]) -> Body:
    """The body as `kind`, from JSON or from a form whose fields `lists` may come several times; raises as
    `read_json`."""
    sent_as, parameters = content_type(request)
    if sent_as == JSON:
        return _checked(kind, await request.body())
    if sent_as != FORM:
        raise Refusal("unsupported_media", f"got {_sent_as(request)}, expected {JSON} or {FORM}")
    values: dict[str, object] = {}
    for name, value in parts(await request.body(), parameters.get("boundary", "")):
        if name in lists:
            known = values.setdefault(name, [])
            assert isinstance(known, list)
            known.append(value)
        elif name in values:
            raise Refusal("invalid_request", f"form: the field {name!r:.80} came twice")
        else:
            values[name] = value
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        raise _invalid(error) from None


def content_type(request: Request) -> tuple[str, dict[str, str]]:
    """The kind of body that is announced, in small letters, and its parameters."""
    if request.headers.get("content-type") == JSON:  # nearly always, and a mail parser takes its time
        return JSON, {}
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    parameters = {name.lower(): value for name, value in header.get_params([])[1:]}
    return header.get_content_type() if request.headers.get("content-type") else "", parameters


def parts(body: bytes, boundary: str) -> list[tuple[str, str | bytes]]:
    """Names and values of a multipart form (RFC 7578): files as bytes, fields as text.

    Raises Refusal for what is none.
    """
    if not boundary or len(boundary) > BOUNDARY_CHARACTERS_MAX:
        raise Refusal("invalid_request", "form: no boundary in the content type")
    mark = b"\r\n--" + boundary.encode("latin-1", "replace")
    first, *pieces = (b"\r\n" + body).split(mark)
    if first.strip() or not pieces or not pieces[-1].startswith(b"--"):
        raise Refusal("invalid_request", "form: it does not begin and end with its boundary")
    if len(pieces) - 1 > PARTS_MAX:
        raise Refusal("invalid_request", f"form: got {len(pieces) - 1} fields, expected at most {PARTS_MAX}")
    return [_part(piece) for piece in pieces[:-1]]


def _part(piece: bytes) -> tuple[str, str | bytes]:
    head, found, value = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if not found or len(head) > PART_HEAD_BYTES_MAX:
        raise Refusal("invalid_request", "form: a field without a head, or one that is too long")
    headers = BytesHeaderParser().parsebytes(head)
    name = headers.get_param("name", header="content-disposition")
    if not isinstance(name, str) or not name:
        raise Refusal("invalid_request", "form: a field without a name")
    if headers.get_filename() is not None:
        return name, value
    try:
        return name, value.decode()
    except UnicodeDecodeError:
        raise Refusal("invalid_request", f"form: the field {name!r:.80} is no UTF-8 text") from None


def _checked(kind: type[Body], body: bytes) -> Body:
    try:
        return kind.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise _invalid(error) from None


def _invalid(error: pydantic.ValidationError) -> RequestValidationError:
    found = error.errors(include_url=False, include_context=False)
    return RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found])


def _sent_as(request: Request) -> str:
    return f"{request.headers.get('content-type', 'no content type')!r:.80}"
