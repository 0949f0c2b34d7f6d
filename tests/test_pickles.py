"""A checkpoint's pickles run nothing: neither opened by us, nor by the stock trainer that resumes from them."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from lacos_st import UserError, encoder
from lacos_st import trainer as ours
from lacos_st.cli import main
from lacos_st.pickles import NEEDED, check_pickles
from lacos_st.resume import FILES, list_files


class Runs:
    """What a pickle that is opened without care does: it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.place,)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    tiny.save(root / "base")
    (root / "pairs.tsv").write_text("".join(f"a man walks {i}\ta man {i}\n" for i in range(24)))
    line = ["train", "--base", str(root / "base"), "--data", str(root / "pairs.tsv"), "--block-size", "64"]
    line += ["--output", str(root / "out"), "--batch-size", "8", "--eval-rows", "0", "--cpu", "--no-progress"]
    assert main(line) == 0
    return root


@pytest.fixture
def out(finished: Path) -> Any:
    kept = finished / "kept"
    shutil.copytree(finished / "out", kept)
    yield finished / "out"
    shutil.rmtree(finished / "out")
    kept.rename(finished / "out")


def checkpoint(out: Path) -> Path:
    """The last one; the one before is kept beside it."""
    return max((out / "checkpoints").glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))


def forge(folder: Path, name: str, ran: Path) -> None:
    """Put code into a pickle of a checkpoint, and its hash into the list of files, as a stranger would."""
    torch.save({"state": Runs(ran)}, folder / name)
    (folder / FILES).unlink()
    list_files(folder, step=int(folder.name.rpartition("-")[2]))


def test_those_of_the_trainer_pass(finished: Path) -> None:
    check_pickles(checkpoint(finished / "out"))
    assert set(NEEDED) <= {path.name for path in checkpoint(finished / "out").iterdir()}


@pytest.mark.parametrize("name", NEEDED)
def test_code_in_a_pickle_is_named_and_never_runs(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    ran = tmp_path / "ran"
    forge(checkpoint(out), name, ran)
    torch.load(checkpoint(out) / name, weights_only=False)  # it does run where nobody takes care
    ran.rmdir()
    assert main(["train", "--resume", "--output", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"{name} is a pickle that asks for posix.mkdir to be called" in said
    assert not ran.exists()


@pytest.mark.parametrize("name", [*NEEDED, "training_args.bin"])
def test_the_stock_trainer_opens_pickles_with_weights_only(
    finished: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What lies behind our check: should it be passed by, torch refuses by itself."""
    ran = tmp_path / "ran"
    forge(checkpoint(out), name, ran)
    monkeypatch.setattr(ours, "check_pickles", lambda folder: None)
    model = encoder(str(finished / "base"), device="cpu", block_size=64)
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "x"),
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        max_steps=4,
        optim="adamw_bnb_8bit",
    )
    rows = Dataset.from_dict({"anchor": ["a man"] * 40, "positive": ["guitar"] * 40})
    loss = MultipleNegativesRankingLoss(model)
    trainer = ours.LacosTrainer(model=model, args=args, train_dataset=rows, loss=loss)
    if name in NEEDED:
        with pytest.raises(Exception, match=r"(?i)weights.only"):
            trainer.train(resume_from_checkpoint=str(checkpoint(out)))
    else:  # is never opened
        trainer.train(resume_from_checkpoint=str(checkpoint(out)))
    assert not ran.exists()


@pytest.mark.parametrize("name", NEEDED)
def test_a_packed_or_damaged_pickle_is_refused(out: Path, name: str) -> None:
    file = checkpoint(out) / name
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    with pytest.raises(UserError, match=rf"{name} is broken \(.* is compressed"):
        check_pickles(checkpoint(out))
    for damaged in (b"", b"PK", whole[: len(whole) // 2], whole.replace(b"data.pkl", b"data.pkk"), b"\x80\x04."):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{name} is broken"):
            check_pickles(checkpoint(out))
