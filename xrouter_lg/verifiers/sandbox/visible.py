"""What of this machine a program in the sandbox sees: the system and this interpreter."""

from __future__ import annotations

import functools
import os
import sys


def interpreter() -> str:
    """This interpreter by the real path of its folder, where links beside it lead on."""
    folder, name = os.path.split(sys.executable)
    return os.path.join(os.path.realpath(folder), name)


@functools.cache
def visible() -> list[str]:
    """What a program at ``full`` sees of the host, read-only: the system and this interpreter.

    Each folder under the name by which it is asked for and under its real one, and so on along
    the links from the interpreter's name to its file.
    """
    wanted = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    link = interpreter()
    for _hop in range(40):  # as many as the kernel follows
        wanted.add(os.path.dirname(link))
        if not os.path.islink(link):
            break
        link = os.path.join(os.path.realpath(os.path.dirname(link)), os.readlink(link))
        link = os.path.join(os.path.normpath(os.path.dirname(link)), os.path.basename(link))
    python = {os.path.abspath(path) for path in wanted} | {
        os.path.realpath(path) for path in wanted
    }
    system = ["/usr", "/lib", "/lib64", "/lib32", "/bin", "/nix/store"]
    kept: list[str] = []
    for path in [p for p in system if os.path.exists(p)] + sorted(python, key=len):
        inside = any(path == other or path.startswith(other.rstrip("/") + "/") for other in kept)
        if path != "/" and not inside:
            kept.append(path)
    return kept
