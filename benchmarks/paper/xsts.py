"""The paper's multilingual experiment: trained on NLI in many languages, scored for each pair of languages.

    python -m benchmarks.paper.xsts
    python -m benchmarks.paper.xsts --bases bloom-nano --baseline bert-nano --data XNLI --sts STS --tasks STS17

BLOOM never saw German, Italian, Japanese, Dutch, Polish, Russian or Turkish, so a mean alone says little: pairs with
one of the languages of --unseen are marked, and have a mean of their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from statistics import fmean

from benchmarks.paper.cells import Row, done, model_scores, side_by_side
from benchmarks.paper.names import MULTILINGUAL_NLI, MULTILINGUAL_NLI_HELD_OUT, UNSEEN, label
from benchmarks.paper.options import Defaults, main, parser, study
from benchmarks.paper.table1 import add_choices, cells
from lacos_st.atomic import write_text
from lacos_st.canvas import COLOURS
from lacos_st.plots import plot_scores
from lacos_st.report import Figure, ModelScores, markdown_table
from lacos_st.sts import ENGLISH

DEFAULTS = Defaults(
    data=MULTILINGUAL_NLI, eval_data=MULTILINGUAL_NLI_HELD_OUT, tasks=("STS17", "STSBenchmarkMultilingualSTS")
)
MARK = "†"


def options() -> argparse.ArgumentParser:
    """Its command line."""
    made = parser("xsts", __doc__, DEFAULTS, baseline=True)
    add_choices(made)
    made.add_argument(
        "--unseen", nargs="*", metavar="LANG", default=UNSEEN, help=f"that no base was trained on [{' '.join(UNSEEN)}]"
    )
    return made


def run(arguments: list[str] | None = None) -> list[Row]:
    """Do what is left, write table and plot, and return the rows."""
    given = options().parse_args(arguments)
    planned = study("xsts", given, DEFAULTS)
    found = done(planned, cells(planned, with_zero_shot=given.zero_shot, from_grid=given.from_grid), scored=True)
    found = [row for row in found if not row["diverged"]]
    baseline = f"sbert-{label(planned.baseline)}"
    models = [model_scores(row) for row in found]
    text = "\n".join(table(models, baseline, figure=figure, unseen=given.unseen) for figure in ("max", "cosine"))
    write_text(planned.file(".md"), text)
    drawn = found if len(found) <= len(COLOURS) else [row for row in found if row["train"] is not None]
    plot_scores(side_by_side(drawn, baseline=baseline), planned.file(".png"))
    print(f"{text}\nrows, table and plot: {planned.file('.*')}")
    return found


def table(models: Sequence[ModelScores], baseline: str, *, figure: Figure, unseen: Collection[str]) -> str:
    """A line for each pair of languages and task, then the means over all, over marked and over other lines.

    Args:
        models: with scores on the same tasks, one of them named `baseline`.
        baseline: what the others are compared with.
        figure: "max" over four similarities, or "cosine".
        unseen: languages whose lines are marked.
    """
    values = {model.name: [task.figure(figure) for task in model.tasks] for model in models}
    marked = [bool(set(task.languages.split("-")) & set(unseen)) for task in models[0].tasks]
    counted = [task.languages != ENGLISH for task in models[0].tasks]

    def line(places: Sequence[int]) -> list[str]:
        means = {name: fmean(scores[place] for place in places) for name, scores in values.items()}
        return [
            f"{mean:.2f}"
            if name == baseline or baseline not in means
            else f"{mean:.2f} ({mean - means[baseline]:+.2f})"
            for name, mean in means.items()
        ]

    lines = [["languages", "task", "pairs", *(name + " (baseline)" * (name == baseline) for name in values)]]
    for place, task in enumerate(models[0].tasks):
        lines.append([task.languages + MARK * marked[place], task.task, str(task.pairs), *line([place])])
    for name, chosen in (
        ("**xSTS-Avg**", counted),
        ("seen", [one and not mark for one, mark in zip(counted, marked, strict=True)]),
        (f"not seen {MARK}", [one and mark for one, mark in zip(counted, marked, strict=True)]),
    ):
        if places := [place for place, one in enumerate(chosen) if one]:
            lines.append([name, f"{len(places)} tasks", "", *line(places)])
    head = "max over cosine, Manhattan, Euclidean and dot" if figure == "max" else "cosine"
    return f"## Spearman x100, {head}\n\n{markdown_table(lines)}\n\n{MARK}: {NOTE}\n"


NOTE = "with a language of --unseen. A pair of English with English is in no mean. In brackets: against the baseline."


if __name__ == "__main__":
    main(run)
