"""`lacos-st doctor`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lacos_st.commands.parsing import add_command
from lacos_st.errors import UserError

EXAMPLES = (
    "lacos-st doctor",
    "lacos-st doctor --offline --json",
)
MARKS = {True: "ok", False: "FAILS", None: "-"}


def doctor(arguments: argparse.Namespace) -> None:
    """What works on this machine: versions, devices, 8-bit kernels, attention, the hub; and what to install."""
    from lacos_st.doctor import examine

    findings = []
    for finding in examine(hub=not arguments.offline):
        findings.append(finding)
        if not arguments.json:
            print(f"{MARKS[finding.works]:<6}{finding.what}: {finding.said}", flush=True)
            if finding.advice:
                print(f"{'':<8}{finding.advice}")
    if arguments.json:
        print(json.dumps([finding.to_dict() for finding in findings], indent=2))
    broken = [finding.what for finding in findings if finding.works is False]
    if broken:
        raise UserError(f"{len(broken)} of {len(findings)} do not work here: {', '.join(broken)}")


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "doctor", doctor, examples=EXAMPLES)
    parser.add_argument("--offline", action="store_true", help="do not ask whether the hub can be reached")
    parser.add_argument("--json", action="store_true", help="for other programs")
