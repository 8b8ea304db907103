"""kernel-surface: parts of the kernel that programs do not need, by calls that would succeed."""

from __future__ import annotations

import pytest

CALLS = {
    "io_uring_setup": (425, "4", "z:120"),
    "userfaultfd": (323, "1"),  # UFFD_USER_MODE_ONLY: open to everybody
    "bpf": (321, "0", "x:02000000040000000400000001", "72"),
    "perf_event_open": (298, "z:128", "0", "-1", "-1", "0"),
    "kexec_load": (246, "0", "0", "0", "0"),
    "kexec_file_load": (320, "-1", "-1", "0", "s:", "0"),
    "init_module": (175, "z:8", "8", "s:"),
    "finit_module": (313, "0", "s:", "0"),
    "delete_module": (176, "s:nothing", "0"),
    "open_by_handle_at": (304, "0", "z:16", "0"),
    "mount": (165, "s:x", "s:/tmp", "s:tmpfs", "0", "0"),
    "fsopen": (430, "s:tmpfs", "0"),
    "open_tree": (428, "-100", "s:/", "1"),
    "pivot_root": (155, "s:/", "s:/"),
    "setns": (308, "0", "0"),
    "unshare": (272, "0x20000"),
    "swapon": (167, "s:/nothing", "0"),
    "reboot": (169, "0xfee1dead", "672274793", "0"),
    "settimeofday": (164, "0", "0"),
    "acct": (163, "0"),
    "syslog": (103, "10", "0", "0"),
    "iopl": (172, "0"),
    "modify_ldt": (154, "0", "z:16", "16"),
    "keyctl": (250, "0", "-3", "0"),
    "add_key": (248, "s:user", "s:k", "s:v", "1", "-3"),
    "request_key": (249, "s:user", "s:k", "0", "0"),
    "quotactl": (179, "0", "0", "0", "0"),
    "move_pages": (279, "0", "0", "0", "0", "0", "0"),
    "fanotify_init": (300, "0", "0"),
    "pidfd_getfd": (438, "0", "0", "0"),
}
#: those that this kernel gives to a container's root where no filter stands before them
OPEN = ("io_uring_setup", "userfaultfd", "add_key", "modify_ldt")


def script(names):
    return "; ".join(
        f"echo {one} $(/call {' '.join(map(str, CALLS[one]))})".replace("s: ", "s:'' ") for one in names
    )


def test_they_are_refused(attack):
    ended = attack.sh(script(CALLS))
    found = dict(line.split(None, 1) for line in ended.out.splitlines())
    assert found.keys() == CALLS.keys(), ended.err
    assert {name: result for name, result in found.items() if result not in ("EPERM", "ENOSYS")} == {}


def test_without_the_filter_some_are_open(attack):
    ended = attack.sh(script(OPEN), leave_out=("seccomp.load",))
    found = dict(line.split(None, 1) for line in ended.out.splitlines())
    assert all(result.startswith("ok") for result in found.values()), found


@pytest.mark.root
def test_without_a_user_namespace_they_are_refused_too(attack):
    ended = attack.sh(script(CALLS), userns="host")
    found = dict(line.split(None, 1) for line in ended.out.splitlines())
    assert {name: result for name, result in found.items() if result not in ("EPERM", "ENOSYS")} == {}
