"""A file of lines, cut into chunks as it comes, so that it is read again from any line on, some lines at a time."""

from api import problems
from api.settings import ApiSettings

_CHUNK_BYTES = 65_536
_CHUNK_LINES = 64


class Chunks:
    """Chunks of whole lines. sizes: (bytes, lines) of each, where blank lines are none."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self.sizes: list[tuple[int, int]] = []
        self.bytes = 0
        self.lines = 0
        self._chunk_bytes = 0
        self._chunk_lines = 0
        self._line_bytes = 0  # of the line that is not complete
        self._blank = True
        self._blank_lines = 0

    def add(self, piece: bytes) -> None:
        """The next bytes of the file. Raises Problem where a limit is passed."""
        self.bytes += len(piece)
        limit = self._settings.api_max_batch_bytes
        if self.bytes > limit:
            raise problems.too_large("bytes of the file", self.bytes, limit, "NEURON_API_MAX_BATCH_BYTES")
        start = 0
        while (end := piece.find(b"\n", start) + 1) > 0:
            self._extend(piece[start:end])
            self._end_line()
            start = end
        self._extend(piece[start:])

    def end(self) -> None:
        """The file has ended."""
        if self._line_bytes:
            self._end_line()
        if self._chunk_bytes:
            self._end_chunk()

    def _extend(self, part: bytes) -> None:
        self._line_bytes += len(part)
        limit = self._settings.api_max_request_bytes
        if self._line_bytes > limit:
            what = f"bytes of line {self.lines + 1:,}"
            raise problems.too_large(what, self._line_bytes, limit, "NEURON_API_MAX_REQUEST_BYTES")
        self._blank = self._blank and not part.strip()

    def _end_line(self) -> None:
        limit = self._settings.api_max_batch_lines
        if not self._blank:
            self.lines += 1
            self._chunk_lines += 1
            if self.lines > limit:
                raise problems.too_large("lines of the file", self.lines, limit, "NEURON_API_MAX_BATCH_LINES")
        else:
            self._blank_lines += 1  # each takes its time as well
            if self._blank_lines > limit:
                raise problems.too_large("blank lines", self._blank_lines, limit, "NEURON_API_MAX_BATCH_LINES")
        self._chunk_bytes += self._line_bytes
        self._line_bytes, self._blank = 0, True
        if self._chunk_bytes >= _CHUNK_BYTES or self._chunk_lines >= _CHUNK_LINES:
            self._end_chunk()

    def _end_chunk(self) -> None:
        self.sizes.append((self._chunk_bytes, self._chunk_lines))
        self._chunk_bytes = self._chunk_lines = 0
