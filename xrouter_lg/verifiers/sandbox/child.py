"""The inside half of :mod:`xrouter_lg.verifiers.sandbox.run`: closes the doors, then becomes the
program.

Runs as a script in its own process, with the standard library only. It reads one JSON plan from
stdin, supervises the program it starts, and writes one JSON report to the report descriptor.
Order matters: namespaces first (they need a fork), then the new root, then limits, and the system
call filter last, because it forbids what the steps before it need.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
import time
from typing import Any

_NEWNS, _NEWUTS, _NEWIPC = 0x00020000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT = 1, 2, 4, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SYS_MOUNT_SETATTR = 442  # the same number on every architecture
_INNER_ID = 1000  # not 0: exec then drops every capability the new user namespace gave

# name: (x86_64, aarch64); None where the architecture never had the call.
_SYSCALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "fork": (57, None), "vfork": (58, None), "clone": (56, 220),
    "clone3": (435, 435), "io_uring_setup": (425, 425), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40),
    "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "mount_setattr": (442, 442),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "setpgid": (109, 154), "setsid": (112, 157),
    "setpriority": (141, 140), "prlimit64": (302, 261), "memfd_create": (319, 279),
    "shmget": (29, 194), "msgget": (68, 186),
}  # fmt: skip
_ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind, data)]
    _checked(
        _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]),
        f"mount {target}",
    )


def _read_only(target: str) -> None:
    """Make a mount and all below it read-only, without set-user-id and devices."""
    attributes = struct.pack("QQQQ", _MS_RDONLY | _MS_NOSUID | _MS_NODEV, 0, 0, 0)
    at_recursive, at_fdcwd = 0x8000, -100
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR, at_fdcwd, target.encode(), at_recursive, attributes, len(attributes)
    )
    _checked(result, f"read-only {target}")


def _enter_namespaces() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _checked(_libc.unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{_INNER_ID} {uid} 1"),
        ("gid_map", f"{_INNER_ID} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as stream:
            stream.write(text)


def _new_root(root: str, visible: list[str], work_bytes: int) -> None:
    """Leave for a root that holds the visible paths read-only, four devices, and /box."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    # First, so that an interpreter below the host's /tmp or /box has its place in the new one.
    os.makedirs(root + "/box")
    _mount("tmpfs", root + "/box", "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={work_bytes},mode=700")
    os.symlink("box", root + "/tmp")  # noqa: S108
    for path in visible:
        if not os.path.isdir(path):
            continue
        target = root + path
        os.makedirs(target, exist_ok=True)
        if os.path.samefile(target, root + "/box"):
            raise OSError(f"the interpreter's folder is {path}, where programs write")
        _mount(path, target, None, _MS_BIND | _MS_REC)
        _read_only(target)
    os.makedirs(root + "/dev", exist_ok=True)
    for device in ("null", "zero", "random", "urandom"):
        with open(f"{root}/dev/{device}", "w"):
            pass
        _mount(f"/dev/{device}", f"{root}/dev/{device}", None, _MS_BIND)
    os.makedirs(root + "/proc")
    # Refused where the host's /proc is partly covered, as in most containers: none then.
    with contextlib.suppress(OSError):
        _mount("proc", root + "/proc", "proc", _MS_NOSUID | _MS_NODEV)
    os.chdir(root)
    _checked(_libc.syscall(155 if platform.machine() == "x86_64" else 41, b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", _MNT_DETACH), "leave the old root")
    _mount("none", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    os.chdir("/box")


def _filter_program() -> bytes | None:
    """The seccomp filter: no sockets, no new processes, no hand on other processes or mounts.

    None on an architecture whose call numbers are not known here.
    """
    known = _ARCHES.get(platform.machine())
    if known is None:
        return None
    column, audit_arch = known
    code: list[tuple[int, int, int, int]] = []

    def put(op: int, k: int, jump_true: int = 0, jump_false: int = 0) -> None:
        code.append((op, jump_true, jump_false, k))

    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    put(load, 4)  # seccomp_data.arch
    put(equal, audit_arch, 1, 0)
    put(answer, _KILL)
    put(load, 0)  # seccomp_data.nr
    if column == 0:
        put(at_least, 0x40000000, 0, 1)  # the x32 numbers would walk around the list
        put(answer, _KILL)
    own = os.getpid()
    for name, numbers in _SYSCALLS.items():
        number = numbers[column]
        if number is None:
            continue
        if name in ("kill", "tgkill", "prlimit64"):  # on itself: abort() and getrlimit() need it
            put(equal, number, 0, 4)
            put(load, 16)  # low half of the first argument
            put(equal, 0 if name == "prlimit64" else own, 0, 1)
            put(answer, _ALLOW)
            put(answer, _ERRNO | _EPERM)
        elif name == "clone":  # threads are fine
            put(equal, number, 0, 4)
            put(load, 16)
            put(any_bit, _CLONE_THREAD, 0, 1)
            put(answer, _ALLOW)
            put(answer, _ERRNO | _EPERM)
        else:
            put(equal, number, 0, 1)
            put(answer, _ERRNO | (_ENOSYS if name == "clone3" else _EPERM))
    put(answer, _ALLOW)
    return b"".join(struct.pack("HBBI", *step) for step in code)


def _filter_calls(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    spec = Program(len(program) // 8, ctypes.addressof(buffer))
    _checked(_libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(spec), 0, 0), "seccomp")


def _limit(limits: dict[str, int]) -> None:
    wanted = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        with contextlib.suppress(ValueError, OSError):  # macOS refuses RLIMIT_AS
            resource.setrlimit(kind, (value, value))
    # Soft and hard alike: SIGKILL, which a program can't catch as it could SIGXCPU.
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_s"], limits["cpu_s"]))


def _become(plan: dict[str, Any], report: int, isolation: str) -> None:
    """The child: never returns. What fails before exec goes to the report descriptor."""
    try:
        if sys.platform == "linux":
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if isolation == "full":
            _new_root(plan["root"], plan["visible"], plan["limits"]["file_bytes"])
        else:
            os.chdir(plan["root"])
        for name, text in plan["files"].items():
            with open(name, "w", encoding="utf-8") as stream:
                stream.write(text)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        for descriptor in plan["keep"]:
            os.set_inheritable(descriptor, True)
        _limit(plan["limits"])
        if isolation != "weak":
            _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
            program = _filter_program()
            if program is None:
                raise OSError(f"no system call filter for {platform.machine()}")
            _filter_calls(program)
        home = "/box" if isolation == "full" else plan["root"]
        environment = {"HOME": home, "TMPDIR": home, **plan["environment"]}
        os.execve(plan["argv"][0], plan["argv"], environment)  # noqa: S606
    except BaseException as error:
        _tell(report, {"failure": f"{type(error).__name__}: {error}"})
    os._exit(127)


def _tell(report: int, line: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(report, json.dumps(line).encode() + b"\n")


def _waited(pid: int) -> float:
    """Seconds that a process was ready to run but had no processor; 0.0 where nobody counts."""
    with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/schedstat") as s:
        return int(s.read().split()[1]) / 1e9
    return 0.0


def main() -> None:
    report = int(sys.argv[1])
    plan = json.load(sys.stdin)
    isolation: str = plan["isolation"]
    os.set_inheritable(report, False)
    if isolation == "full":
        try:
            _enter_namespaces()
        except OSError as error:
            _tell(report, {"failure": f"the kernel gives no user namespace ({error})"})
            return
    if sys.platform == "linux":
        # Else a program could write a report of its own through /proc/<supervisor>/fd.
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    pid = os.fork()
    if pid == 0:
        _become(plan, report, isolation)
    # The program's ends of the pipes belong to the program alone, or nobody sees it end.
    for descriptor in (*plan["keep"], 0, 1, 2):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    started, waited, timed_out = time.monotonic(), 0.0, False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if not timed_out and time.monotonic() - started > plan["limits"]["wall_s"]:
            timed_out, waited = True, _waited(pid)
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    outcome = {
        "status": os.waitstatus_to_exitcode(status),
        "timed_out": timed_out,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "waited_s": waited,
        "duration_s": time.monotonic() - started,
    }
    _tell(report, outcome)


if __name__ == "__main__":
    main()
