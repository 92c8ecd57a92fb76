"""The exceptions of the front door. The message of each is for the user: it names the limit, file or name at fault."""


class NeuronError(Exception):
    """The base of all that this package raises for what a caller can put right."""


class LoadError(NeuronError):
    """There is no model to run: no checkpoint, a damaged one, no such device, or a package that is not installed."""


class InvalidRequestError(NeuronError, ValueError):
    """The arguments are not a valid request; the service would answer 422."""


class RequestFailedError(NeuronError):
    """The model cannot do what the request asks. code: why, one of `ErrorCode` (contract/jobs.py)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ServiceError(NeuronError):
    """The service refused a request, failed at it, or could not be reached.

    code: the end of the problem's `type`, such as `queue-full` (docs/api.md), or `unreachable`. status: of HTTP, None
    where no answer came.
    """

    def __init__(self, code: str, status: int | None, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class FileError(NeuronError):
    """A file of texts or features cannot be read or written."""
