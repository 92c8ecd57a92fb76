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


class FileError(NeuronError):
    """A file of texts or features cannot be read or written."""
