"""Programs that end with the process that has started them, also when that one was killed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence


def with_parent(command: Sequence[str]) -> list[str]:
    """A command whose process the kernel kills with its parent, where there is a program for that (Linux).

    :param command: the program and its arguments
    :returns: the command to run instead
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", *command] if setpriv else list(command)
