"""minibox's own profile: at least as strict as Docker's everywhere, whole, and good enough for real
programs."""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyseccomp
import pytest

from minibox.seccomp import decode, default, syscalls
from minibox.seccomp.compile import compile_profile
from minibox.seccomp.profile import CAPABILITIES, Profile, decide, resolve

DOCKERS = Path(__file__).parents[3] / "shared" / "moby" / "seccomp-default.json"
RELEASE = "6.18.0"

# What Docker gives to a container that asks for nothing.
FOURTEEN = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
]
CAPABILITY_SETS = {
    "none": [],
    "fourteen": FOURTEEN,
    "all": list(CAPABILITIES),
    "sys_admin": ["CAP_SYS_ADMIN"],
}

ALLOW = decode.SECCOMP_RET_ALLOW
ERRNO = decode.SECCOMP_RET_ERRNO
X86_64 = decode.AUDIT_ARCH_X86_64
UNKNOWN_TO_ANYBODY = (470, 512, 547, 600, 1000)

pytestmark = pytest.mark.skipif(
    pyseccomp.system_arch() != pyseccomp.Arch.X86_64, reason="the numbers in these tests are those of x86_64"
)
needs_dockers = pytest.mark.skipif(
    not DOCKERS.exists(), reason=f"Docker's profile, to compare with, is not at {DOCKERS}"
)


def mask(names: list[str]) -> int:
    return sum(1 << CAPABILITIES.index(name) for name in names)


def resolved(document: Any, names: list[str], arch: str = "x86_64") -> Profile:
    return resolve(document, capabilities=mask(names), arch=arch, release=RELEASE)


def own(names: list[str], arch: str = "x86_64") -> Profile:
    return resolved(default.document(), names, arch)


def dockers(names: list[str], arch: str = "x86_64") -> Profile:
    return resolved(json.loads(DOCKERS.read_text()), names, arch)


def bpf_of(profile: Profile) -> bytes:
    return compile_profile(profile, strict=True).bpf


def result(bpf: bytes, nr: int, args: tuple[int, ...] = (0,) * 6, arch: int = X86_64) -> int:
    action, data = decode.evaluate(bpf, arch, nr, args)
    return action | data


def samples(name: str) -> Iterator[tuple[int, ...]]:
    """Registers that tell the conditions of either profile apart, with and without something in
    the upper half."""
    values = {
        "ioctl": (
            1,
            [0, 0x5401, 0x5411, 0x5412, 0x5413, 0x541B, 0x541C, 0x541D, 0x80045430, 0x80045412, 0xFFFFFFFF],
        ),
        "socket": (0, list(range(50))),
        "socketpair": (0, list(range(50))),
        "personality": (0, [0, 1, 8, 0x20000, 0x20008, 0x40000, 0x400000, 0xFFFFFFFE, 0xFFFFFFFF]),
        "clone": (0, [0, 17, 0x3D0F00, 0x80, *(1 << bit for bit in range(32)), 0x7E020000]),
    }
    position, lows = values.get(name, (0, [0, 1]))
    for low, high in itertools.product(lows, (0, 1, 0x80000000, 0xFFFFFFFF)):
        args = [0] * 6
        args[position] = high << 32 | low
        yield tuple(args)


def laxer(ours: bytes, theirs: bytes, table: dict[str, int], arch: int = X86_64) -> tuple[set[str], set[str]]:
    """The names for which our filter allows more, and those for which it allows less."""
    more, less = set(), set()
    for name, nr in table.items():
        for args in samples(name):
            we, they = (result(bpf, nr, args, arch) == ALLOW for bpf in (ours, theirs))
            if we and not they:
                more.add(name)
            if they and not we:
                less.add(name)
    return more, less


def differences(capability: str | None) -> set[str]:
    """The names in the table of differences that apply to a container with this one capability."""
    return {
        name
        for names, when, _ in default.DIFFERENCES
        if when in ("", capability or "")
        for name in names.split()
    }


@needs_dockers
@pytest.mark.parametrize("caps", CAPABILITY_SETS.values(), ids=CAPABILITY_SETS)
def test_nothing_is_allowed_that_docker_refuses(caps: list[str]) -> None:
    ours, theirs = bpf_of(own(caps)), compile_profile(dockers(caps)).bpf
    more, less = laxer(ours, theirs, syscalls.X86_64)
    assert more == set()
    assert less <= {name for names, *_ in default.DIFFERENCES for name in names.split()}
    for nr in range(601):
        if result(theirs, nr) != ALLOW:
            assert result(ours, nr) != ALLOW, nr


