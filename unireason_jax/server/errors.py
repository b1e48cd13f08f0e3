"""What a server says when it cannot do what is asked, in the form of OpenAI's protocol."""

from typing import Any

_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
      status: of HTTP.
      message: for a person.
      param: the field that is wrong, or None.
      code: for a program, e.g. "model_not_found"; or None.
      retry_after: seconds after which it may be tried again, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code, self.retry_after = param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        kind = _KINDS.get(self.status, "invalid_request_error")
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": told}

    @property
    def headers(self) -> dict[str, str]:
        """What is sent with it."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def wrong(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """A request that is not as it should be."""
    return Refusal(400, message, param=param, code=code)


def of(error: BaseException) -> Refusal:
    """What is said of an error: a fault of the request as it is, one of the server by its kind."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, TimeoutError):
        return Refusal(504, "the request took longer than the server allows.", code="timeout")
    if isinstance(error, ValueError | OSError):
        return wrong(str(error))
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        about = "the model has no memory left for this request; ask for a smaller picture or later."
        return Refusal(503, about, code="out_of_memory", retry_after=10)
    return Refusal(500, f"the server failed ({type(error).__name__}); its log says more.")
