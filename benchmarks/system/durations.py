"""Read a duration from the command line."""

import argparse
import re

SECONDS = {"s": 1, "m": 60, "h": 3600}


def parse_duration(text: str) -> float:
    """Return the seconds of `90s`, `10m` or `1h`; for `type=` of an argparse option.

    Raises argparse.ArgumentTypeError for any other text, and for 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90s, 10m or 1h")
    return float(match[1]) * SECONDS[match[2]]