@needs_dockers
@pytest.mark.parametrize("caps", CAPABILITY_SETS.values(), ids=CAPABILITY_SETS)
def test_the_same_on_aarch64(caps: list[str]) -> None:
    ours, theirs = bpf_of(own(caps, "aarch64")), compile_profile(dockers(caps, "aarch64")).bpf
    more, _ = laxer(ours, theirs, syscalls.AARCH64, decode.AUDIT_ARCH_AARCH64)
    assert more == set()


@needs_dockers
@pytest.mark.parametrize("arch", ["armv7l", "i686", "riscv64", "s390x", "ppc64le"])
@pytest.mark.parametrize("caps", CAPABILITY_SETS.values(), ids=CAPABILITY_SETS)
def test_the_same_as_written_for_other_machines(caps: list[str], arch: str) -> None:
    ours, theirs = own(caps, arch), dockers(caps, arch)
    names = {*ours.named, *theirs.named}
    for name in names:
        for args in samples(name):
            if decide(ours, name, args).result == ALLOW:
                assert decide(theirs, name, args).result == ALLOW, name


@needs_dockers
@pytest.mark.parametrize("capability", [None, *CAPABILITIES])
def test_the_differences_are_those_listed(capability: str | None) -> None:
    caps = [capability] if capability else []
    ours, theirs = own(caps), dockers(caps)
    found = set()
    for name in syscalls.X86_64:
        for args in samples(name):
            if decide(theirs, name, args).result == ALLOW != decide(ours, name, args).result:
                found.add(name)
                break
    assert found == differences(capability)


@needs_dockers
def test_the_profile_is_not_dockers_text() -> None:
    theirs = [set(group["names"]) for group in json.loads(DOCKERS.read_text())["syscalls"]]
    ours = [set(group["names"]) for group in default.document()["syscalls"] if len(group["names"]) > 8]
    assert all(one not in theirs for one in ours)


def test_differences_name_real_calls_and_capabilities() -> None:
    for names, when, reason in default.DIFFERENCES:
        assert all(name in syscalls.X86_64 for name in names.split())
        assert when == "" or when in CAPABILITIES
        assert reason


def test_every_call_of_the_tables_has_a_purpose_with_a_reason() -> None:
    groups = default.document()["syscalls"]
    named = {name for group in groups for name in group["names"]}
    assert set(syscalls.X86_64) - named == set()
    assert set(syscalls.AARCH64) - named == set()
    assert all(len(group["note"]) > 4 and group["note"].endswith(".") for group in groups)


def test_no_call_is_allowed_for_two_reasons() -> None:
    seen: dict[str, int] = {}
    for group in default.document()["syscalls"]:
        if not any(key in group for key in ("args", "includes", "excludes")):
            for name in group["names"]:
                seen[name] = seen.get(name, 0) + 1
    assert {name for name, count in seen.items() if count > 1} == set()


def test_the_document_is_the_callers_own() -> None:
    default.document()["syscalls"][0]["names"].append("reboot")
    assert "reboot" not in default.document()["syscalls"][0]["names"]


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_every_name_is_known(arch: str) -> None:
    assert compile_profile(own([], arch), strict=True).warnings == ()


@pytest.fixture(scope="module")
def filter_of_fourteen() -> bytes:
    return bpf_of(own(FOURTEEN))


