"""Ctrl-C and SIGTERM: stop after the step in progress, or at once if pressed again.

Signals are blocked and read by a thread of their own, since Python's handlers run only when the
main thread returns to Python: not while XLA compiles, and lost if they raise in a destructor.
"""

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Request:
    """The first signal, if there was one, and whether the work in progress asks for it."""

    def __init__(self) -> None:
        self.number = signal.SIGINT
        self.made = threading.Event()
        self.awaited = False


_request = _Request()


def listen(interrupted: str) -> None:
    """From now on end this process on Ctrl-C and SIGTERM, with exit code 130 or 143.

    Within `deferred`, the first one only requests it. To be called before any thread is started,
    as threads inherit that signals are blocked.

    Args:
      interrupted: what the same command does next, to be printed.
    """
    if not hasattr(signal, "pthread_sigmask"):
        # Windows, where it is at once.
        signal.signal(signal.SIGINT, lambda *_: leave(interrupted, signal.SIGINT))
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def watch() -> None:
        while True:
            number = signal.Signals(signal.sigwait(SIGNALS))
            if not _request.awaited or _request.made.is_set():
                leave(interrupted, number)
            _request.number = number
            _request.made.set()
            print(
                "stopping after this step, which is then saved; once more: at once",
                file=sys.stderr,
                flush=True,
            )

    threading.Thread(target=watch, name="signals", daemon=True).start()


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """While work is in progress that stops by itself, soon after it is requested.

    Yields:
      Whether stopping has been requested.

    Raises:
      KeyboardInterrupt: at the end of the work if stopping has been requested.
    """
    _request.awaited = True
    try:
        yield _request.made.is_set
    finally:
        _request.awaited = False
    if _request.made.is_set():
        raise KeyboardInterrupt


def leave(interrupted: str, number: signal.Signals | None = None) -> NoReturn:
    """End an interrupted program at once, and print the command that goes on.

    Args:
      interrupted: what this command does next.
      number: of the signal; None for that of the request.
    """
    print(f"interrupted; {interrupted}:\n  {command()}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # Files are whole whenever a program ends. XLA may be compiling in a thread, and an orderly exit
    # of the interpreter would crash on it.
    os._exit(128 + (number or _request.number))


def command() -> str:
    """The command line of this process, to be repeated in a shell."""
    program, *arguments = sys.orig_argv
    if arguments and Path(arguments[0]).stem == "dicepp":
        program, arguments = "dicepp", arguments[1:]
    return shlex.join([program, *arguments])
