"""Signal handlers of a command: Ctrl-C and SIGTERM both end it after cleaning up."""

from __future__ import annotations

import os
import signal
from types import FrameType

from octify.storage.hold import Terminated

_received: list[int] = []
_installed: list[bool] = []


def install() -> None:
    """Let signals raise exceptions, so that temporary files are removed, and record their arrival."""
    _installed.append(True)
    _received.clear()  # a process that was forked begins with none
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, terminate)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is signal.SIG_DFL:  # nohup ignores it
        signal.signal(hangup, terminate)


def interrupted() -> bool:
    """Return whether a KeyboardInterrupt comes from a Ctrl-C; a model's code can raise one as well."""
    return signal.SIGINT in _received or not _installed


def terminate(number: int, frame: FrameType | None) -> None:
    """End the command as Ctrl-C does."""
    _received.append(number)
    raise Terminated(128 + number)


def consequence() -> BaseException | None:
    """The end that a signal has asked for, where one was received; None elsewhere.

    Code that catches every exception may have swallowed it, halfway through an import: what fails from
    then on is no error of its own.
    """
    if not _installed or not _received:
        return None
    return KeyboardInterrupt() if _received[0] == signal.SIGINT else Terminated(128 + _received[0])


def open_streams() -> None:
    """Open closed standard streams: the next file to be opened would take their number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt
