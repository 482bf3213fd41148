"""Ctrl-C in tests that may themselves run in the background of a shell, where it is ignored, as SIGHUP is after nohup."""

import signal


def heed_interrupts() -> None:
    """Have signals heeded again, for `preexec_fn`: a process in the background inherits that they are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
