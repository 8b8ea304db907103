"""Where minibox keeps things, the caller's limits, and what is around the caller."""

from __future__ import annotations

import os
import resource
import stat

from minibox.doctor import report, trial
from minibox.doctor.report import Check
from minibox.errors import KernelError
from minibox.kernel import calls
from minibox.kernel import consts as c
from minibox.runtime import prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minibox.doctor.case import Case
    from minibox.doctor.report import Finding

MIB = 1 << 20
LITTLE, LITTLE_FILES = 256 * MIB, 4096
#: the first inodes of procfs's namespaces: those of a machine that runs in no container
INITIAL = {"user": 4026531837, "pid": 4026531836, "cgroup": 4026531835}
MARKS = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")
PRIVATE = "holds states and locks: only its owner may enter it"


def run_directory(case: Case) -> Finding:
    """RUN is made, or is ours and private; something is written there."""
    path = case.store.run
    other = "minibox --root DIR ... with a directory of your own"
    if os.path.lexists(path):
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != case.euid:
            return report.missing(
                f"{path} is not a directory of {case.who}", f"no container can be made: it {PRIVATE}", other,
                needed=True,
            )  # fmt: skip
        if status.st_mode & 0o077:
            return report.missing(
                f"{path} has mode {status.st_mode & 0o7777:04o}",
                f"no container can be made: it {PRIVATE}",
                f"chmod 700 {path}",
                needed=True,
            )
    return _written(case, path, other)


def data_directory(case: Case) -> Finding:
    """Something is written where layers are kept."""
    return _written(case, case.store.data, "minibox --data-root DIR ... with a directory of your own")


def _written(case: Case, path: str, other: str) -> Finding:
    there = trial.existing(path)
    text = path if there == path else f"{path} (to be made in {there})"
    try:
        with trial.scratch(there) as directory:
            _write(f"{directory}/file", b"minibox doctor\n" * 4096)
    except KernelError as error:
        mend = other
        if error.errno in (28, 122):
            mend = f"df -h {there}; df -i {there}; make room there, or {other}"
        return report.missing(f"{text}: {error}", "no container can be made", mend, needed=True)
    return report.ok(f"{text} can be written to")


def _write(path: str, data: bytes) -> None:
    """All of it: on a disk that is nearly full the first write(2) is merely a short one."""
    fd = calls.openat(c.AT_FDCWD, path, os.O_CREAT | os.O_WRONLY)
    try:
        while data:
            data = data[calls.os_call("write", lambda _path, data: os.write(fd, data), path, data) :]
    except KernelError as error:
        raise KernelError(error.errno or 0, "write", (path,)) from None
    finally:
        os.close(fd)


def cache(case: Case) -> Finding:
    """Where compiled filters are kept: whoever else could write there could change a filter."""
    path = prepare.cache_directory()
    other = f"rm -rf {path}" if case.is_root else f"sudo rm -rf {path}; or set XDG_CACHE_HOME"
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return report.ok(f"{path} is made when it is needed")
    except OSError as error:
        return report.missing(f"{path}: {error.strerror}", "no filter can be loaded", other, needed=True)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != case.euid:
        return report.missing(
            f"{path} is not a directory of {case.who}", "it is not used: no filter can be loaded", other,
            needed=True,
        )  # fmt: skip
    if status.st_mode & 0o022:
        return report.missing(
            f"{path} can be written to by others", "it is not used: no filter can be loaded",
            f"chmod go-w {path}", needed=True,
        )  # fmt: skip
    return report.ok(f"{path} is private")


