"""What holds for every command: how it ends when it is stopped, and the version."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup


class Commands(TyperGroup):
    """The commands; a stop by Ctrl-C or another signal ends each with what to type next."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # before typer sees it, which says nothing
            leave(stop)


def leave(stop: KeyboardInterrupt) -> NoReturn:
    """Say how to go on after a stop, and end the process as the shell expects it."""
    from luthier.core.errors import Stopped

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not break the last line
    signal_number = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
    print(f"luthier: {stop if isinstance(stop, Stopped) else 'stopped'}", file=sys.stderr, flush=True)
    if isinstance(stop, Stopped) and stop.at_once:
        os._exit(128 + signal_number)  # nothing is waited for, not even a checkpoint that is being written
    sys.exit(128 + signal_number)


def print_version(asked: bool) -> None:
    """Print the version and exit, where it was asked for."""
    if asked:
        from importlib.metadata import version

        print(f"luthier {version('luthier')}")
        raise typer.Exit
