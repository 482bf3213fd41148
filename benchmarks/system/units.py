"""Format times and bytes with a unit, for tables, and numbers of things, for sentences."""


def format_seconds(seconds: float) -> str:
    """Return a time as text in s, ms or µs with three significant digits, or in whole ns."""
    if seconds >= 999.5:
        return f"{seconds:.0f} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.9995 * size:  # a number that rounds to 1000 takes the next unit
            return f"{seconds / size:#.3g} {unit}".replace(". ", " ")
    return f"{seconds / 1e-9:.0f} ns"


def format_bytes(count: int) -> str:
    """Return a number of bytes as text with a binary unit (KiB, MiB, GiB) and three digits, four from 1000 on."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}" if count < 1000 * scale else f"{count / scale:.0f} {unit}"
    return f"{count} B"


def format_minutes(seconds: float) -> str:
    """Return a duration as text, rounded up to whole minutes, or up to 50 s to a multiple of 10 s."""
    return f"{max(10, -(-seconds // 10) * 10):.0f} s" if seconds <= 50 else f"{-(-seconds // 60):.0f} min"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 pair, 2 pairs, 2 processes."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"
