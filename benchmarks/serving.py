"""How fast a served model is: 200 clients on loopback against plain `encode` of the same texts, in turn.

    python -m benchmarks.serving --model bloom-nano
    OMP_NUM_THREADS=1 python -m benchmarks.serving --model smollm2 --longest 6 --texts 1 --requests 400

A turn is `encode` of all texts in this process, then the server; throughput is texts per second, p50 and p99 are of
single requests. Clients share the machine with the server (`clients.py`), so CPU time is counted too: what `encode`,
the server and the clients take for a text. With more than one thread, it holds the threads' waiting for each other;
compare it on one. No request may fail. A row is added to `results/serving.jsonl`.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import lengths, models, rows
from benchmarks.clients import CLIENTS
from lacos_st.text_encoder import TextEncoder

WORDS = 5000  # different ones in the texts, whose lengths are those of NLI


def cpu_seconds(process: int) -> float:
    """CPU time that a process of this machine has taken until now, in all its threads; 0 where /proc does not tell."""
    file = Path(f"/proc/{process}/stat")
    if not file.is_file():
        return 0.0
    fields = file.read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and add a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bloom-nano", help="any, or one of benchmarks.models [bloom-nano]")
    parser.add_argument("--client", choices=CLIENTS, default="sockets")
    parser.add_argument("--longest", type=int, metavar="WORDS", help="cut texts to so many words [not cut]")
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
    name = str(models.find(options.model)) if options.model in models.MODELS else options.model
    pairs = lengths.texts(lengths.read(), words=WORDS)
    known = [" ".join(text.split()[: options.longest]) for pair in pairs for text in pair]
    requests = [[chance.choice(known) for _ in range(options.texts)] for _ in range(options.requests)]
    flat = [text for texts in requests for text in texts]
    encoder = TextEncoder.load(name, batch_size=options.batch_size)
    line = [sys.executable, "-m", "lacos_st", "serve", name, "--port", "0", "--max-waiting", "1000000"]
    line += ["--batch-size", str(options.batch_size)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    address = server.stdout.readline().split()[0]
    ask = CLIENTS[options.client]
    plain, served, each, worst = [], [], [], 0.0
    cpu: dict[str, list[float]] = {"encode": [], "server": [], "clients": []}
    try:
        ask(address, requests[: options.clients], options.clients)  # warm-up
        encoder.encode(flat[: options.clients * options.texts])
        for _ in range(options.turns):
            start, used = time.perf_counter(), time.process_time()
            wanted = encoder.encode(flat)
            plain.append(len(flat) / (time.perf_counter() - start))
            cpu["encode"].append(time.process_time() - used)
            used, of_server = time.process_time(), cpu_seconds(server.pid)
            seconds, times, found = ask(address, requests, options.clients)
            served.append(len(flat) / seconds)
            cpu["server"].append(cpu_seconds(server.pid) - of_server)
            cpu["clients"].append(time.process_time() - used)
            each += times
            worst = max(worst, float(np.abs(np.concatenate(found) - wanted).max()))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
        server.stdout.close()
    ratios = [one / other for one, other in zip(served, plain, strict=True)]
    figures = {
        "model": options.model,
        "client": options.client,
        "clients": options.clients,
        "requests": options.requests,
        "texts_per_request": options.texts,
        "longest_words": options.longest,
        "batch_size": options.batch_size,
        "turns": options.turns,
        "failed_requests": 0,  # one would have ended the run
        "encode_texts_per_s": round(median(plain), 1),
        "served_texts_per_s": round(median(served), 1),
        "served_over_encode": [round(ratio, 3) for ratio in ratios],
        "median_served_over_encode": round(median(ratios), 3),
        "cpu_ms_per_text": {of: round(1000 * median(used) / len(flat), 3) for of, used in cpu.items()},
        "p50_s": round(float(np.quantile(each, 0.5)), 3),
        "p99_s": round(float(np.quantile(each, 0.99)), 3),
        "max_difference": worst,
    }
    if not options.quick:
        rows.append("serving", **figures)
    for label, value in figures.items():
        print(f"{label}: {value}")
    if worst > 1e-4:
        raise SystemExit(f"the server's embeddings differ from encode's by {worst}")


if __name__ == "__main__":
    main()