def space(of: str) -> Callable[[Case], Finding]:
    """Free bytes and inodes of a file system."""

    def find(case: Case) -> Finding:
        path = trial.existing(case.store.run if of == "run" else case.store.data)
        found = os.statvfs(path)
        free = found.f_bavail * found.f_frsize
        files = found.f_favail if found.f_files else None  # btrfs counts none
        fact = f"{path}: {_size(free)} free of {_size(found.f_blocks * found.f_frsize)}"
        fact += "" if files is None else f", {files} inodes"
        flag = "--root" if of == "run" else "--data-root"
        mend = f"make room there, or minibox {flag} DIR ..."
        if free < LITTLE or (files is not None and files < LITTLE_FILES):
            what = "states of containers" if of == "run" else "what containers write"
            return report.limited(fact, f"little room for {what}", mend)
        return report.ok(fact)

    return find


def _size(count: int) -> str:
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", MIB)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count >> 10} KiB"


# --- limits ------------------------------------------------------------------------------------------

#: limit -> (what is little, what follows, the option of the shell's ulimit)
LEAST = {
    "NOFILE": (256, "a container's supervisor and its streams need some dozens of files", "n"),
    "NPROC": (128, "processes of all containers of a user count, and are refused (EAGAIN)", "u"),
    "FSIZE": (64 * MIB, "larger files cannot be written, nor copied from ROOTFS", "f"),
    "AS": (512 * MIB, "minibox itself, and programs in containers, run out of addresses", "v"),
    "STACK": (MIB, "programs in containers end for want of stack", "s"),
    "MEMLOCK": (64 * 1024, "programs in containers cannot lock memory", "l"),
}


def limits(case: Case) -> Finding:
    """The caller's own limits: containers inherit them, and --ulimit goes up to the hard ones."""
    low, shown = [], []
    for name, (least, _follows, _letter) in LEAST.items():
        soft, hard = resource.getrlimit(c.RLIMITS[name])
        if name in ("NOFILE", "NPROC"):
            shown.append(f"{name.lower()} {_limit(soft)}/{_limit(hard)}")
        if soft != resource.RLIM_INFINITY and soft < least:
            low.append((name, soft, hard))
    if not low:
        return report.ok(f"{', '.join(shown)} (soft/hard), none is low")
    name, _soft, hard = low[0]
    least, follows, letter = LEAST[name]
    value = least if letter in "nu" else least >> 10
    mend = f"ulimit -S{letter} {value}"
    if hard != resource.RLIM_INFINITY and hard < least:
        mend = case.as_root(f"prlimit --pid $$ --{name.lower()}={least}:{least}")
    fact = ", ".join(f"{one.lower()} {_limit(soft)}/{_limit(hard)}" for one, soft, hard in low)
    return report.limited(f"{fact} (soft/hard)", follows, mend)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


# --- around ------------------------------------------------------------------------------------------


def is_nested(kind: str) -> bool:
    """Whether the caller's namespace of a kind is another than the machine's first."""
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino != INITIAL[kind]
    except OSError:
        return False


def nested(case: Case) -> Finding:
    """Is this a container itself?  Marks that runtimes leave, and namespaces that are not the first ones."""
    marks = [path for path in MARKS if os.path.exists(path)]
    runtime = os.environ.get("container")  # noqa: SIM112  (systemd's name for it)
    if runtime:
        marks.append(f"$container={runtime}")
    signs = [f"{kind} namespace" for kind in INITIAL if is_nested(kind)]
    if case.status("Seccomp") == "2":
        signs.append("seccomp filter")
    if not signs:
        seen = f" but {' '.join(marks)}" if marks else ""
        return report.ok(f"no sign of a container around this one{seen}")
    return report.limited(
        f"inside a container or sandbox, by its {', '.join(signs + marks)}",
        "what is refused here may be allowed outside",
        "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined "
        "--security-opt apparmor=unconfined ... for the one around, or run minibox outside",
    )


CHECKS = (
    Check("store.run", run_directory),
    Check("store.data", data_directory),
    Check("store.cache", cache),
    Check("store.run-space", space("run")),
    Check("store.data-space", space("data")),
    Check("host.limits", limits),
    Check("host.nested", nested),
)
