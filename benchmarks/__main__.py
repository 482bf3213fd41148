"""The harness: how fast is TailDropout, and did a commit make it slower? `COMMAND --help` explains a command."""

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from .system.errors import CommandError

COMMANDS = {  # a file in commands/ for each, with `add_arguments(parser)` and `main(arguments)`
    "run": "measure commits with asv and print the table",
    "record": "measure this working tree in one process, without asv, and store the record",
    "table": "write the tables of README.md and docs/ from the stored records and results",
    "compare": "the regression gate: is one version slower than another?",
    "history": "the commits at which a case became slower or faster",
    "calibrate": "how often the gate errs: trials of it, accumulated",
    "trace": "profile a case beside nn.Dropout or another version, for TensorBoard and Perfetto",
    "dashboard": "publish the history as web pages",
    "canary": "does the gate see a slowdown that is injected?",
    "nightly": "all of it, unattended: measure, judge, test the law, publish, report",
}


def parser(chosen: str | None) -> argparse.ArgumentParser:
    """Build the command line; import only the chosen command, since some imports take seconds."""
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


def main(args: Sequence[str] | None = None) -> int:
    """Run the command that `args` name and return its exit code; the one handler of expected errors."""
    args = sys.argv[1:] if args is None else args
    try:
        arguments = parser(args[0] if args else None).parse_args(args)
        return int(arguments.main(arguments))
    except KeyboardInterrupt:
        print("\nInterrupted. What was stored before is kept.", file=sys.stderr)
        return 130
    except CommandError as error:
        print(f"{error.summary}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"{CommandError.summary}: {error}", file=sys.stderr)
    except Exception:  # Python's own exit code would be 1, which says that something is slower
        traceback.print_exc()
        print("This is a fault of the harness; please report it.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as by nohup
            signal.signal(number, signal.default_int_handler)  # as Ctrl-C: processes are killed, temporary files removed
    sys.exit(main())
