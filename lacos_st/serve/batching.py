"""Texts of many requests in one batch: the model is called by one thread, on all that waits."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

Encode = Callable[[list[str]], np.ndarray]


class Busy(Exception):
    """More texts wait than may."""


@dataclass
class _Waiting:
    texts: list[str]
    result: Future[np.ndarray] = field(default_factory=Future)


class Batcher:
    """Encodes what several callers hand in together, each caller's texts in their order.

    A batch is what waits when the model becomes free, up to `most` texts: nobody waits for a batch to fill, and the
    busier the server, the larger its batches. Where one raises, each caller's texts are encoded by themselves, so that
    only the caller who is at fault gets the exception.

    Args:
        encode: texts to embeddings, float32 (texts, dimension); called by one thread at a time.
        most: texts handed to one call of `encode`; a single request may hold more.
        room: texts that may wait.
        on_batch: told of each batch: its texts and the seconds it took.
    """

    def __init__(
        self, encode: Encode, *, most: int, room: int, on_batch: Callable[[int, float], None] | None = None
    ) -> None:
        self._encode, self._most, self._room, self._on_batch = encode, most, room, on_batch
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="lacos-st batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Texts that were handed in and are not encoded yet."""
        return self._waiting

    def submit(self, texts: Sequence[str]) -> Future[np.ndarray]:
        """Hand texts in.

        Args:
            texts: at least one.

        Returns:
            Of their embeddings, float32 (texts, dimension); an error that `encode` raises on them is its exception.

        Raises:
            Busy: there is no room for so many, or the server is stopping.
        """
        one = _Waiting(list(texts))
        with self._lock:
            if self._closed:
                raise Busy("the server is stopping")
            if self._waiting and self._waiting + len(one.texts) > self._room:
                raise Busy(f"{self._waiting} texts are waiting: try again in a moment")
            self._waiting += len(one.texts)
            self._queue.put(one)
        return one.result

    def close(self) -> None:
        """Encode what was handed in, then stop."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _serve(self) -> None:
        held: _Waiting | None = None
        while True:
            first = held if held is not None else self._queue.get()
            held = None
            if first is None:
                return
            batch, count = [first], len(first.texts)
            stop = False
            while count < self._most and not stop:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    stop = True
                elif count + len(following.texts) > self._most:
                    held = following
                    break
                else:
                    batch.append(following)
                    count += len(following.texts)
            self._answer(batch)
            if stop:
                return

    def _answer(self, batch: list[_Waiting]) -> None:
        wanted = [one for one in batch if one.result.set_running_or_notify_cancel()]  # a client that left is not served
        with self._lock:
            self._waiting -= sum(len(one.texts) for one in batch) - sum(len(one.texts) for one in wanted)
        if wanted:
            self._encode_for(wanted)

    def _encode_for(self, wanted: list[_Waiting]) -> None:
        texts = [text for one in wanted for text in one.texts]
        start = time.perf_counter()
        found: np.ndarray | Exception
        try:
            found = self._encode(texts)
        except Exception as error:
            if len(wanted) > 1:  # the texts of one of them may be at fault, which is nothing to the others
                for one in wanted:
                    self._encode_for([one])
                return
            found = error
        with self._lock:  # counted before anybody has an answer, who may then ask for the counts
            self._waiting -= len(texts)
        if self._on_batch is not None and not isinstance(found, Exception):
            self._on_batch(len(found), time.perf_counter() - start)
        place = 0
        for one in wanted:
            if isinstance(found, Exception):
                one.result.set_exception(found)
            else:
                one.result.set_result(found[place : place + len(one.texts)])
                place += len(one.texts)