def test_other_abis_are_refused(filter_of_fourteen: bytes) -> None:
    for nr in range(601):
        assert result(filter_of_fourteen, nr, arch=decode.AUDIT_ARCH_I386) == decode.SECCOMP_RET_KILL_PROCESS
        assert (
            result(filter_of_fourteen, nr, arch=decode.AUDIT_ARCH_AARCH64) == decode.SECCOMP_RET_KILL_PROCESS
        )
        assert result(filter_of_fourteen, 0x40000000 | nr) == ERRNO | errno.ENOSYS
    for nr in (0x40000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        assert result(filter_of_fourteen, nr) == ERRNO | errno.ENOSYS


def test_unknown_numbers_are_enosys_and_known_ones_are_not(filter_of_fourteen: bytes) -> None:
    assert all(result(filter_of_fourteen, nr) == ERRNO | errno.ENOSYS for nr in UNKNOWN_TO_ANYBODY)
    absent = {nr for nr in syscalls.X86_64.values() if result(filter_of_fourteen, nr) == ERRNO | errno.ENOSYS}
    names = {syscalls.name("x86_64", nr) for nr in absent}
    assert {"clone3", "file_getattr", "file_setattr", "open_tree_attr", "uselib"} <= names
    assert not names & {"mount", "io_uring_setup", "add_key", "bpf", "unshare", "userfaultfd", "keyctl"}


@pytest.mark.parametrize(
    "name",
    [
        "add_key",
        "request_key",
        "keyctl",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "userfaultfd",
        "bpf",
        "perf_event_open",
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "delete_module",
        "open_by_handle_at",
        "unshare",
        "setns",
        "mount",
        "umount2",
        "pivot_root",
        "move_mount",
        "open_tree",
        "fsopen",
        "fsmount",
        "fsconfig",
        "mount_setattr",
        "swapon",
        "swapoff",
        "reboot",
        "iopl",
        "ioperm",
        "modify_ldt",
        "acct",
        "quotactl",
        "kcmp",
        "pidfd_getfd",
        "process_madvise",
        "sethostname",
        "settimeofday",
        "syslog",
        "vhangup",
    ],
)
def test_what_must_be_refused_is_eperm(filter_of_fourteen: bytes, name: str) -> None:
    assert result(filter_of_fourteen, syscalls.X86_64[name]) == ERRNO | errno.EPERM


@pytest.mark.parametrize(
    "name", ["io_uring_setup", "userfaultfd", "add_key", "keyctl", "open_by_handle_at", "kexec_load"]
)
def test_no_capability_unlocks(name: str) -> None:
    bpf = bpf_of(own(list(CAPABILITIES)))
    assert result(bpf, syscalls.X86_64[name]) == ERRNO | errno.EPERM


@pytest.mark.parametrize("request_number", [0x5412, 0x541C])
@pytest.mark.parametrize("caps", [[], FOURTEEN, list(CAPABILITIES)], ids=["none", "fourteen", "all"])
def test_input_into_the_terminal_is_refused_whatever_the_upper_half(
    request_number: int, caps: list[str]
) -> None:
    bpf = bpf_of(own(caps))
    for high in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        args = (0, high << 32 | request_number, 0, 0, 0, 0)
        assert result(bpf, 16, args) == ERRNO | errno.EPERM
        for other in (request_number - 1, request_number + 1, request_number | 1 << 31):
            assert result(bpf, 16, (0, high << 32 | other, 0, 0, 0, 0)) == ALLOW


def test_clone_takes_no_namespace_flag(filter_of_fourteen: bytes) -> None:
    namespaces = {0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000}
    for bit in range(32):
        for high in (0, 1, 0xFFFFFFFF):
            allowed = result(filter_of_fourteen, 56, (high << 32 | 1 << bit, 0, 0, 0, 0, 0)) == ALLOW
            assert allowed is (1 << bit not in namespaces), hex(1 << bit)
    assert result(filter_of_fourteen, 435) == ERRNO | errno.ENOSYS


def test_socket_takes_the_families_that_programs_use(filter_of_fourteen: bytes) -> None:
    def families(bpf: bytes, nr: int) -> set[int]:
        return {family for family in range(64) if result(bpf, nr, (family, 0, 0, 0, 0, 0)) == ALLOW}

    assert families(filter_of_fourteen, 41) == {1, 2, 10, 16}
    assert families(filter_of_fourteen, 53) == {1}
    assert families(bpf_of(own(["CAP_NET_ADMIN", "CAP_NET_RAW"])), 41) == {1, 2, 10, 16, 17}
    # A 64-bit caller may leave anything in the upper half of an int; the kernel does not look there.
    assert result(filter_of_fourteen, 41, (1 << 32 | 40, 0, 0, 0, 0, 0)) == ERRNO | errno.EPERM
    assert result(filter_of_fourteen, 41, (1 << 32 | 2, 0, 0, 0, 0, 0)) == ALLOW


def test_personality_takes_five_values(filter_of_fourteen: bytes) -> None:
    for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert result(filter_of_fourteen, 135, (value, 0, 0, 0, 0, 0)) == ALLOW
    for value in (0x0400000, 0x40000, 1, 1 << 32):
        assert result(filter_of_fourteen, 135, (value, 0, 0, 0, 0, 0)) == ERRNO | errno.EPERM


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ("CAP_SYS_ADMIN", "mount"), ("CAP_SYS_ADMIN", "unshare"), ("CAP_SYS_ADMIN", "clone3"),
        ("CAP_SYS_PTRACE", "kcmp"), ("CAP_SYS_CHROOT", "chroot"), ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_SYS_BOOT", "reboot"), ("CAP_SYS_NICE", "mbind"), ("CAP_SYS_MODULE", "finit_module"),
        ("CAP_SYSLOG", "syslog"), ("CAP_BPF", "bpf"), ("CAP_PERFMON", "perf_event_open"),
        ("CAP_SYS_RAWIO", "iopl"), ("CAP_SYS_PACCT", "acct"), ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ],
)  # fmt: skip
def test_a_capability_unlocks_its_calls_and_no_other_does(capability: str, name: str) -> None:
    assert decide(own([capability]), name).result == ALLOW
    others = [cap for cap in CAPABILITIES if cap != capability]
    assert decide(own(others), name).result != ALLOW


