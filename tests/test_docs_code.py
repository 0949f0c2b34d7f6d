"""Every block of code in the documentation runs, or says why not and can at least be read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from docs_code import RUN, Block, blocks, check, run

import lacos_st
from lacos_st import grammar
from lacos_st.errors import UserError

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {path.name: blocks(path.read_text(encoding="utf-8"), name=path.name) for path in FILES}
RUNNING = [name for name, found in PAGES.items() if any(one.language in RUN and one.reason is None for one in found)]

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: own pairs, graded ones, a corpus, a saved model."""
    folder = tmp_path_factory.mktemp("world")
    pairs = [row for row in grammar.nli_rows(150, languages=["en"]) if row.label == "entailment"]
    (folder / "pairs.tsv").write_text(
        "anchor\tpositive\n" + "".join(f"{row.premise}\t{row.hypothesis}\n" for row in pairs), encoding="utf-8"
    )
    (folder / "corpus.txt").write_text("".join(f"{row.premise}\n" for row in pairs), encoding="utf-8")
    (folder / "graded").mkdir()
    graded = grammar.graded_rows(12)
    (folder / "graded" / "own.tsv").write_text(
        "".join("\t".join(map(str, row)) + "\n" for row in graded), encoding="utf-8"
    )
    lacos_st.encoder("bloom-nano", device="cpu").save_pretrained(str(folder / "run" / "model"))
    return folder


@pytest.mark.parametrize("name", RUNNING)
def test_the_blocks_of_a_page_run(name: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(world, tmp_path / "world")
    if name in TRAINS_ANEW:
        shutil.rmtree(tmp_path / "world" / "run")
    monkeypatch.chdir(tmp_path / "world")
    names: dict[str, Any] = {"__name__": "__page__"}
    for block in PAGES[name]:
        if block.language in RUN and block.reason is None:
            run(block, names)
    if name == "tutorial.md":
        _check_the_tutorial(names)


@pytest.mark.slow
@pytest.mark.thorough  # tests/export exports to ONNX too
def test_blocks_that_are_left_to_make_thorough_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(needed, reason=f'{needed} is not installed: pip install "lacos_st[onnx]"')
    shutil.copytree(world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    names: dict[str, Any] = {"__name__": "__page__"}
    found = [one for name in PAGES for one in PAGES[name] if one.reason == "with the others, but by make thorough"]
    assert [one.language for one in found] == ["sh", "python"]
    for block in found:
        run(block, names)
    wanted = lacos_st.encoder("run/model", device="cpu").encode(["A man plays the guitar."])
    np.testing.assert_allclose(names["vectors"], wanted, atol=1e-5)


def test_the_client_of_the_serving_page_is_answered(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("uvicorn", reason='uvicorn is not installed: pip install "lacos_st[serve]"')
    pytest.importorskip("openai", reason="openai is not installed: pip install openai")
    from test_serve import OPTIONS, Server

    from lacos_st.serve.app import create_app
    from lacos_st.text_encoder import TextEncoder

    (block,) = [one for one in PAGES["serve.md"] if one.language == "python"]
    assert block.reason == "with the others, but beside a server that a test starts"
    assert ":8000/" in block.code
    encoder = TextEncoder.load(str(world / "run" / "model"), device="cpu")
    server = Server(create_app(encoder, replace(OPTIONS, model="run/model")))
    names: dict[str, Any] = {}
    try:
        run(replace(block, code=block.code.replace(":8000/", f":{server.port}/")), names)
        names["client"].close()  # which a short program leaves to its end
    finally:
        server.stop()
    assert capsys.readouterr().out.strip() == "256"


TRAINS_ANEW = ("tutorial.md", "pairs.md")
"""Pages that make run/ themselves."""


def _check_the_tutorial(names: dict[str, Any]) -> None:
    """What the tutorial says of its own results."""
    base, trained = json.loads(Path("scores/results.json").read_text(encoding="utf-8"))["models"]
    for average in ("STS-Avg", "xSTS-Avg"):
        assert trained["averages"][average]["max"] > base["averages"][average]["max"], average
    hits = names["semantic_search"](names["model"].encode(names["sentences"][:1]), names["corpus"], top_k=1)
    assert names["sentences"][hits[0][0]["corpus_id"]] == names["sentences"][0]
    first = [names[name].encode(names["sentences"][:5], normalize_embeddings=True) for name in ("plain", "model")]
    assert (first[0] * first[1]).sum(axis=1).min() > 0.9995


@pytest.mark.parametrize("name", PAGES)
def test_every_block_can_be_read(name: str) -> None:
    for block in PAGES[name]:
        check(block)
        assert block.reason is None or block.language in RUN, f"{block.where}: text is not run in any case"


def test_what_is_not_run_is_the_smaller_part() -> None:
    found = [block for name in PAGES for block in PAGES[name] if block.language in RUN]
    assert len([block for block in found if block.reason is None]) > len(found) / 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```sh\nlacos-st trian --base x\n```", "trian"),
        ("```sh\nlacos-st train \\\n    --bsae x\n```", "bsae"),
        (
            "<!-- not run: hours -->\n\n```sh\nlacos-st sweep --bases a --data b --output c --budgets 1e12\n```",
            "methods",
        ),
        ("<!-- not run: a GPU -->\n\n```sh\nlacos-st encode run/model a b --presicion int8\n```", "presicion"),
        ("```text\nlacos-st plan --flop 1e17 --nonsense   a budget\n```", "nonsense"),
        ("```sh\npip install 'lacos_st[plots]'\n```", "plots"),
        ("```sh\nmake dmeo\n```", "dmeo"),
        ("```sh\npython -m benchmarks.fromat\n```", "fromat"),
        ("```sh\ncurl http://127.0.0.1:8000\n```", "say why it is not run"),
        ("<!-- not run: a GPU -->\n```python\nprint(\n```", "never closed"),
        ("```bash\nls\n```", "bash"),
    ],
)
def test_what_does_not_work_is_found(text: str, message: str) -> None:
    (block,) = blocks(text)
    with pytest.raises((AssertionError, SyntaxError, UserError), match=message):
        check(block)


def test_a_command_that_fails_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("text\n\n```sh\nlacos-st evaluate nothing --data nowhere\n```", name="p.md")
    assert block == Block("p.md:3", "sh", "lacos-st evaluate nothing --data nowhere\n", None)
    with pytest.raises(AssertionError, match=r"p.md:3: lacos-st evaluate .* ended with 2"):
        run(block, {})
