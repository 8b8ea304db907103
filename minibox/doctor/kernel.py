"""The kernel: its calls, and what restricts a process."""

from __future__ import annotations

import os
import struct
import sys

from minibox.doctor import report, trial
from minibox.doctor.report import Check
from minibox.errors import KernelError, errno_name
from minibox.kernel import ask, calls, caps
from minibox.kernel import consts as c
from minibox.runtime import container
from minibox.spec import defaults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minibox.doctor.case import Case
    from minibox.doctor.report import Finding

OLDEST = (5, 12)  # mount_setattr(2), which every container's root is made with
WHOLE = (5, 19)  # overlay over an idmapped mount, so that ROOTFS need not be copied
EINVAL, ENOSYS, EFAULT, EOPNOTSUPP = 22, 38, 14, 95

# seccomp.h
FILTER_FLAGS = {
    "tsync": (1 << 0, "3.17"),
    "log": (1 << 1, "4.14"),
    "spec_allow": (1 << 2, "4.17"),
    "new_listener": (1 << 3, "5.0"),
    "tsync_esrch": (1 << 4, "5.7"),
    "wait_killable_recv": (1 << 5, "5.19"),
}
NEW_LISTENER = 1 << 3
#: "allow", as the only instruction of a filter: BPF_RET | BPF_K
ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, ask.SECCOMP_ACTIONS["allow"])

AROUND = (
    "a container or a sandbox around this one forbids it: docker run --security-opt seccomp=unconfined ..."
)
NEWER = "boot a newer kernel"


def release(case: Case) -> Finding:
    """Linux by number; what it can do is tried below."""
    found = case.host.release
    text = f"Linux {os.uname().release} on {case.host.machine}"
    if found < OLDEST:
        return report.missing(text, f"minibox needs {_dotted(OLDEST)}: mount_setattr(2)", NEWER, needed=True)
    if found < WHOLE:
        return report.limited(text, f"before {_dotted(WHOLE)} root's containers copy ROOTFS", NEWER)
    return report.ok(text)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def python(case: Case) -> Finding:
    """What runs minibox, with its own two binaries."""
    text = f"Python {sys.version.split()[0]}, {os.path.realpath(sys.executable)}"
    path = os.path.join(os.path.dirname(os.path.dirname(container.__file__)), "minibox-init")
    if not os.access(path, os.X_OK):
        return report.limited(
            f"{text}; {path} is missing",
            "no --init, no --userns host",
            "pip install --force-reinstall minibox",
        )
    return report.ok(text)


def libseccomp(case: Case) -> Finding:
    """The library that compiles filters."""
    version = ask.libseccomp_version()
    said = "libseccomp.so.2 is not there"
    try:
        import pyseccomp  # noqa: F401  (it looks for the library by itself, with ldconfig)
    except (ImportError, RuntimeError, OSError) as error:
        if version:
            return report.missing(
                f"libseccomp {version}, but pyseccomp: {error}",
                "filters that have not been compiled before cannot be had",
                "PATH=$PATH:/sbin:/usr/sbin minibox ... (it is found by ldconfig)",
            )
        said = f"{said}, or pyseccomp: {error}"
    if not version:
        return report.missing(
            said,
            "filters that have not been compiled before cannot be had: --seccomp unconfined works",
            case.package(
                debian="libseccomp2", fedora="libseccomp", arch="libseccomp", alpine="libseccomp",
                suse="libseccomp2",
            ),
        )  # fmt: skip
    return report.ok(f"libseccomp {version}")


# --- calls -----------------------------------------------------------------------------------------


def _refused(case: Case, error: KernelError, needs: tuple[int, int]) -> Finding:
    """A call that the kernel does not know, or that a filter around us refuses or says not to know."""
    mend = AROUND if case.host.release >= needs else f"Linux {_dotted(needs)} has it: {NEWER}"
    return report.missing(str(error), "no container can be made", mend, needed=True)


def _call(text: str, needs: tuple[int, int], work: Callable[[], object]) -> Callable[[Case], Finding]:
    def find(case: Case) -> Finding:
        try:
            trial.attempt(lambda: work() and None)
        except KernelError as error:
            return _refused(case, error, needs)
        return report.ok(text)

    return find


def clone3(case: Case) -> Finding:
    """A child by clone3, with its pidfd."""
    try:
        pid, pidfd = calls.clone3(0)
    except KernelError as error:
        return _refused(case, error, (5, 3))
    if pid == 0:
        os._exit(0)
    os.close(pidfd)
    os.waitpid(pid, 0)
    return report.ok("clone3(2) makes a child and its pidfd")


def _use_pidfd() -> None:
    pidfd = calls.pidfd_open(os.getpid())
    calls.pidfd_send_signal(pidfd, 0)
    os.close(pidfd)


