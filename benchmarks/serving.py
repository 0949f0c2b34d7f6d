"""How fast a served model is: 200 clients on loopback against plain `encode` of the same texts, in turn.

    python -m benchmarks.serving --model bloom-nano

Each client sends requests one after another, as OpenAI's `/v1/embeddings` has them. A turn is `encode` of all texts in
this process' sibling, then the server; throughput is texts per second, p50 and p99 are of single requests. No request
may fail. A row is added to `results/serving.jsonl`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import lengths, rows
from lacos_st.text_encoder import TextEncoder

WORDS = 5000  # different ones in the texts, whose lengths are those of NLI


async def ask_all(address: str, requests: list[list[str]], clients: int) -> tuple[float, list[float], list[np.ndarray]]:
    """Seconds for all requests, seconds of each, and the embeddings.

    Raises:
        RuntimeError: a request was not answered with 200.
    """
    import httpx

    waiting = list(enumerate(requests))[::-1]
    seconds = [0.0] * len(requests)
    found: list[Any] = [None] * len(requests)
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)

    async def client(session: httpx.AsyncClient) -> None:
        while waiting:
            place, texts = waiting.pop()
            start = time.perf_counter()
            answer = await session.post("/v1/embeddings", json={"input": texts, "encoding_format": "base64"})
            seconds[place] = time.perf_counter() - start
            if answer.status_code != 200:
                raise RuntimeError(f"status {answer.status_code}: {answer.text[:200]}")
            vectors = [one["embedding"] for one in answer.json()["data"]]
            found[place] = np.stack([np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors])

    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=600) as session:
        start = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return time.perf_counter() - start, seconds, found


def main() -> None:
    """Measure and add a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bloom-nano")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--texts", type=int, default=8, help="in a request [8]")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="20 clients, 40 requests, one turn; no row")
    options = parser.parse_args()
    if options.quick:
        options.clients, options.requests, options.turns = 20, 40, 1
    chance = random.Random(0)
    known = [text for pair in lengths.texts(lengths.read(), words=WORDS) for text in pair]
    requests = [[chance.choice(known) for _ in range(options.texts)] for _ in range(options.requests)]
    flat = [text for texts in requests for text in texts]
    encoder = TextEncoder.load(options.model, batch_size=options.batch_size)
    line = [sys.executable, "-m", "lacos_st", "serve", options.model, "--port", "0", "--max-waiting", "1000000"]
    line += ["--batch-size", str(options.batch_size)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    address = server.stdout.readline().split()[0]
    plain, served, each, worst = [], [], [], 0.0
    try:
        asyncio.run(ask_all(address, requests[: options.clients], options.clients))  # warm-up
        for _ in range(options.turns):
            start = time.perf_counter()
            wanted = encoder.encode(flat)
            plain.append(len(flat) / (time.perf_counter() - start))
            seconds, times, found = asyncio.run(ask_all(address, requests, options.clients))
            served.append(len(flat) / seconds)
            each += times
            worst = max(worst, float(np.abs(np.concatenate(found) - wanted).max()))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
        server.stdout.close()
    figures = {
        "model": options.model,
        "clients": options.clients,
        "requests": options.requests,
        "texts_per_request": options.texts,
        "turns": options.turns,
        "failed_requests": 0,  # one would have ended the run
        "encode_texts_per_s": round(median(plain), 1),
        "served_texts_per_s": round(median(served), 1),
        "served_over_encode": [round(one / other, 3) for one, other in zip(served, plain, strict=True)],
        "p50_s": round(float(np.quantile(each, 0.5)), 3),
        "p99_s": round(float(np.quantile(each, 0.99)), 3),
        "max_difference": worst,
    }
    if not options.quick:
        rows.append("serving", **figures)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if worst > 1e-4:
        raise SystemExit(f"the server's embeddings differ from encode's by {worst}")


if __name__ == "__main__":
    main()
