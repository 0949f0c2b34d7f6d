"""One process at a time: a lock on an open file that ends with the process, however it ends."""

from __future__ import annotations

from typing import IO, Any

from lacos_st.errors import UserError


def hold(file: IO[Any] | int, *, refusal: str) -> None:
    """Lock an open file against other processes until it is closed; nothing on Windows, which has no such locks.

    Args:
        file: open, or its descriptor.
        refusal: what is said where another process holds it.

    Raises:
        UserError: another process does.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(refusal) from error