def _use_openat2() -> None:
    os.close(calls.openat2(c.AT_FDCWD, "/..", c.O_PATH, c.RESOLVE_IN_ROOT | c.RESOLVE_NO_MAGICLINKS))


def _use_close_range() -> None:
    calls.close_range(3, 2**32 - 1, c.CLOSE_RANGE_CLOEXEC)


def _in_sandbox(step: str, text: str, needs: tuple[int, int], see: str) -> Callable[[Case], Finding]:
    """A call that has been made in the sandbox.  When it is refused, it is not the call that is wanting."""

    def find(case: Case) -> Finding:
        if not case.sandbox.tried(step):
            return not_tried(case)
        error = case.sandbox.failure(step)
        if error is None:
            return report.ok(text)
        if error.errno == ENOSYS:
            return _refused(case, error, needs)
        return report.ok(f"{text}: known, but refused here ({errno_name(error.errno)}), see {see}")

    return find


def not_tried(case: Case) -> Finding:
    """For what would have been tried in the sandbox, had that come so far."""
    return report.Finding(
        status=report.UNKNOWN, fact=f"{report.NOT_TRIED} the sandbox stopped at {case.sandbox.first_failure}"
    )


# --- seccomp, Landlock -----------------------------------------------------------------------------


def _load(flags: int) -> int:
    calls.set_no_new_privs()
    return calls.seccomp(c.SECCOMP_SET_MODE_FILTER, flags, ALLOW_ALL)


def seccomp_filter(case: Case) -> Finding:
    """A filter is loaded, in a child."""
    try:
        trial.attempt(lambda: _load(0))
    except KernelError as error:
        return report.missing(
            str(error),
            "no system call filter: containers run with --seccomp unconfined only",
            "a kernel with CONFIG_SECCOMP_FILTER",
            needed=True,
        )
    loaded = case.status("Seccomp_filters")
    around = f"; {loaded} are loaded already, by what runs this" if loaded not in ("", "0") else ""
    return report.ok(f"filters can be loaded{around}")


def seccomp_actions(case: Case) -> Finding:
    """Each action by SECCOMP_GET_ACTION_AVAIL."""
    known = [name for name, value in ask.SECCOMP_ACTIONS.items() if ask.seccomp_action_available(value)]
    lacking = [name for name in ask.SECCOMP_ACTIONS if name not in known]
    if lacking:
        return report.limited(
            f"without {' '.join(lacking)}", f"a profile that uses {' or '.join(lacking)} is refused", NEWER
        )
    return report.ok(" ".join(known))


def seccomp_flags(case: Case) -> Finding:
    """Each flag by a filter that is not there: EFAULT means that the flag is known."""

    def unknown() -> list[str]:
        found = []
        calls.set_no_new_privs()
        for name, (flag, _since) in FILTER_FLAGS.items():
            beside = NEW_LISTENER if name == "wait_killable_recv" else 0
            try:
                calls.seccomp(c.SECCOMP_SET_MODE_FILTER, flag | beside, b"")
            except KernelError as error:
                if error.errno != EFAULT:
                    found.append(name)
        return found

    lacking = trial.attempt(unknown)
    if lacking:
        return report.limited(
            f"without {', '.join(f'{name} (Linux {FILTER_FLAGS[name][1]})' for name in lacking)}",
            "a profile with these flags is refused",
            NEWER,
        )
    return report.ok(" ".join(FILTER_FLAGS))


def seccomp_notify(case: Case) -> Finding:
    """A filter with a listener."""
    try:
        trial.attempt(lambda: _load(NEW_LISTENER))
    except KernelError as error:
        mend = NEWER if error.errno == EINVAL else "a filter around this one may have the only listener"
        return report.limited(str(error), "no system call can be answered by a supervisor", mend)
    return report.ok("a filter with a listener can be loaded")


def landlock(case: Case) -> Finding:
    """The ABI that the kernel names."""
    try:
        abi = ask.landlock_abi()
    except KernelError as error:
        if error.errno == EOPNOTSUPP:
            mend = "add landlock to lsm= on the kernel's command line, and boot"
        else:
            mend = "a kernel with CONFIG_SECURITY_LANDLOCK (5.13 or newer)"
        return report.missing(str(error), "a container cannot have Landlock rules", mend)
    newest = max(ask.LANDLOCK_ABIS)
    if abi >= newest:
        return report.ok(f"ABI {abi}")
    later = ", ".join(f"{what} ({since})" for one, (since, what) in ask.LANDLOCK_ABIS.items() if one > abi)
    return report.limited(f"ABI {abi}", f"no rules for: {later}", NEWER)


