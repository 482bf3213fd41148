"""`python -m benchmarks COMMAND`: a file per command, each with `add_arguments(parser)` and `main(arguments)`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "run": "measure commits with asv, or this tree at once (--record), and print the table",
    "table": "write the README's tables from the stored records and results",
    "compare": "the regression gate: is one version slower than another?",
    "history": "the commits at which a case became slower or faster",
    "calibrate": "how often the gate errs: trials of it, accumulated",
    "trace": "profile a case beside nn.Dropout or another version, for TensorBoard and Perfetto",
    "dashboard": "publish the history as a web page",
    "canary": "does the gate see a slowdown that is planted?",
    "nightly": "all of it, unattended: measure, judge, test the law, publish, report",
}


def parser(chosen: str | None) -> argparse.ArgumentParser:
    """The command line; only the chosen command is imported, since some take long to."""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == chosen:
            module = import_module(f"benchmarks.commands.{name}")
            command.description = module.__doc__
            module.add_arguments(command)
            command.set_defaults(main=module.main)
    return top


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that `words` name and give its exit code."""
    words = sys.argv[1:] if words is None else words
    try:
        arguments = parser(words[0] if words else None).parse_args(words)
        return int(arguments.main(arguments))
    except KeyboardInterrupt:
        print("\nInterrupted. What was stored before is kept.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
