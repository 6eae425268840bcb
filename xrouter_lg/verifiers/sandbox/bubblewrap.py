"""The sandbox's outside by bubblewrap (``bwrap``), where it is installed.

It is what Flatpak runs apps in: namespaces and the new root are made by a program that many eyes
have read, not by ours. Limits and the filter of system calls are the sandbox's own in either case.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

BOX = "/box"
"""The scratch folder inside."""
_SCRIPT = "/supervisor.py"
_DEVICES = ("null", "zero", "random", "urandom")
_USER = "1000"


def find_bubblewrap() -> str | None:
    """The path of the program; None where it is not installed."""
    return shutil.which("bwrap")


def bubblewrap_command(
    program: str,
    command: Sequence[str],
    *,
    script: str,
    visible: Sequence[str],
    work_bytes: int,
) -> list[str]:
    """``command``, which runs the Python file ``script``, wrapped.

    Inside there is no network and no other process, the folders ``visible`` and the script are
    read-only, and :data:`BOX` is all that can be written, ``work_bytes`` at most.
    """
    wrapped = [program, "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net"]
    wrapped += ["--unshare-uts", "--uid", _USER, "--gid", _USER, "--cap-drop", "ALL"]
    wrapped += ["--die-with-parent", "--hostname", "box"]
    wrapped += ["--perms", "0700", "--size", str(work_bytes), "--tmpfs", BOX]
    # First, so that an interpreter below the host's /tmp has its place in the new one.
    wrapped += ["--symlink", BOX[1:], "/tmp"]  # noqa: S108 - the sandbox's own
    for path in visible:
        wrapped += ["--ro-bind", path, path]
    wrapped += ["--ro-bind", script, _SCRIPT, "--dir", "/dev"]
    for device in _DEVICES:
        wrapped += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    wrapped += ["--proc", "/proc", "--remount-ro", "/", "--chdir", BOX, "--"]
    return [*wrapped, *(_SCRIPT if part == script else part for part in command)]