# --- privileges -------------------------------------------------------------------------------------


def no_new_privs(case: Case) -> Finding:
    """The child sets it; and has the caller got it already?"""
    trial.attempt(calls.set_no_new_privs)
    if case.status("NoNewPrivs") == "1":
        consequence = "newuidmap gains nothing by being set-uid: one id in containers"
        if case.is_root:
            consequence = "set-uid programs gain nothing here, nor in containers (--allow-new-privs)"
        return report.limited(
            "set already, by what runs this", consequence, "run minibox outside of that sandbox"
        )
    return report.ok("can be set")


def bounding(case: Case) -> Finding:
    """The caller's own bounding set; a user namespace starts with a full one of its own."""
    known = (1 << case.host.last_cap + 1) - 1
    lacking = known & ~case.host.bounding
    text = f"{case.host.last_cap + 1} capabilities"
    if not lacking:
        return report.ok(f"{text}, none is lacking")
    lost = caps.names(lacking)
    fact = f"{text}, lacking {' '.join(lost[:6])}{f' and {len(lost) - 6} more' if len(lost) > 6 else ''}"
    default = lacking & defaults.CAPABILITIES
    if default:
        consequence = f"containers have less than the default fourteen: no {' '.join(caps.names(default))}"
    else:
        consequence = "--cap-add of these is refused; the default fourteen are there"
    added = " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in lost)
    added = added if len(lost) < 4 else "--privileged"
    mend = f"what started this dropped them; where that was docker: docker run {added} ..."
    return report.limited(fact, consequence, mend)


def keyring(case: Case) -> Finding:
    """A session keyring of one's own."""
    try:
        trial.attempt(calls.keyctl_join_session)
    except KernelError as error:
        return report.missing(str(error), "no container can be made", AROUND, needed=True)
    quota = case.setting("kernel/keys/maxkeys")
    return report.ok(f"a session keyring can be made (quota {quota} keys)")


def memfd(case: Case) -> Finding:
    """A sealed memory file is executed."""
    image = _init_image()
    if not image:
        return report.unneeded("minibox-init is not there to be tried")

    def work() -> None:
        fd = calls.sealed_memfd("minibox-doctor", image)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        argv, envp = calls.strings(["minibox-init", "pause", str(null)]), calls.strings([])
        error = calls.execveat(fd, "", argv, envp, c.AT_EMPTY_PATH)
        raise KernelError(error, "execveat", ("a sealed memory file",))

    noexec = case.setting("vm/memfd_noexec")
    try:
        with trial.Child(lambda _child: work()) as child:
            child.hear()  # an error, or the end of the channel that execve closes
            status = child.wait()
        if status:
            raise KernelError(5, "execveat", ("a sealed memory file", f"ended by {status}"))
    except KernelError as error:
        mend = case.as_root("sysctl -w vm.memfd_noexec=0") if noexec else AROUND
        return report.limited(f"{error}; vm.memfd_noexec={noexec}", "no --init, no --userns host", mend)
    return report.ok("a sealed memory file can be executed")


def _init_image() -> bytes:
    path = os.path.join(os.path.dirname(os.path.dirname(container.__file__)), "minibox-init")
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


CHECKS = (
    Check("kernel.release", release),
    Check("kernel.libseccomp", libseccomp),
    Check("kernel.python", python),
    Check("call.clone3", clone3),
    Check("call.pidfd", _call("pidfd_open(2), pidfd_send_signal(2)", (5, 3), _use_pidfd)),
    Check("call.openat2", _call("openat2(2) with RESOLVE_IN_ROOT", (5, 6), _use_openat2)),
    Check("call.close_range", _call("close_range(2) with CLOEXEC", (5, 11), _use_close_range)),
    Check("call.fsopen", _in_sandbox("tmpfs", "fsopen(2), fsconfig(2), fsmount(2)", (5, 2), "mount.tmpfs")),
    Check("call.open_tree", _in_sandbox("open_tree", "open_tree(2)", (5, 2), "mount.binds")),
    Check("call.move_mount", _in_sandbox("staging", "move_mount(2)", (5, 2), "mount.tmpfs")),
    Check("call.mount_setattr", _in_sandbox("private", "mount_setattr(2)", (5, 12), "mount.private")),
    Check("seccomp.filter", seccomp_filter),
    Check("seccomp.actions", seccomp_actions),
    Check("seccomp.flags", seccomp_flags),
    Check("seccomp.notify", seccomp_notify),
    Check("landlock.abi", landlock),
    Check("privs.no-new-privs", no_new_privs),
    Check("privs.bounding", bounding),
    Check("privs.keyring", keyring),
    Check("privs.memfd-exec", memfd),
)
