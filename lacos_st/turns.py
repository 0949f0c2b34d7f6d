"""One caller at a time: for methods of an object that many threads may share.

A fast tokenizer is one: how it cuts and pads is a setting of the tokenizer itself, which every call sets anew. Two
calls at once fail ("Already borrowed"), or cut a sentence at the other call's length.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import Lock, RLock
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

Method = TypeVar("Method", bound=Callable[..., Any])

_locks: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # beside the objects, which are copied and pickled
_making = Lock()


def one_at_a_time(method: Method) -> Method:
    """The method, waiting while another thread is in it on the same object; a thread may enter it again."""

    @wraps(method)
    def in_turn(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _making:
            lock = _locks.setdefault(self, RLock())
        with lock:
            return method(self, *args, **kwargs)

    return cast(Method, in_turn)
