"""Many clients of an embeddings API at once, one request after another each: plain sockets, or OpenAI's own client.

Clients run where the server does and take time from it. `sockets` takes as little as can be: requests are written and
answers kept as bytes, nothing is read but where an answer ends. `openai` is what a user has, all in one process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

Asked = tuple[float, list[float], list[np.ndarray]]
"""Seconds for all requests, seconds of each, and the embeddings of each, float32 (texts, dimension)."""


@dataclass
class _Connection:
    place: int
    start: float
    given: bytearray = field(default_factory=bytearray)
    end: int | None = None  # of the answer, once its header is there


def sockets(address: str, requests: list[list[str]], clients: int, *, encoding: str = "base64") -> Asked:
    """Ask through plain sockets that stay open; answers are read after the clock was stopped.

    Raises:
        RuntimeError: a request was not answered with 200.
    """
    url = urlsplit(address)
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    bodies = [json.dumps({"input": texts, "encoding_format": encoding}).encode() for texts in requests]
    raw = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
    waiting = list(range(len(raw)))[::-1]
    seconds, answers = [0.0] * len(raw), [b""] * len(raw)
    start = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(min(clients, len(raw))):
            sending = socket.create_connection((url.hostname, url.port), timeout=600)
            selector.register(sending, selectors.EVENT_READ, _send(sending, raw, waiting))
        while selector.get_map():
            for key, _ in selector.select():
                connection, one = key.fileobj, key.data
                assert isinstance(connection, socket.socket)
                if not _is_whole(connection, one):
                    continue
                seconds[one.place], answers[one.place] = time.perf_counter() - one.start, bytes(one.given)
                if waiting:
                    selector.modify(connection, selectors.EVENT_READ, _send(connection, raw, waiting))
                else:
                    selector.unregister(connection)
                    connection.close()
    passed = time.perf_counter() - start
    return passed, seconds, [_embeddings(answer) for answer in answers]


def _send(connection: socket.socket, raw: list[bytes], waiting: list[int]) -> _Connection:
    place = waiting.pop()
    one = _Connection(place, time.perf_counter())
    connection.sendall(raw[place])
    return one


def _is_whole(connection: socket.socket, one: _Connection) -> bool:
    """Take what is there; whether the answer ends with it."""
    given = connection.recv(2**20)
    if not given:
        raise RuntimeError(f"the server closed the connection after {bytes(one.given[:200])!r}")
    one.given += given
    if one.end is None and (blank := one.given.find(b"\r\n\r\n")) >= 0:
        lines = bytes(one.given[:blank]).lower().split(b"\r\n")
        length = next(line for line in lines if line.startswith(b"content-length:"))
        one.end = blank + 4 + int(length.partition(b":")[2])
    return one.end is not None and len(one.given) >= one.end


def _embeddings(answer: bytes) -> np.ndarray:
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split()[1] != b"200":
        raise RuntimeError(f"{head.splitlines()[0]!r}: {body[:200]!r}")
    found = [one["embedding"] for one in json.loads(body)["data"]]
    if isinstance(found[0], str):
        return np.stack([np.frombuffer(base64.b64decode(vector), "<f4") for vector in found])
    return np.array(found, dtype=np.float32)


def openai(address: str, requests: list[list[str]], clients: int) -> Asked:
    """Ask through OpenAI's client, as many tasks as clients; it asks for base64 and reads it within the time."""
    from openai import AsyncOpenAI

    waiting = list(enumerate(requests))[::-1]
    seconds, found = [0.0] * len(requests), [np.empty(0)] * len(requests)

    async def ask() -> float:
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600) as session:

            async def client() -> None:
                while waiting:
                    place, texts = waiting.pop()
                    start = time.perf_counter()
                    answer = await session.embeddings.create(model=name, input=texts)
                    seconds[place] = time.perf_counter() - start
                    found[place] = np.array([one.embedding for one in answer.data], dtype=np.float32)

            name = (await session.models.list()).data[0].id
            start = time.perf_counter()
            await asyncio.gather(*(client() for _ in range(clients)))
            return time.perf_counter() - start

    return asyncio.run(ask()), seconds, found


CLIENTS: dict[str, Callable[[str, list[list[str]], int], Asked]] = {"sockets": sockets, "openai": openai}
