"""The command `ilt`. It imports and runs only the Hydra app that its first argument names."""

import difflib
import importlib
import os
import re
import sys
from typing import NoReturn

import ilt

COMMANDS = {
    "train": "train a student from an expert's demonstrations and score it on test seeds",
    "study": "run a named set of sweeps, and compare their runs in a table",
    "expert": "train an expert, or find it among the artifacts",
    "collect": "collect demonstrations, or find them among the artifacts",
    "export-minari": "write demonstrations as a Minari data set",
    "evaluate": "score a trained student again, on seeds of your choice",
    "compare": "score several policies on the same seeds",
    "probe": "probe a student's activations for quantities that its environment hides",
    "figures": "redraw the figures of a run at the column widths of a paper",
    "report": "write a table and an HTML page about several runs",
    "list": "list runs and artifacts",
    "show": "show a run or an artifact, and what to type next",
    "clean": "delete what failed or unfinished runs left behind",
    "sync": "upload offline W&B runs",
    "dashboard": "create a W&B workspace for all runs",
}

HELP = f"""usage: ilt COMMAND [key=value ...] [group=option ...] [-m] [--cfg job] [--config-dir DIR]

Imitation learning with sequence models, configured by Hydra.

commands:
{"".join(f"  {name:<13} {summary}{chr(10)}" for name, summary in COMMANDS.items())}
`ilt COMMAND --help` lists the keys and groups of a command, `ilt COMMAND --hydra-help` Hydra's own options.
Tab completion: eval "$(ilt -sc install=bash)", also for zsh (after bashcompinit); ilt -sc install=fish | source
"""


def main() -> None:
    """Run the command that the command line names."""
    try:
        _run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into SystemExit
            sys.exit(130)
        raise


def _run(arguments: list[str]) -> None:
    command = arguments[0] if arguments else "--help"
    if command in ("--help", "-h"):
        sys.stdout.write(HELP)
    elif command == "--version":
        sys.stdout.write(f"ilt {ilt.__version__}\n")
    elif command in ("-sc", "--shell-completion"):
        _complete(arguments)
    elif command in COMMANDS:
        importlib.import_module(f"ilt.cli.{command.replace('-', '_')}").main()
    else:
        _refuse(command)


def _complete(arguments: list[str]) -> None:
    """Print what Hydra's completion scripts ask for: command names, or the completions of one command."""
    command, line = "train", ""
    if any(argument.startswith("query=") for argument in arguments):
        typed = re.match(r"\s*\S+\s+(\S+)\s+(.*)", os.environ["COMP_LINE"])
        if typed is None:
            (first,) = os.environ["COMP_LINE"].split()[1:2] or [""]
            sys.stdout.write("".join(f"{name}\n" for name in COMMANDS if name.startswith(first)))
            return
        command, line = typed.groups()
    if command in COMMANDS:
        os.environ["COMP_LINE"] = f"ilt {line}"
        sys.argv = [sys.argv[0], command, *arguments]
        _run(sys.argv[1:])


def _refuse(command: str) -> NoReturn:
    close = difflib.get_close_matches(command, COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else "ilt --help lists the commands"
    sys.stderr.write(f"ilt: {command} is not a command; {hint}\n")
    sys.exit(2)
