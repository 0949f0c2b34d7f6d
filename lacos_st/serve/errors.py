"""Errors in the form that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

INVALID = "invalid_request_error"


class ApiError(Exception):
    """What a request is answered with instead of a result.

    Args:
        message: what was given, what was expected.
        status: of HTTP.
        kind: the API's `type`.
        param: the field that is wrong.
        code: a word for programs.
    """

    def __init__(
        self, message: str, *, status: int = 400, kind: str = INVALID, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def of_validation(errors: Sequence[Any]) -> ApiError:
    """From what pydantic found wrong with a request's body."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return ApiError("the body is not JSON")
    named = ".".join(part for part in place if not part[0].isupper() and "[" not in part)
    param = named.split(".")[0] or None
    what = f"{param}: " if param else ""
    return ApiError(f"{what}{first['msg']}", param=param)
