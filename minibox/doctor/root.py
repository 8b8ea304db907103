"""ROOTFS, when one is given: looked at, and nothing in it is run."""

from __future__ import annotations

import os
import stat
import time

from minibox.doctor import report
from minibox.doctor.report import Check
from minibox.errors import KernelError, SpecError
from minibox.kernel import calls, inroot
from minibox.kernel import consts as c
from minibox.plan import ops
from minibox.record import Record
from minibox.runtime import prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from minibox.doctor.case import Case
    from minibox.doctor.report import Finding

#: an examination is quick: of a large root only a part is looked at, and said to be
MOST_FILES, MOST_SECONDS = 50_000, 0.25
#: ELF header: class (4), data (5), e_machine (18): elf(5)
MACHINES = {
    (2, 62): "x86_64", (1, 3): "i386", (2, 183): "aarch64", (1, 40): "arm", (2, 243): "riscv64",
    (2, 22): "s390x", (2, 21): "ppc64", (1, 62): "x32", (2, 258): "loongarch64",
}  # fmt: skip
RUNS = {"x86_64": ("x86_64", "i386", "x32"), "aarch64": ("aarch64", "arm")}


class Shape(Record):
    """What a walk over the files has counted."""

    files: int
    size: int
    whole: bool  # whether the walk came to its end
    setuid: int
    devices: int
    unmapped: tuple[int, ...]  # owners that have no id in a container
    unreadable: tuple[str, ...]  # paths


def directory(case: Case) -> Finding:
    """As `run` would look at it."""
    try:
        prepare.check_root(case.rootfs, ("sh",))
    except SpecError as error:
        mend = f"scripts/build-rootfs {case.rootfs}"
        if "may not be read" in error.message:
            mend = f"chmod a+rx {case.rootfs} (and every directory above it)"
        return report.missing(error.message, "no container can be made from it", mend, needed=True)
    return report.ok(f"{case.rootfs} is a root file system")


def shell(case: Case) -> Finding:
    """/bin/sh, by the root's own links: is it there, of this machine, and is its loader there?"""
    root = calls.openat(c.AT_FDCWD, case.rootfs, c.O_PATH | os.O_DIRECTORY)
    try:
        try:
            data = _head(root, "/bin/sh")
        except KernelError as error:
            return report.limited(
                f"/bin/sh: {error}", "minibox run ROOTFS without a command fails, others may work",
                "minibox run ROOTFS COMMAND",
            )  # fmt: skip
        if data[:4] != b"\x7fELF":
            return report.limited("/bin/sh is no ELF program", "it may not run", "file ROOTFS/bin/sh")
        machine = _machine(data)
        own = case.host.machine
        if machine not in RUNS.get(own, (own,)):
            emulated = _emulator(machine)
            if emulated:
                return report.ok(f"/bin/sh is for {machine}, run by {emulated} (binfmt_misc)")
            return report.missing(
                f"/bin/sh is for {machine}, this machine is {own}",
                "nothing in it can be run",
                f"take a root for {own}, or: " + case.package(debian="qemu-user-static binfmt-support",
                fedora="qemu-user-static", arch="qemu-user-static-binfmt", alpine="qemu-" + machine,
                suse="qemu-linux-user"),
                needed=True,
            )  # fmt: skip
        loader = _interpreter(data)
        if loader:
            try:
                os.close(inroot.find(root, loader))
            except KernelError as error:
                return report.missing(
                    f"/bin/sh needs {loader}: {error}", "it cannot be run (ENOENT)",
                    "the root is not whole: make or unpack it anew", needed=True,
                )  # fmt: skip
        return report.ok(f"/bin/sh is for {machine}, {f'loaded by {loader}' if loader else 'static'}")
    finally:
        os.close(root)


def _head(root: int, path: str) -> bytes:
    fd = calls.openat2(root, path, os.O_RDONLY | os.O_NONBLOCK, inroot.IN_ROOT)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise KernelError(22, "openat2", (path, "not a regular file"))
        return os.pread(fd, 65536, 0)
    finally:
        os.close(fd)


def _order(data: bytes) -> str:
    return "big" if data[5] == 2 else "little"


def _number(data: bytes, place: int, size: int) -> int:
    return int.from_bytes(data[place : place + size], "big" if data[5] == 2 else "little")


def _machine(data: bytes) -> str:
    number = _number(data, 18, 2)
    name = MACHINES.get((data[4], number), f"machine {number}")
    return f"{name}le" if name == "ppc64" and _order(data) == "little" else name


def _interpreter(data: bytes) -> str:
    """PT_INTERP of the program headers, "" in a static program: elf(5)."""
    wide = data[4] == 2
    start, size, count = (
        (_number(data, 32, 8), _number(data, 54, 2), _number(data, 56, 2))
        if wide
        else (_number(data, 28, 4), _number(data, 42, 2), _number(data, 44, 2))
    )
    for index in range(count):
        header = start + index * size
        if _number(data, header, 4) == 3:
            offset = _number(data, header + 8, 8) if wide else _number(data, header + 4, 4)
            length = _number(data, header + 32, 8) if wide else _number(data, header + 16, 4)
            return os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
    return ""


