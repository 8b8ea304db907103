"""Denied system calls made visible: who asked for what, and was refused.

Facts. SECCOMP_RET_ERRNO leaves no trace: the program sees EPERM and says what it likes. SECCOMP_RET_LOG
and the LOG flag tell the audit log of the machine, which is root's, limited in rate, and has numbers in it.

What this means for us. `variant` makes a filter out of a filter that notifies us where the first would answer
an errno, and is the same in all else; we note the call and answer that errno. The program sees what it would
have seen, later by the time it takes us. An allowed call costs what it did. ENOSYS is left as it is:
it is how libc finds out which calls there are (clone3, at the start of each thread), and no denial.

What a program can notice all the same: a signal that comes before we have read the notification ends the call
with EINTR if its handler is without SA_RESTART; and a filter of its own cannot have a listener (EBUSY),
since there is one for all filters of a process.
"""

from __future__ import annotations

import errno
import os

from minibox.record import Record
from minibox.seccomp import decode
from minibox.seccomp.notify import Gone, NotifyError, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_KEPT = 1000
_LONGEST = 120

# What the registers of a call hold: s a string's address, d a number with a sign, x anything else. Of those
# that profiles refuse; a call that is not here is shown with all six.
_SIGNATURE_TEXT = """
    acct:s add_key:ssxxd bpf:dxx chroot:s clock_adjtime:dx clock_settime:dx clone:xxxxx clone3:xx
    create_module:sx delete_module:sx fanotify_init:xx finit_module:dsx fsconfig:dxssd fsmount:dxx fsopen:sx
    fspick:dsx get_mempolicy:xxxxx init_module:xxs io_uring_enter:dxxxxx io_uring_register:dxxx
    io_uring_setup:xx ioctl:dxx ioperm:xxd iopl:d kcmp:ddxxx kexec_file_load:ddxsx kexec_load:xxxx
    keyctl:dxxxx listmount:xxxx lookup_dcookie:xxx mbind:xxxxxx migrate_pages:dxxx modify_ldt:dxx
    mount:sssxx mount_setattr:dsxxx move_mount:dsdsx move_pages:dxxxxx name_to_handle_at:dsxxx nfsservctl:xxx
    open:sxx open_by_handle_at:dxx open_tree:dsx openat:dsxx perf_event_open:xdddx personality:x
    pidfd_getfd:ddx pivot_root:ss process_madvise:dxxxx process_vm_readv:dxxxxx process_vm_writev:dxxxxx
    ptrace:xdxx quotactl:xsdx quotactl_fd:dxdx reboot:xxxx request_key:sssd set_mempolicy:xxx
    set_mempolicy_home_node:xxxx setdomainname:sx sethostname:sx setns:dx settimeofday:xx socket:xxd
    socketpair:xxdx stime:x swapoff:s swapon:sx sysfs:dxx syslog:dxx umount2:sx unshare:x uselib:s
    userfaultfd:x ustat:xx vhangup: mknod:sxx mknodat:dsxx chmod:sx fchmodat:dsx chown:sdd fchownat:dsddx
    mkdir:sx mkdirat:dsx unlink:s unlinkat:dsx rmdir:s rename:ss link:ss symlink:ss execve:sxx setuid:d
    setgid:d getpid: getuid: read:dxx write:dxx kill:dd ptrace:xdxx sethostname:sx getcwd:xx connect:dxx
"""
_SIGNATURES = dict(entry.split(":") for entry in _SIGNATURE_TEXT.split())


class Denial(Record):
    """A call that the filter refused.

    `syscall` is its name, `args` are its registers, `call` both as text with the strings read from memory;
    `errno` is what the program got; `pid` its process inside and `outside` on the host (0: unknown),
    `comm` its name; `count` says how often.
    """

    syscall: str
    args: tuple[int, ...]
    call: str
    errno: int
    pid: int
    outside: int
    comm: str
    count: int = 1

    def __str__(self) -> str:
        result = errno.errorcode.get(self.errno, str(self.errno))
        return f"{self.call} = {result}  by {self.comm}, pid {self.pid} (outside: {self.outside})"


def variant(bpf: bytes, *, everything: bool = False) -> bytes:
    """The filter that notifies where `bpf` answers an errno; with `everything` ENOSYS too."""
    changed = []
    for one in decode.unpack(bpf):
        denies = one.code == 0x06 and one.k & decode.SECCOMP_RET_ACTION_FULL == decode.SECCOMP_RET_ERRNO
        if denies and (everything or one.k & decode.SECCOMP_RET_DATA != errno.ENOSYS):
            one = one._replace(k=decode.SECCOMP_RET_USER_NOTIF)
        changed.append(one)
    return decode.pack(changed)


class Denials:
    """Collects denials; tells each to `report` the first time, with a reason by `explain`."""

    def __init__(
        self,
        report: Callable[[str], None] | None = None,
        explain: Callable[[str], str] | None = None,
    ) -> None:
        self._report = report
        self._explain = explain
        self._found: dict[tuple[str, str, int], Denial] = {}
        self._fresh: list[Denial] = []
        self._explained: set[str] = set()
        self.left_out = 0

    def note(self, request: Request, number: int) -> None:
        """Remember a request that is about to be refused with errno `number`."""
        comm, pid, outside = process(request)
        call = call_text(request)
        key = (comm, call, number)
        known = self._found.get(key)
        if known is not None:
            self._found[key] = known.replace(count=known.count + 1)
        elif len(self._found) >= _MOST_KEPT:
            self.left_out += 1
        else:
            made = Denial(
                syscall=request.name,
                args=request.args,
                call=call,
                errno=number,
                pid=pid,
                outside=outside,
                comm=comm,
            )
            self._found[key] = made
            self._fresh.append(made)

    def tell(self, _request: Request | None = None) -> None:
        """Report what is new; the program has its answer by now."""
        fresh, self._fresh = self._fresh, []
        for one in fresh:
            if self._report is None:
                continue
            self._report(f"denied: {one}")
            if self._explain is not None and one.syscall not in self._explained:
                self._explained.add(one.syscall)
                reason = self._explain(one.syscall)
                if reason:
                    self._report(f"  why: {reason}")

    def summary(self) -> None:
        """Report how often, at the end."""
        self.tell()
        if self._report is None:
            return
        for one in self._found.values():
            if one.count > 1:
                self._report(f"denied {one.count} times: {one.call}  by {one.comm}")
        if self.left_out:
            self._report(f"denied besides: {self.left_out} more calls")

    @property
    def found(self) -> tuple[Denial, ...]:
        """What was denied, in order; at most 1,000 different ones."""
        return tuple(self._found.values())


def process(request: Request) -> tuple[str, int, int]:
    """(name, pid in its own namespace, pid here) of the process that asks."""
    fields = {}
    try:
        with open(f"/proc/{request.pid}/status", "rb") as file:
            for line in file:
                name, _, value = line.partition(b":")
                fields[name] = value.strip()
        request.check()
    except (OSError, Gone):
        return "?", 0, request.pid
    inside = fields.get(b"NStgid", fields.get(b"Tgid", b"0")).split()[-1]
    comm = fields.get(b"Name", b"?").decode("utf-8", "replace")
    return _plain(comm), int(inside), int(fields.get(b"Tgid", b"0"))


def call_text(request: Request) -> str:
    """The call with its arguments as a person reads them, strings included where they can be read."""
    name = request.name
    kinds = _SIGNATURES.get(name, "xxxxxx")
    shown = (_argument(request, kind, value) for kind, value in zip(kinds, request.args, strict=False))
    return f"{name}({', '.join(shown)})"


def _argument(request: Request, kind: str, value: int) -> str:
    if kind == "d":
        low = value & 0xFFFFFFFF
        return str(low - (1 << 32) if low & 0x80000000 else low)
    if kind == "s":
        if not value:
            return "NULL"
        try:
            text = request.read_string(value)
        except (NotifyError, OSError):
            return f"{value:#x}"
        return f'"{_plain(text[:_LONGEST])}"' + ("..." if len(text) > _LONGEST else "")
    return f"{value:#x}"


def _plain(text: str) -> str:
    """Fit for a terminal: it is the container's."""
    return text if text.isprintable() and '"' not in text else ascii(text)[1:-1]


def to_stderr(text: str) -> None:
    """A line on stderr, whole; a terminal in raw mode wants the return too."""
    end = "\r\n" if os.isatty(2) else "\n"
    try:
        os.write(2, f"minibox: {text}{end}".encode("utf-8", "backslashreplace"))
    except OSError:
        pass
