"""`lacos-st report`."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from lacos_st.commands.parsing import add_command

EXAMPLES = (
    "lacos-st report run scores",
    "lacos-st report run-a run-b scores law.json plan.json runs.csv --output page.html --title 'Two ranks'",
    "lacos-st report run --sentences mine.txt --quantization",
)


def report(arguments: argparse.Namespace) -> None:
    """One HTML page to look at: scores, loss curves, memory, quantisation error, similarities, plan; no network."""
    from lacos_st.html_report.options import ReportOptions

    options = ReportOptions(
        runs=tuple(arguments.runs),
        output=arguments.output,
        title=arguments.title or ", ".join(Path(name).name or name for name in arguments.runs),
        sentences=arguments.sentences,
        quantization=arguments.quantization,
        skip=tuple(arguments.skip),
        device=arguments.device,
        overwrite=arguments.overwrite,
    )

    from lacos_st.html_report.run import write_report
    from lacos_st.recipe.units import show_bytes

    if not arguments.quiet and not arguments.json:
        logging.getLogger("lacos_st.html_report").setLevel(logging.INFO)
    written = write_report(options)
    if arguments.json:
        figures = {"page": str(written.path), "bytes": written.size}
        print(
            json.dumps({**figures, "shown": written.shown, "left_out": written.left_out}, indent=2, ensure_ascii=False)
        )
        return
    print(f"{written.path} ({show_bytes(written.size)}): {', '.join(written.shown)}")
    for sentence in written.left_out:
        print(f"left out: {sentence}")


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "report", report, examples=EXAMPLES)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folders of train or evaluate, or of a model; results.json; files of fit --output, plan --json, "
        "quantization --json; a sweep's table (.csv); bloom-nano, bert-nano",
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE", help="[report.html]")
    parser.add_argument("--title", metavar="TEXT", help="of the page [names of what it shows]")
    parser.add_argument(
        "--sentences", type=Path, metavar="FILE", help="one on each line, for the heat map [20 of ours]"
    )
    parser.add_argument(
        "--quantization", action="store_true", help="load the runs' bases in floats: what 8 bits lose in each layer"
    )
    parser.add_argument(
        "--skip",
        nargs="+",
        default=[],
        metavar="SECTION",
        help="leave out: scores, curves, memory, quantization, similarity (loads no model then), plan",
    )
    parser.add_argument("--device", metavar="NAME", help="torch device of the heat map's models, such as cpu or cuda")
    parser.add_argument("--overwrite", action="store_true", help="replace a page that is there")
    parser.add_argument("--json", action="store_true", help="what the page shows and what not, for other programs")
