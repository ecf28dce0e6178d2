"""Run a command that must not outlive its parent: `python -m bitwright.engines.leash GRACE COMMAND...`.

The parent holds the write end of this process's standard input and never writes. When it closes, because the parent
stops the engine or because the parent was killed, the command's whole process group gets SIGTERM, and SIGKILL
`GRACE` seconds later. An engine that starts workers of its own (vLLM does) takes them along.

Why a process and not PR_SET_PDEATHSIG: that signal belongs to the thread that forked, so a server started from a
short-lived thread would die with it; it exists on Linux only; and it reaches one process, not the group.

The exit code is the command's; a command that a signal ended gives 128 + the signal, as in a shell.
Standard library only, so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from types import FrameType

POLL_SECONDS = 0.2


def main(arguments: list[str]) -> int:
    """Run the command in our own process group until it ends or our standard input closes."""
    grace_seconds, *command = arguments
    # A handler, not SIG_IGN: handlers are reset in the command, an ignored signal would stay ignored there.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _outlive)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while child.poll() is None:
        readable, _, _ = select.select([0], [], [], POLL_SECONDS)
        if readable and not os.read(0, 1):
            _end_group(child, float(grace_seconds))
    return 128 - child.returncode if child.returncode < 0 else child.returncode


def _outlive(number: int, frame: FrameType | None) -> None:
    """The signal is for the command; this process ends with it."""


def _end_group(child: subprocess.Popen[bytes], grace_seconds: float) -> None:
    os.killpg(0, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(grace_seconds)
    os.killpg(0, signal.SIGKILL)  # also this process: nobody is left to read an exit code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
