"""The error that a person can mend by asking differently."""


class RequestError(ValueError):
    """The request was wrong, and nothing was started: one message that says what to do, exit status 2."""
