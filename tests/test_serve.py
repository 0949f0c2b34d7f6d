"""A served model answers as it does in the process: to OpenAI's client, to many at once, and with its errors."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacos_st.cli import main
from lacos_st.errors import UserError
from lacos_st.serve.options import ServeOptions
from lacos_st.text_encoder import TextEncoder

openai = pytest.importorskip("openai", reason="openai is not installed: pip install openai")
uvicorn = pytest.importorskip("uvicorn", reason='uvicorn is not installed: pip install "lacos_st[serve]"')

from lacos_st.serve import run as running  # noqa: E402
from lacos_st.serve.app import create_app  # noqa: E402
from lacos_st.serve.requests import as_json, embeddings_answer  # noqa: E402

OPTIONS = ServeOptions("bloom-nano", max_texts=50, max_characters=500, max_body_mib=1, max_waiting=64)
TEXTS = ["A man plays the guitar.", "Un hombre toca la guitarra.", "Il pleut.", "x"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load("bloom-nano", device="cpu")


class Server:
    """An application behind uvicorn, in a thread."""

    def __init__(self, app: Any) -> None:
        self.listening = running._listen(replace(OPTIONS, port=0))
        self.port: int = self.listening.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, raw, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            text = answer.read().decode()
            is_json = "json" in answer.headers.get("content-type", "")
            return answer.status, json.loads(text) if is_json else text, dict(answer.headers)
        finally:
            connection.close()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=60)
        self.listening.close()
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def server(encoder: TextEncoder) -> Iterator[Server]:
    server = Server(create_app(encoder, OPTIONS))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_the_official_client_gets_what_encode_gives(client: Any, encoder: TextEncoder, encoding: str | None) -> None:
    more = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model="bloom-nano", input=TEXTS, **more)
    assert [one.index for one in answer.data] == [0, 1, 2, 3]
    vectors = [one.embedding for one in answer.data]
    if encoding == "base64":
        vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
    assert np.array_equal(np.array(vectors, dtype=np.float32), encoder.encode(TEXTS))
    assert answer.usage.prompt_tokens == int(encoder.count(TEXTS).sum()) > 4
    assert answer.model == "bloom-nano"


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_numbers_are_read_as_they_were(values: list[float]) -> None:
    row = np.array([values], dtype=np.float32)
    for encoding in ("float", "base64"):
        said = as_json(embeddings_answer(row, encoding=encoding, model='"m"', tokens=3))
        (one,) = json.loads(said)["data"]
        vector = one["embedding"]
        read = np.frombuffer(base64.b64decode(vector), "<f4") if encoding == "base64" else np.array(vector, np.float32)
        assert read.tobytes() == row.tobytes()


def test_one_text_and_fewer_dimensions(client: Any, encoder: TextEncoder) -> None:
    answer = client.embeddings.create(model="bloom-nano", input=TEXTS[0], dimensions=32)
    first = encoder.encode(TEXTS[:1])[0, :32]
    np.testing.assert_allclose(answer.data[0].embedding, first / np.linalg.norm(first), rtol=1e-6)


def test_models_are_listed(client: Any) -> None:
    assert [one.id for one in client.models.list()] == ["bloom-nano"]


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"input": []}, "input", "is empty"),
        ({"input": ""}, "input", "empty text"),
        ({"input": ["a", ""]}, "input", r"input[1] is an empty text"),
        ({"input": [1, 2]}, "input", "holds tokens"),
        ({"input": [[1], [2]]}, "input", "holds tokens"),
        ({"input": ["a"] * 51}, "input", "51 texts: at most 50"),
        ({"input": "a" * 501}, "input", "501 characters: at most 500"),
        ({"input": "\ud83d"}, "input", r"input[0] holds half of a surrogate pair ('\ud83d')"),
        ({"input": ["a", "b\udc00"]}, "input", "input[1] holds half of"),
        ({"input": {"a": 1}}, "input", "input: "),
        ({"input": 7}, "input", "input: "),
        ({"input": None}, "input", "input: "),
        ({"model": "bloom-nano"}, "input", "Field required"),
        ({"input": "a", "dimensions": 0}, "dimensions", "the model has 256"),
        ({"input": "a", "dimensions": 257}, "dimensions", "the model has 256"),
        ({"input": "a", "dimensions": "4"}, "dimensions", "dimensions: "),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ([], None, ""),
        (b"{", None, "not JSON"),
        (b"", None, ""),
        (b"\xff\xfe", None, ""),
    ],
)
def test_bad_input_gets_the_error_that_clients_read(server: Server, body: Any, param: str | None, said: str) -> None:
    status, answer, _ = server.ask("POST", "/v1/embeddings", body)
    assert status == 400, answer
    assert set(answer) == {"error"} and set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == param
    assert said in answer["error"]["message"]


def test_the_official_client_raises_its_own_errors(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="empty text"):
        client.embeddings.create(model="bloom-nano", input="")
    with pytest.raises(openai.NotFoundError, match="this server has 'bloom-nano'"):
        client.embeddings.create(model="text-embedding-3-small", input="a")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/embeddings", 405)])
def test_paths_that_are_not_there(server: Server, method: str, path: str, status: int) -> None:
    found, answer, _ = server.ask(method, path)
    assert found == status and path in answer["error"]["message"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_large_request_is_refused_while_it_comes(server: Server, announced: bool) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    chunk = b"x" * 2**16
    try:
        connection.putrequest("POST", "/v1/embeddings")
        if announced:
            connection.putheader("Content-Length", str(2**30))  # of which nothing is sent
            connection.endheaders()
        else:
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders()
            for _ in range(17):  # 17 of 16 allowed
                connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["error"]["code"] == "request_too_large"
    finally:
        connection.close()


def test_similarity_is_that_of_the_model(server: Server, encoder: TextEncoder) -> None:
    wanted = encoder.model.similarity(encoder.encode(TEXTS), encoder.encode(TEXTS[:2])).numpy()
    _, answer, _ = server.ask("POST", "/similarity", {"a": TEXTS, "b": TEXTS[:2]})
    np.testing.assert_allclose(answer["similarity"], wanted, atol=1e-6)
    _, answer, _ = server.ask("POST", "/similarity", {"a": TEXTS})
    np.testing.assert_allclose(np.diag(answer["similarity"]), 1, atol=1e-6)
    status, answer, _ = server.ask("POST", "/similarity", {"a": TEXTS, "c": []})
    assert (status, answer["error"]["param"]) == (400, "c")
    for body in ({"a": ["\ud83d"]}, {"a": TEXTS, "b": ["\ud83d"]}):
        status, answer, _ = server.ask("POST", "/similarity", body)
        assert (status, answer["error"]["param"]) == (400, "b" if "b" in body else "a")


def test_health_and_metrics(server: Server) -> None:
    status, answer, _ = server.ask("GET", "/health")
    assert (status, answer["status"], answer["dimensions"], answer["model"]) == (200, "ok", 256, "bloom-nano")

    def texts() -> float:
        _, text, _ = server.ask("GET", "/metrics")
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("lacos_texts_total"))

    before = texts()
    server.ask("POST", "/v1/embeddings", {"input": ["a", "b", "c"]})
    assert texts() == before + 3
    server.ask("GET", "/random/path")
    _, text, _ = server.ask("GET", "/metrics")
    assert 'path="other",status="404"' in text and "random" not in text  # strangers add no labels


def test_many_at_once_get_their_own(server: Server, encoder: TextEncoder) -> None:
    texts = [[f"{TEXTS[n % 4]} {n}", f"number {n}"] for n in range(40)]

    def ask(pair: list[str]) -> list[list[float]]:
        while True:
            status, answer, _ = server.ask("POST", "/v1/embeddings", {"input": pair})
            if status != 429:
                return [one["embedding"] for one in answer["data"]]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, texts))
    for pair, vectors in zip(texts, found, strict=True):
        np.testing.assert_allclose(vectors, encoder.encode(pair), atol=2e-6)


def test_a_key_is_asked_for(encoder: TextEncoder) -> None:
    server = Server(create_app(encoder, OPTIONS, key="secret"))
    try:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            status, answer, _ = server.ask("POST", "/v1/embeddings", {"input": "a"}, headers)
            assert (status, answer["error"]["type"]) == (401, "authentication_error")
        assert server.ask("GET", "/metrics")[0] == 401
        assert server.ask("GET", "/health")[0] == 200
        assert server.ask("GET", "/")[0] == 200
        with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="secret") as client:
            assert len(client.embeddings.create(model="bloom-nano", input="a").data) == 1
    finally:
        server.stop()


class Broken:
    """A model that fails, and one that is slow."""

    dimension, limit = 2, None

    def __init__(self) -> None:
        self.go = threading.Event()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if "fail" in texts:
            raise RuntimeError("/secret/path is gone")
        self.go.wait(30)
        return np.ones((len(texts), 2), dtype=np.float32)

    def count(self, texts: Sequence[str]) -> np.ndarray:
        return np.ones(len(texts), dtype=np.int64)


def test_a_model_that_fails_is_a_server_error_without_its_secrets() -> None:
    server = Server(create_app(Broken(), OPTIONS))
    try:
        status, answer, _ = server.ask("POST", "/v1/embeddings", {"input": "fail"})
        assert (status, answer["error"]["type"]) == (500, "server_error")
        assert "RuntimeError" in answer["error"]["message"] and "secret" not in json.dumps(answer)
    finally:
        server.stop()


def test_a_request_that_fails_is_counted() -> None:
    server = Server(create_app(Broken(), OPTIONS))
    try:
        server.ask("POST", "/v1/embeddings", {"input": "fail"})
        assert 'lacos_requests_total{path="/v1/embeddings",status="500"} 1.0' in server.ask("GET", "/metrics")[1]
    finally:
        server.stop()


def test_what_does_not_fit_is_told_to_come_again() -> None:
    model = Broken()
    server = Server(create_app(model, replace(OPTIONS, max_waiting=3)))
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(server.ask, "POST", "/v1/embeddings", {"input": ["a", "b"]})
            while server.ask("GET", "/health")[1]["waiting_texts"] < 2:
                time.sleep(0.01)
            status, answer, headers = server.ask("POST", "/v1/embeddings", {"input": ["c", "d"]})
            assert (status, answer["error"]["code"], headers["retry-after"]) == (429, "busy", "1")
            model.go.set()
            assert first.result()[0] == 200
    finally:
        model.go.set()
        server.stop()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "70000"], "port is 70000"),
        (["--port", "x"], "port"),
        (["--max-texts", "0"], "max_texts is 0"),
        (["--host", "203.0.113.1", "--port", "0"], "cannot listen on 203.0.113.1"),
        (["--api-key-env", "LACOS_NO_SUCH_KEY"], "LACOS_NO_SUCH_KEY is not set"),
        (["--device", "nonsense", "--port", "0"], "nonsense"),
    ],
)
def test_options_that_cannot_be(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "bloom-nano", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (" \n", "LACOS_KEY is not set, or blank"),
        ("schlüssel", "LACOS_KEY holds what a header cannot"),
        ("two\nlines", "LACOS_KEY holds what a header cannot"),
        ("\udcff", "LACOS_KEY holds what a header cannot"),
    ],
)
def test_a_key_that_nobody_could_send(
    value: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACOS_KEY", value)
    monkeypatch.setattr(running, "_listen", lambda _: pytest.fail("it was accepted"))
    assert main(["serve", "bloom-nano", "--api-key-env", "LACOS_KEY"]) == 2
    assert said in capsys.readouterr().err


def test_a_key_that_was_read_from_a_file(monkeypatch: pytest.MonkeyPatch, encoder: TextEncoder) -> None:
    found: list[str | None] = []

    def no_app(*_: Any, key: str | None) -> None:
        found.append(key)
        raise UserError("far enough")

    monkeypatch.setenv("LACOS_KEY", "secret\r\n")
    monkeypatch.setattr("lacos_st.serve.own_thread.OwnThread", lambda _: encoder)
    monkeypatch.setattr("lacos_st.serve.app.create_app", no_app)
    with pytest.raises(UserError, match="far enough"):
        running.serve(replace(OPTIONS, port=0, api_key_env="LACOS_KEY"))
    assert found == ["secret"]


def test_a_port_in_use_is_named(server: Server) -> None:
    with pytest.raises(UserError, match=f"port {server.port}.*choose another --port"):
        running.serve(replace(OPTIONS, port=server.port))


def test_without_the_extra_it_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "bloom-nano"]) == 2
    assert 'pip install "lacos_st[serve]"' in capsys.readouterr().err


def test_the_command_serves_and_stops_when_told() -> None:
    line = [sys.executable, "-m", "lacos_st", "serve", "bloom-nano", "--port", "0", "--name", "mine"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as started:
        assert started.stdout is not None
        said = started.stdout.readline()
        assert "for this machine only" in said
        with openai.OpenAI(base_url=said.split()[0] + "/v1", api_key="none") as client:
            assert len(client.embeddings.create(model="mine", input=["a", "b"]).data) == 2
        started.send_signal(signal.SIGINT)
        _, log = started.communicate(timeout=60)
    assert started.returncode == 0, log