def test_ptrace_needs_a_capability_on_kernels_where_it_steps_round_filters() -> None:
    for release, allowed in (("4.7.0", False), ("4.8.0", True), ("6.1.0", True)):
        profile = resolve(default.document(), capabilities=0, arch="x86_64", release=release)
        assert (decide(profile, "ptrace").result == ALLOW) is allowed


# ---- the filter loaded into the running kernel


libc = ctypes.CDLL(None, use_errno=True)


def install(bpf: bytes) -> None:
    """Load the filter into this process, by prctl(2) so that nothing of what is tested is used to
    load it."""
    buffer = ctypes.create_string_buffer(bpf, len(bpf))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(bpf) // 8, ctypes.addressof(buffer)))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(program)), 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


def in_child(bpf: bytes | None, call: Callable[[], int]) -> int:
    """What the call gives in a child with the filter (or none): 0 or an errno."""
    pid = os.fork()
    if pid == 0:
        code = 250
        try:
            if bpf is not None:
                install(bpf)
            code = 0 if call() >= 0 else ctypes.get_errno()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def raw(nr: int, *args: int) -> Callable[[], int]:
    registers = [ctypes.c_ulong(arg) for arg in (*args, *[0] * (6 - len(args)))]

    def call() -> int:
        ctypes.set_errno(0)
        return int(libc.syscall(ctypes.c_long(nr), *registers))

    return call


_io_uring_params = ctypes.create_string_buffer(120)
_pair = ctypes.create_string_buffer(8)
_key_type, _key_name, _key_data = (
    ctypes.create_string_buffer(text) for text in (b"user", b"minibox-test", b"x")
)
_PROCESS_KEYRING = 0xFFFFFFFFFFFFFFFE


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        pytest.param(raw(16, 2**64 - 1, 0x5412, 0), errno.EPERM, id="TIOCSTI"),
        pytest.param(raw(16, 2**64 - 1, 0x1_0000_5412, 0), errno.EPERM, id="TIOCSTI with an upper half"),
        pytest.param(raw(16, 2**64 - 1, 0x541C, 0), errno.EPERM, id="TIOCLINUX"),
        pytest.param(raw(425, 1, ctypes.addressof(_io_uring_params)), errno.EPERM, id="io_uring_setup"),
        pytest.param(raw(435, 0, 0), errno.ENOSYS, id="clone3"),
        pytest.param(raw(272, 0x10000000), errno.EPERM, id="unshare NEWUSER"),
        pytest.param(raw(272, 0x80), errno.EPERM, id="unshare NEWTIME"),
        pytest.param(raw(323, 1), errno.EPERM, id="userfaultfd user mode only"),
        pytest.param(raw(41, 40, 1, 0), errno.EPERM, id="AF_VSOCK"),
        pytest.param(raw(41, 38, 5, 0), errno.EPERM, id="AF_ALG"),
        pytest.param(raw(41, 17, 3, 0), errno.EPERM, id="AF_PACKET"),
        pytest.param(raw(53, 16, 3, 0, ctypes.addressof(_pair)), errno.EPERM, id="socketpair of netlink"),
        pytest.param(
            raw(248, ctypes.addressof(_key_type), ctypes.addressof(_key_name), ctypes.addressof(_key_data), 1,
                _PROCESS_KEYRING),
            errno.EPERM, id="add_key",
        ),
        pytest.param(raw(250, 0, _PROCESS_KEYRING, 1), errno.EPERM, id="keyctl"),
        pytest.param(raw(135, 0x0400000), errno.EPERM, id="personality READ_IMPLIES_EXEC"),
        pytest.param(raw(0x40000000 | 39), errno.ENOSYS, id="getpid of x32"),
        pytest.param(raw(470), errno.ENOSYS, id="a number without a call"),
    ],
)  # fmt: skip
def test_the_kernel_refuses(filter_of_fourteen: bytes, call: Callable[[], int], wanted: int) -> None:
    assert in_child(filter_of_fourteen, call) == wanted


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(raw(39), id="getpid"),
        pytest.param(raw(41, 1, 1, 0), id="AF_UNIX"),
        pytest.param(raw(41, 2, 1, 0), id="AF_INET"),
        pytest.param(raw(41, 16, 3, 0), id="AF_NETLINK"),
        pytest.param(raw(53, 1, 1, 0, ctypes.addressof(_pair)), id="socketpair"),
        pytest.param(raw(135, 0xFFFFFFFF), id="personality"),
    ],
)
def test_the_kernel_allows(filter_of_fourteen: bytes, call: Callable[[], int]) -> None:
    assert in_child(filter_of_fourteen, call) == 0


