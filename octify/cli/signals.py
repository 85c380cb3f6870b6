"""What signals do to a command: Ctrl-C interrupts it, a request to end ends it, and both clean up."""

from __future__ import annotations

import os
import signal
from types import FrameType

from octify.storage.hold import Terminated

_received: list[int] = []
_installed: list[bool] = []


def install() -> None:
    """Let signals raise exceptions, so that temporary files are removed, and remember that they came."""
    _installed.append(True)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, terminate)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is signal.SIG_DFL:  # nohup ignores it
        signal.signal(hangup, terminate)


def interrupted() -> bool:
    """Whether a KeyboardInterrupt is a Ctrl-C: a model's code can raise one as well."""
    return bool(_received) or not _installed


def terminate(number: int, frame: FrameType | None) -> None:
    """End as on Ctrl-C."""
    raise Terminated(128 + number)


def open_streams() -> None:
    """Give closed standard streams a place: the next file to be opened would become one of them."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt
