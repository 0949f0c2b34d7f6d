"""`lacos-st encode`: the embeddings in each precision, mistakes and malformed rows, the command, its progress."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings
from test_cli import refused
from written import LIMIT, SENTENCES, lines_of, read, vectors

from lacos_st.cli import main
from lacos_st.corpus.precision import check_ranges
from lacos_st.corpus.progress import Progress, duration
from lacos_st.corpus.run import EncodeResult
from lacos_st.errors import UserError
from lacos_st.text_encoder import TextEncoder


def test_each_row_has_its_embedding(work: Callable[..., EncodeResult], expected: np.ndarray) -> None:
    done = work(keep_text=True)
    table = read()
    assert table["row"].to_pylist() == list(range(50))
    assert table["line"].to_pylist() == list(range(1, 51))
    assert table["text"].to_pylist() == SENTENCES
    np.testing.assert_allclose(vectors(table), expected, rtol=0, atol=2e-6)
    assert not vectors(table)[[7, 30]].any()
    counted = [len(ids) for ids in tiny.tokenizer()(SENTENCES).input_ids]
    assert (done.rows, done.new_rows, done.empty, done.shards) == (50, 50, 2, 3)
    assert (done.cut, done.longest, done.limit) == (sum(n > LIMIT for n in counted), max(counted), LIMIT)
    assert done.tokens == done.new_tokens == sum(min(n, LIMIT) for n in counted)
    assert done.cut > 3


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_precisions(work: Callable[..., EncodeResult], expected: np.ndarray, precision: str, kind: str) -> None:
    done = work(precision=precision, format=kind)
    manifest = json.loads(Path("out/manifest.json").read_text())
    ranges = None if manifest["ranges"] is None else np.array(manifest["ranges"], dtype=np.float32)
    if kind == "parquet":
        found = vectors(read())
    else:
        found = np.concatenate([np.load(path) for path in sorted(Path("out").glob("*.npy"))])
        ids = [row for path in sorted(Path("out").glob("shard-*.ids.jsonl")) for row in lines_of(path)]
        assert [row["row"] for row in ids] == list(range(50))
    if precision in ("float32", "float16"):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 if precision == "float32" else 2e-3)
        return
    if precision.endswith("int8"):
        assert ranges is not None
        np.testing.assert_allclose(ranges, [expected.min(0), expected.max(0)], rtol=0, atol=2e-6)
        assert done.clipped < 5  # the extremes themselves, by rounding in another batch
    stock = quantize_embeddings(expected, precision=precision, ranges=ranges)
    assert found.shape == stock.shape
    differing = (found.astype(int) != stock).mean()
    assert differing < 0.02  # a value at the edge of two steps


def test_ranges_are_of_a_sample_of_the_whole_corpus(work: Callable[..., EncodeResult], expected: np.ndarray) -> None:
    done = work(precision="int8", calibration_rows=5)
    ranges = np.array(json.loads(Path("out/manifest.json").read_text())["ranges"])
    sample = expected[[0, 10, 20, 30, 40]]
    np.testing.assert_allclose(ranges, [sample.min(0), sample.max(0)], rtol=0, atol=2e-6)
    outside = ((expected < sample.min(0)) | (expected > sample.max(0))).sum()
    assert done.clipped > 100
    assert abs(done.clipped - outside) < 30  # the sample's own extremes, by rounding in another batch


@pytest.mark.parametrize("precision", ["int8", "uint8"])
@pytest.mark.parametrize(
    ("texts", "rows"), [(["a man"], 10), (["a man", "long"], 1), (["a man"] * 3, 10), ([""] * 3, 10)]
)
def test_a_sample_without_spread(
    work: Callable[..., EncodeResult], precision: str, texts: list[str], rows: int
) -> None:
    Path("flat.txt").write_text("".join(text + "\n" for text in texts))
    said = f"64 of 64 dimensions do not vary in the {min(rows, len(texts))} calibration rows"
    with pytest.raises(UserError, match=f"{said}.*--calibration-rows.*float16"):
        work(source="flat.txt", precision=precision, calibration_rows=rows)
    assert not Path("out").exists()
    assert work(source="flat.txt", precision="float16").rows == len(texts)


def test_a_dimension_without_spread_and_few_rows(caplog: pytest.LogCaptureFixture) -> None:
    ranges = np.array([[0, -1, 2], [1, 1, 2]], dtype=np.float32)
    with pytest.raises(UserError, match="1 of 3 dimensions do not vary in the 500"):
        check_ranges(ranges, rows=500)
    check_ranges(ranges[:, :2], rows=100)
    assert caplog.messages == []
    check_ranges(ranges[:, :2], rows=99)
    assert "those of 99 rows" in caplog.text and "100 or more (--calibration-rows)" in caplog.text


def test_normalised_truncated_and_prompted(work: Callable[..., EncodeResult], model_dir: str) -> None:
    work(normalize=True, truncate_dim=16, prompt_name="query")
    model = SentenceTransformer(model_dir, trust_remote_code=True)
    wanted = model.encode(SENTENCES, normalize_embeddings=True, truncate_dim=16, prompt="the ")
    np.testing.assert_allclose(vectors(read()), wanted, rtol=0, atol=2e-6)
    with pytest.raises(UserError, match="prompts are: query"):
        work(prompt_name="answer", output="other")
    with pytest.raises(UserError, match="64 dimensions"):
        work(truncate_dim=65, output="other")
    assert not Path("other").exists()


def test_malformed_rows(work: Callable[..., EncodeResult], capsys: pytest.CaptureFixture[str]) -> None:
    rows = ['{"text": "a man"}', '{"text": 3}', "{", '{"other": "x"}', '{"text": ""}', '{"text": null}', '["a"]']
    Path("bad.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError) as caught:
        work(source="bad.jsonl", column="text")
    said = str(caught.value)
    for part in ("line 2: expected text, found 3", "line 3: not JSON", "line 4: no column", "line 6", "line 7"):
        assert part in said
    assert "5 malformed, 2 usable" in said
    assert not Path("out").exists()
    done = work(source="bad.jsonl", column="text", on_bad_row="skip")
    assert (done.rows, done.bad_rows, done.empty) == (2, 5, 1)
    assert read()["line"].to_pylist() == [1, 5]


def test_a_model_that_computes_nan(work: Callable[..., EncodeResult], monkeypatch: pytest.MonkeyPatch) -> None:
    real = TextEncoder.encode

    def broken(self: Any, texts: Any, **options: Any) -> np.ndarray:
        found = real(self, texts, **options)
        found[3, 5] = np.nan
        return found

    monkeypatch.setattr(TextEncoder, "encode", broken)
    with pytest.raises(UserError, match=r"in.txt, line 4 is not finite \(1 of 20"):
        work()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.txt", "out"], "nothing.txt"),
        (["in.txt", "out", "--precision", "int4"], "int4"),
        (["in.txt", "out", "--shard-rows", "0"], "shard_rows"),
        (["in.txt", "out", "--batch-size", "many"], "many"),
        (["in.txt", "out", "--resume", "--overwrite"], "one of them"),
        (["in.txt", "out", "--device", "quantum"], "quantum"),
        (["in.txt", "out", "--device", "cpu", "meta"], "device 'meta' cannot be used here"),
        (["in.txt", "out", "--column", "text"], "text"),
        (["empty.txt", "out"], "no usable row"),
        (["utf16.txt", "out"], "UTF-16"),
    ],
)
def test_mistakes_on_the_command_line(
    work: object, model_dir: str, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    Path("empty.txt").write_text("")
    Path("utf16.txt").write_text("a man", encoding="utf-16")
    refused(capsys, main(["encode", model_dir, *arguments]), said)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (b"corpus/\xff.txt", b"corpus"),
        (b"corpus/\xff/a.txt", b"corpus"),
        (b"corpus/\xff.txt", b"corpus/\xff.txt"),
        (b"\xff/a.parquet", b"\xff"),
    ],
)
def test_a_name_that_is_not_utf_8(
    work: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: bytes, source: bytes
) -> None:
    file = Path(os.fsdecode(name))
    try:
        file.parent.mkdir(parents=True)
        file.write_text("a man\n")
    except OSError:
        pytest.skip("this file system takes no such name")
    monkeypatch.setattr("lacos_st.corpus.run.load_encoder", lambda _: pytest.fail("the model was loaded"))
    inside = name.removeprefix(b"corpus/")
    refused(capsys, main(["encode", "bloom-nano", os.fsdecode(source), "out"]), f"{inside!r} is not UTF-8: rename it")
    assert not Path("out").exists()


@pytest.mark.parametrize("more", [[], ["--resume"], ["--overwrite"]])
@pytest.mark.parametrize("output", ["corpus", "corpus/out", "corpus/a/../b/out", "link/out"])
def test_an_output_in_the_input(
    work: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, output: str, more: list[str]
) -> None:
    Path("corpus").mkdir()
    Path("corpus/a.txt").write_text("a man\n")
    Path("link").symlink_to("corpus")
    monkeypatch.setattr("lacos_st.corpus.run.load_encoder", lambda _: pytest.fail("the model was loaded"))
    said = f"output {Path(output)} lies in the input folder corpus"
    refused(capsys, main(["encode", "bloom-nano", "corpus", output, *more]), said, "choose a folder outside it")
    assert [path.name for path in Path("corpus").iterdir()] == ["a.txt"]


def test_an_output_that_is_not_read_as_input(work: Callable[..., EncodeResult]) -> None:
    Path("corpus").mkdir()
    Path("corpus/a.txt").write_text("a man\n")
    assert work(source="corpus", output="corpus/.out").rows == 1
    assert work(source="corpus", output="corpus-out").rows == 1
    assert work(source="corpus/a.txt", output="corpus/out").rows == 1


def test_the_command(work: object, model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["encode", model_dir, "in.txt", "out", "--precision", "int8", "--calibration-rows", "5"]
    assert main(line) == 0
    out = capsys.readouterr()
    assert "50 rows, 1 shards in" in out.out
    assert "2 empty sentences, kept" in out.out
    assert f"limit of {LIMIT} tokens" in out.out
    assert "clipped" in out.out
    assert "sentences/s" not in out.err  # no terminal, no line of progress
    assert main([*line, "--resume", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress() -> None:
    now = 0.0
    stream = Terminal()
    progress = Progress(10_000, done=2_000, stream=stream, clock=lambda: now)
    now = 10.0
    progress.add(1_000, 5_000)
    assert progress.line() == "3,000 of 10,000 rows (30.0 %), 100 sentences/s, 500 tokens/s, 1 min left"
    for _ in range(190):
        now += 1
        progress.add(10, 0)
    assert " 10 sentences/s" in progress.line()  # the last minute
    progress.close()
    assert stream.getvalue().startswith("\r3,000 of")
    quiet = io.StringIO()
    Progress(10, stream=quiet).add(5, 5)
    Progress(10, stream=Terminal(), show=False).add(5, 5)
    assert quiet.getvalue() == ""
    assert duration(3599) == "1 h 0 min"
