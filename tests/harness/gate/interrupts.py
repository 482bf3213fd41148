"""Ctrl-C in tests that may themselves run in the background of a shell, where it is ignored."""

import signal


def heed_interrupts() -> None:
    """Make SIGINT raise KeyboardInterrupt again, for `preexec_fn`: a process in the background inherits that it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
