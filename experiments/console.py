"""The command `dicepp`: `dicepp run ...` is `python -m experiments.run ...`, and so on."""

import difflib
import runpy
import sys

COMMANDS = {
    "prepare": "prepare a data set and look at it",
    "memory": "the device memory that a training step takes",
    "run": "train, evaluate and draw",
    "sweep": "train a grid of hyper-parameters",
    "calibrate": "calibration of a trained run, the deep ensemble of several",
    "shift": "score runs on corrupted test images, and on a second data set",
    "predict": "predict images with a trained run",
    "evaluate": "score label maps against the truth",
    "reproduce": "the paper's tables and figures by one command",
    "report": "tables, tests and figures of finished runs as HTML, Markdown and LaTeX",
    "bench": "time the library, beside others, on this machine",
}
"""Every main of this package, with a line of help."""


def main() -> None:
    """Run the command that the first argument names."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = (f"  {name:{width}}  {line}" for name, line in COMMANDS.items())
        print("\n".join(["usage: dicepp COMMAND [ARGUMENTS]; dicepp COMMAND --help", "", *lines]))
        sys.exit(0 if arguments else 2)
    name = arguments[0]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        guess = f", did you mean {close[0]}?" if close else "."
        sys.exit(f"error: unknown command {name!r}{guess} Known: {', '.join(COMMANDS)}")
    sys.argv = arguments
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