def _emulator(machine: str) -> str:
    """The interpreter that binfmt_misc has for a machine, ""."""
    try:
        lines = calls.read_file(f"/proc/sys/fs/binfmt_misc/qemu-{machine}").splitlines()
    except KernelError:
        return ""
    return next((line.split()[1] for line in lines if line.startswith("interpreter ")), "")


# --- its files -----------------------------------------------------------------------------------------


def walk(case: Case) -> Shape:
    """Count, for a while."""
    end = time.monotonic() + MOST_SECONDS
    files = size = setuid = devices = 0
    unreadable: list[str] = []
    unmapped: set[int] = set()
    whole, owned = True, _mapped(case)
    for path, status, readable in _entries(case.rootfs):
        if files >= MOST_FILES or (files % 256 == 0 and time.monotonic() > end):
            whole = False
            break
        files += 1
        if not readable:
            unreadable.append(path.removeprefix(case.rootfs))
        if status is None:
            continue
        size += status.st_blocks * 512
        setuid += stat.S_ISREG(status.st_mode) and bool(status.st_mode & (stat.S_ISUID | stat.S_ISGID))
        devices += stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
        for number in (status.st_uid, status.st_gid):
            if not any(first <= number < first + count for first, count in owned):
                unmapped.add(number)
    return Shape(
        files=files,
        size=size,
        whole=whole,
        setuid=setuid,
        devices=devices,
        unmapped=tuple(sorted(unmapped)),
        unreadable=tuple(unreadable),
    )


def _entries(top: str) -> Iterator[tuple[str, os.stat_result | None, bool]]:
    """(path, status, may the caller read it) of everything below; links are not followed."""
    waiting = [top]
    while waiting:
        path = waiting.pop()
        try:
            listed = os.scandir(path)
        except OSError:
            yield path, None, False
            continue
        with listed:
            for entry in listed:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    yield entry.path, None, False
                    continue
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(entry.path)
                    yield entry.path, status, True
                elif stat.S_ISREG(status.st_mode):
                    yield entry.path, status, os.access(entry.path, os.R_OK)
                else:
                    yield entry.path, status, True


def _mapped(case: Case) -> list[tuple[int, int]]:
    """The owners on disk that have an id inside: as root the first ones, by the mount's map; an ordinary
    user's own, and those of the range."""
    if case.is_root:
        return [(0, case.maps[0][2])]
    found = [(case.euid, 1), (case.egid, 1)]
    if case.host.newuidmap and case.host.newgidmap:
        found += [*case.host.subuid[:1], *case.host.subgid[:1]]
    return found


def layer(case: Case) -> Finding:
    """Whether the default Plan shows it, or copies it."""
    try:
        plan = prepare.container(case.store, "doctor", case.rootfs, ("sh",), {}, reserve=False).plan
    except SpecError as error:
        return report.missing(str(error), "no container can be made from it", "", needed=True)
    if not any(isinstance(step.op, ops.CopyRoot) for step in plan):
        shown = "through an id map" if case.is_root else "as it is"
        return report.ok(f"shown {shown}, below a private layer: {len(plan.steps)} steps")
    found = case.shape
    more = "" if found.whole else "more than "
    return report.limited(
        f"copied for each container: {more}{found.files} files, {found.size >> 20} MiB",
        "slow starts, and as much disk again",
        "see mount.overlay and mount.idmapped",
    )


def owners(case: Case) -> Finding:
    """Do the owners of its files have ids inside, and may they be read?"""
    found = case.shape
    part = "" if found.whole else f" (of the first {found.files} files)"
    if found.unreadable:
        more = f" and {len(found.unreadable) - 3} more" if len(found.unreadable) > 3 else ""
        return report.limited(
            f"{case.who} cannot read {' '.join(found.unreadable[:3])}{more}{part}",
            "nor can a container's root",
            case.as_root(f"cp -a {case.rootfs} DIR")
            + ("" if case.is_root else f" && sudo chown -R {case.euid}:{case.egid} DIR"),
        )
    if found.unmapped:
        shown = " ".join(map(str, found.unmapped[:4])) + (" ..." if len(found.unmapped) > 4 else "")
        mend = (
            f"scripts/build-rootfs DIR makes one that is yours; or copy this one: cp -r {case.rootfs} DIR"
            if not case.is_root
            else f"chown -R 0:0 {case.rootfs}"
        )
        return report.limited(
            f"files of ids that a container does not have: {shown}{part}",
            "they belong to nobody inside, and cannot be changed",
            mend,
        )
    return report.ok(f"{found.files} files, {found.size >> 20} MiB, each of an id that a container has{part}")


def special(case: Case) -> Finding:
    """Set-uid files and device nodes, which do nothing in a default container."""
    found = case.shape
    part = "" if found.whole else f" (of the first {found.files} files)"
    return report.ok(
        f"{found.setuid} set-uid or set-gid files (no effect without --allow-new-privs), "
        f"{found.devices} device nodes (no effect: nodev){part}"
    )


CHECKS = (
    Check("root.directory", directory, needed=True),
    Check("root.shell", shell),
    Check("root.layer", layer),
    Check("root.owners", owners),
    Check("root.special", special),
)
