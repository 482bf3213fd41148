"""Compare two versions of any project that has an asv suite: is HEAD slower than BASE?

    python -m benchmarks.gate compare main feature --project ../numpy          two revisions
    python -m benchmarks.gate compare v1.0 --project .                         a revision and the working tree
    python -m benchmarks.gate compare "packaging==24.0" "packaging==25.0" --suite DIR
    python -m benchmarks.gate compare "numpy==1.26.4" "numpy==2.4.6" --project .  of a dependency, beside the working tree

Each version is built in a virtual environment of its own, by the commands of asv.conf.json. The benchmarks are HEAD's. They run
in pairs of processes in lock step, one per version, until the change is known well enough (rule.py defines this). Of the
figures of track_, mem_ and peakmem_ benchmarks, less is better.

Exit code: 0 pass, 1 regressed, 2 could not measure, 3 unstable, which is not a pass, 130 interrupted.
"""

import argparse
import math
import re
import signal
import sys
import traceback
from collections.abc import Sequence

from ..system.durations import parse_duration
from ..system.errors import CommandError
from .guarded import kill_all
from .rule import THRESHOLD

NAME = "asv-gate" if __package__ == "asv_gate.gate" else "python -m benchmarks.gate"  # the first where it is installed alone
INTERRUPTS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 after an error (one line if it is expected), 130 if interrupted."""
    from .foreign import compare_versions

    arguments = parser().parse_args(args)
    if sys.stdout is None:
        print("Could not measure: standard output is closed; send it to a file, or to /dev/null", file=sys.stderr)
        return 2
    # One that is ignored, as by nohup, stays so.
    former = {number: signal.signal(number, interrupt) for number in INTERRUPTS if signal.getsignal(number) != signal.SIG_IGN}
    try:
        return compare_versions(arguments)
    except KeyboardInterrupt:
        kill_all()
        print("\nInterrupted; nothing was written.", file=sys.stderr)
        return 130
    except CommandError as error:
        print(f"{error.summary}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"{CommandError.summary}: {error}", file=sys.stderr)
    except Exception:  # Python's own exit code would be 1, which says that a benchmark is slower
        traceback.print_exc()
        print("This is a fault of the gate; please report it.", file=sys.stderr)
    finally:
        for number, handler in former.items():
            if signal.getsignal(number) == interrupt:  # else the command is ending, and one more signal must not kill it
                signal.signal(number, handler)
    return 2


def interrupt(number: int, frame: object) -> None:
    """End the command: its processes are killed and temporary files removed, which no further signal cuts short."""
    for each in INTERRUPTS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    about = (__doc__ or "").replace("python -m benchmarks.gate", NAME)
    top = argparse.ArgumentParser(prog=NAME, description=about.split("\n\n")[0])
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    compare = commands.add_parser(
        "compare", help="is HEAD slower than BASE?", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = compare.add_argument
    add("base", metavar="BASE", help="a branch, tag or commit; or a requirement, such as packaging==24.0")
    add("head", metavar="HEAD", nargs="?", help="default: the working tree, with its changes")
    add("--project", metavar="DIR", help="folder of asv.conf.json (default: this one)")
    add("--suite", metavar="DIR", help="the folder of benchmarks, if it is not the project's own")
    add(
        "--bench", metavar="REGEX", action="append", type=pattern, help="only benchmarks whose name matches; may be given again"
    )
    add(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        type=assignment,
        help="pick a combination of the matrix; KEY=null: one without KEY",
    )
    add(
        "--budget",
        type=parse_duration,
        default=float("inf"),
        metavar="TIME",
        help="most time for building and measuring, such as 10m",
    )
    add("--threshold", type=fraction, default=THRESHOLD, help="relative change of time that counts (default %(default)s)")
    add("--cores", type=count, metavar="N", help="pairs at a time (default: half of the cores, 2 at least)")
    add("--markdown", metavar="FILE", help="write the table there; default $GITHUB_STEP_SUMMARY if set")
    add("--junit", metavar="FILE", help="write JUnit XML there")
    add("--json", metavar="FILE", help="every round of every pair, and both environments")
    return top


def assignment(text: str) -> tuple[str, str]:
    """Parse KEY=VALUE, for `type=` of an argparse option."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE, such as numpy=1.26")
    return key, value


def pattern(text: str) -> str:
    """Check a regular expression, for `type=` of an argparse option."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    return text


def fraction(text: str) -> float:
    """Parse a number above 0 and below 1, for `type=` of an argparse option."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no fraction of a time; give a number above 0 and below 1, such as 0.05")
    return value


def count(text: str) -> int:
    """Parse a whole number above 0, for `type=` of an argparse option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of cores; give 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
