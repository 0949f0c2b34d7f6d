"""`lacos-st push`: the stock call against a stand-in for the hub on the loopback address."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tiny
from test_cli import refused

from lacos_st.cli import main
from lacos_st.encoders import encoder


class Hub(BaseHTTPRequestHandler):
    """What `push_to_hub` asks of the hub: make a repository, say how to upload, take a commit."""

    files: dict[str, bytes] = {}
    made: list[dict[str, object]] = []
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        host = f"http://{self.headers['Host']}"
        answer: dict[str, object] = {}
        if self.path == "/api/repos/create":
            self.made.append(json.loads(body))
            answer = {"url": f"{host}/me/encoder", "name": "me/encoder", "id": "1"}
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            answer = {"commitUrl": f"{host}/me/encoder/commit/abc", "commitOid": "abc", "success": True}
        self._say(answer)

    def do_GET(self) -> None:
        self._say({"id": "me/encoder", "sha": "abc", "siblings": []})

    def _say(self, answer: dict[str, object]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    Hub.files, Hub.made, Hub.status = {}, [], 200
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_standin")
        yield Hub
        server.shutdown()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = encoder("bloom-nano", lora_rank=2)
    tiny.stir_(model)
    model.save_pretrained(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_an_export_arrives_as_it_is(saved: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    out = saved.parent / "out"
    assert main(["export", str(saved), str(out)]) == 0
    assert main(["push", str(out), "me/encoder", "--private"]) == 0
    assert "/me/encoder/commit/abc" in capsys.readouterr().out
    assert {True, "private"} & {
        hub.made[0].get("private"),
        hub.made[0].get("visibility"),
    }  # as the client's version has it
    assert hub.files.keys() == {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    for name, content in hub.files.items():
        assert content == (out / name).read_bytes()
    card = hub.files["README.md"].decode()
    assert 'SentenceTransformer("me/encoder")' in card
    assert "THIS_FOLDER" not in card


def test_a_saved_model_gets_its_card(saved: Path, hub: type[Hub]) -> None:
    assert main(["push", str(saved), "me/encoder", "--license", "apache-2.0"]) == 0
    card = hub.files["README.md"].decode()
    assert "license: apache-2.0" in card
    assert "import lacos_st" in card
    assert "Base: bloom-nano" in card
    assert "adapter/adapter_model.safetensors" in hub.files


def test_what_cannot_be_pushed(saved: Path, tmp_path: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, main(["push", str(tmp_path), "me/encoder"]), "no modules.json")
    refused(capsys, main(["push", str(saved), "encoder"]), "expected OWNER/NAME")
    lonely = encoder(tiny.save(tmp_path / "base"), block_size=64)
    lonely.save_pretrained(str(tmp_path / "lonely"))
    refused(capsys, main(["push", str(tmp_path / "lonely"), "me/encoder"]), "on this machine only", "merged")
    adapter = ["export", str(tmp_path / "lonely"), str(tmp_path / "adapter"), "--format", "adapter"]
    assert main(adapter) == 0
    refused(capsys, main(["push", str(tmp_path / "adapter"), "me/encoder"]), "on this machine only", "merged")
    assert not hub.made
    hub.status = 403
    refused(capsys, main(["push", str(saved), "me/encoder"]), "the hub did not take me/encoder", "hf auth login")
    (saved / "modules.json").write_text('[{"unfinished": true, "path": "", "type": "lacos_st.transformer.LoRA8bit"}]')
    refused(capsys, main(["push", str(saved), "me/encoder"]), "not saved to its end")
