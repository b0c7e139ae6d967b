"""The errors that are told in one message."""


class RequestError(ValueError):
    """The request was wrong, and nothing was started: one message that says what to do, exit status 2."""


class UnreachableError(RequestError):
    """The tracking server does not answer, and nothing was started."""


class ServerAwayError(RuntimeError):
    """The tracking server did not answer for longer than a command waits; what was to be done can be done later."""