@pytest.mark.parametrize(
    ("call", "without"),
    [
        pytest.param(raw(16, 2**64 - 1, 0x5412, 0), {errno.EBADF}, id="TIOCSTI"),
        pytest.param(raw(16, 2**64 - 1, 0x1_0000_5412, 0), {errno.EBADF}, id="TIOCSTI with an upper half"),
        pytest.param(raw(435, 0, 0), {errno.EINVAL, errno.EFAULT}, id="clone3"),
        pytest.param(raw(135, 0x0400000), {0}, id="personality READ_IMPLIES_EXEC"),
        pytest.param(
            raw(53, 16, 3, 0, ctypes.addressof(_pair)), {errno.EOPNOTSUPP}, id="socketpair of netlink"
        ),
    ],
)
def test_it_is_the_filter_that_refuses(call: Callable[[], int], without: set[int]) -> None:
    assert in_child(None, call) in without


INT80 = r"""
int main(void) {
    long pid;
    __asm__ volatile("int $0x80" : "=a"(pid) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
    return pid > 0 ? 0 : 1;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, to make a call by int $0x80")
def test_a_call_by_the_i386_entry_kills(filter_of_fourteen: bytes, tmp_path: Path) -> None:
    program = tmp_path / "int80"
    subprocess.run(["gcc", "-o", program, "-x", "c", "-"], input=INT80, text=True, check=True)
    unfiltered = subprocess.run([program]).returncode
    if unfiltered == -signal.SIGSEGV:
        pytest.skip("the kernel has no i386 entry (CONFIG_IA32_EMULATION)")
    assert unfiltered == 0
    filtered = subprocess.run([program], preexec_fn=lambda: install(filter_of_fourteen))
    assert filtered.returncode == -signal.SIGSYS


PYTHON = """
import concurrent.futures, multiprocessing, os, signal, socket, ssl, subprocess, tempfile, threading, time
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert sum(pool.map(lambda n: n * n, range(100))) == 328350
assert subprocess.run(["true"]).returncode == 0
assert subprocess.run(["sh", "-c", "echo x | cat"], capture_output=True).stdout == b"x\\n"
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
socket.socketpair()
socket.if_nameindex()
with tempfile.NamedTemporaryFile() as file:
    os.sendfile(file.fileno(), os.open("/etc/passwd", os.O_RDONLY), 0, 10)
    os.chmod(file.name, 0o600); os.utime(file.name); os.listxattr(file.name); os.statvfs(file.name)
os.memfd_create("x"); os.eventfd(0); os.getrandom(8); os.sched_getaffinity(0); os.cpu_count()
os.pidfd_open(os.getpid())
signal.setitimer(signal.ITIMER_REAL, 5); time.sleep(0.01)
queue = multiprocessing.get_context("fork").SimpleQueue()
child = multiprocessing.get_context("fork").Process(target=queue.put, args=(7,))
child.start(); assert queue.get() == 7; child.join()
print("well")
"""


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", "for n in 1 2 3; do echo $n; done | sort -r | head -1 >/dev/null; printf well"],
        ["bash", "-c", "set -m; sleep 0.01 & wait; x=$(ls -l / | wc -l); [ $x -gt 3 ] && printf well"],
        [sys.executable, "-c", PYTHON],
        ["getent", "passwd", "root"],
        ["tar", "-C", "/etc", "-cf", "/dev/null", "passwd"],
        ["dpkg-query", "-W", "libc6"],
        ["apt-cache", "policy", "libc6"],
    ],
    ids=lambda command: command[0].rsplit("/", 1)[-1],
)
def test_real_programs_run(filter_of_fourteen: bytes, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    plain = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    found = subprocess.run(
        command,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        preexec_fn=lambda: install(filter_of_fourteen),
    )
    assert (found.returncode, found.stdout) == (plain.returncode, plain.stdout), found.stderr.decode()
    assert plain.returncode == 0
