"""A form with a file, as it comes: the file goes on piece by piece, and is held nowhere on its way."""

from collections.abc import AsyncIterator
from email.message import Message
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.problems import Problem

FORM = "multipart/form-data"
_FIELD_BYTES = 4096
_FIELDS = 16


class Form:
    """A request's form. After `content` has ended, `fields` are its other fields, and `file_name` is the file's."""

    def __init__(self, request: Request, file_field: str) -> None:
        """Raises Problem unless the request says that it is one."""
        media_type, options = parse_options_header(request.headers.get("content-type", ""))
        if media_type.decode("latin-1") != FORM or b"boundary" not in options:
            came = media_type.decode("latin-1")[:100]
            detail = f"the Content-Type is {came!r}: send a form, with `Content-Type: {FORM}` and its boundary"
            raise Problem("not-json", detail, {"Accept": FORM})
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self._request = request
        self._file_field = file_field
        self._boundary = options[b"boundary"]
        self._header = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._value = bytearray()
        self._is_file = False
        self._has_ended = False
        self._file: list[bytes] = []  # what has come of it and has not gone on

    async def content(self) -> AsyncIterator[bytes]:
        """The file's bytes. Raises Problem for what is no form, or has no such file."""
        parts: Any = {  # typed for those who check, not for those who import
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._read_header(data[start:end], b""),
            "on_header_value": lambda data, start, end: self._read_header(b"", data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": lambda data, start, end: self._read(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._end_form,
        }
        try:
            parser = MultipartParser(self._boundary, parts)
            async for piece in self._request.stream():
                parser.write(piece)
                for part in self._file:
                    yield part
                self._file.clear()
            parser.finalize()
            if not self._has_ended:
                raise FormParserError("it has no end")
        except FormParserError as error:
            raise Problem("invalid-request", f"the body is no form: {error}") from None
        if self.file_name is None:
            raise Problem("invalid-request", f"{self._file_field}: the form has no such file")

    def _begin(self) -> None:
        self._header, self._headers = (b"", b""), {}
        self._value.clear()

    def _read_header(self, name: bytes, value: bytes) -> None:
        self._header = self._header[0] + name, self._header[1] + value

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[name.lower()] = value
        self._header = b"", b""

    def _end_headers(self) -> None:
        # Its own parser leaves out what RFC 5987 adds for names that are not ASCII.
        disposition = Message()
        disposition["Content-Disposition"] = self._headers.get(b"content-disposition", b"").decode("utf-8", "replace")
        try:
            name = disposition.get_param("name", "", "Content-Disposition")
            file_name = (disposition.get_filename() or "").encode("utf-8", "replace").decode()
        except (ValueError, LookupError):  # RFC 5987's way to spell a name takes any charset, and any bytes
            raise Problem("invalid-request", "a part of the form has a name that cannot be read") from None
        self._name = name if isinstance(name, str) else ""
        self._is_file = self._name == self._file_field
        if self._is_file:
            if self.file_name is not None:
                raise Problem("invalid-request", f"{self._file_field}: the form has two: send one")
            self.file_name = file_name[:256]

    def _read(self, piece: bytes) -> None:
        if self._is_file:
            self._file.append(piece)
            return
        self._value += piece
        if len(self._value) > _FIELD_BYTES:
            raise Problem("invalid-request", f"the form has a field of more than {_FIELD_BYTES:,} bytes")

    def _end(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")
            if len(self.fields) > _FIELDS:
                raise Problem("invalid-request", f"the form has more than {_FIELDS} fields")

    def _end_form(self) -> None:
        self._has_ended = True
