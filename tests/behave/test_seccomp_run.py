"""The filter as a container meets it: the default, none, or a file in Docker's or the OCI's format."""

from __future__ import annotations

import json

import pytest
from conftest import compile_c
from observe import detached, parse_status, status

#: calls by number with zeros as arguments; prints the errno of each
CALL = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/syscall.h>
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        errno = 0;
        long result = syscall(atol(argv[i]), 0, 0, 0, 0, 0, 0);
        printf("%d\n", result < 0 ? errno : 0);
    }
    return 0;
}
"""
EPERM, ENOSYS = 1, 38


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    """A program for `-v`: its arguments are system call numbers."""
    place = tmp_path_factory.mktemp("tool")
    place.chmod(0o755)
    return compile_c(CALL, place / "call")


NUMBERS = {
    "getppid": 110,
    "unshare": 272,
    "bpf": 321,
    "kexec_load": 246,
    "io_uring_setup": 425,
    "userfaultfd": 323,
    "add_key": 248,
    "sync": 162,
    "getpgid": 121,
    "uname": 63,
}


def errnos(minibox, tool, *names, flags=()):
    """The errno of each call inside, by name."""
    numbers = " ".join(str(NUMBERS[name]) for name in names)
    out = minibox.inside(f"/call {numbers}", "-v", f"{tool}:/call:ro", *flags)
    return dict(zip(names, map(int, out.split()), strict=True))


def profile(tmp_path, data):
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(data))
    return file


def test_a_filter_is_on_by_default(minibox):
    assert parse_status(minibox.inside("cat /proc/self/status"))["Seccomp"] == "2"
    assert status(detached(minibox, "one"))["Seccomp_filters"] == "1"


def test_the_default_refuses_what_reaches_deep_into_the_kernel(minibox, tool):
    found = errnos(minibox, tool, "bpf", "kexec_load", "io_uring_setup", "userfaultfd", "add_key", "getppid")
    assert found.pop("getppid") == 0
    assert set(found.values()) <= {EPERM, ENOSYS}


def test_the_default_refuses_a_new_user_namespace(minibox):
    assert "refused" in minibox.inside("unshare -U true 2>&1 || echo refused")


def test_unconfined_has_no_filter_and_the_plan_says_so(minibox, rootfs):
    assert parse_status(minibox.inside("cat /proc/self/status", "--seccomp", "unconfined"))["Seccomp"] == "0"
    out = minibox("plan", "--seccomp", "unconfined", rootfs).stdout
    assert b"note: no seccomp filter" in out
    assert b"seccomp.load" not in out


def test_the_default_may_be_named(minibox, rootfs):
    assert minibox("plan", "--seccomp", "default", rootfs).stdout == minibox("plan", rootfs).stdout


DOCKER = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
    "syscalls": [
        {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
        {"names": ["sync"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
    ],
}
OCI = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 78},
                 {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}],
}  # fmt: skip


def test_a_file_in_dockers_format_is_in_force(minibox, tool, tmp_path):
    flags = ("--seccomp", profile(tmp_path, DOCKER))
    found = errnos(minibox, tool, "getppid", "sync", "getpgid", flags=flags)
    assert found == {"getppid": 77, "sync": 0, "getpgid": EPERM}


def test_conditions_on_capabilities_follow_the_containers_own(minibox, tool, tmp_path):
    flags = ("--seccomp", profile(tmp_path, DOCKER), "--cap-add", "SYS_ADMIN")
    found = errnos(minibox, tool, "getppid", "sync", "getpgid", flags=flags)
    assert found == {"getppid": 77, "sync": EPERM, "getpgid": 0}


def test_a_file_in_the_ocis_format_is_in_force(minibox, tool, tmp_path):
    found = errnos(minibox, tool, "getppid", "getpgid", flags=("--seccomp", profile(tmp_path, OCI)))
    assert found == {"getppid": 78, "getpgid": EPERM}


def test_a_condition_on_an_argument_is_in_force(minibox, tmp_path):
    rule = {
        "names": ["kill"],
        "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}],
    }
    file = profile(tmp_path, {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    out = minibox.inside(
        "trap : USR1 USR2; kill -USR2 $$ && echo sent; kill -USR1 $$ 2>&1 || echo refused", "--seccomp", file
    )
    assert out.splitlines()[0] == "sent"
    assert out.splitlines()[-1] == "refused"


def test_a_killing_action_ends_the_process_by_sigsys(minibox, rootfs, tool, tmp_path):
    file = profile(tmp_path, {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["sync"], "action": "SCMP_ACT_KILL_PROCESS"}],
    })  # fmt: skip
    done = minibox("run", "--seccomp", file, "-v", f"{tool}:/call:ro", rootfs, "/call", NUMBERS["sync"])
    assert done.returncode == 128 + 31


def test_the_filter_may_refuse_even_execve_of_children(minibox, rootfs, tmp_path):
    file = profile(tmp_path, {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["fork", "clone", "vfork", "clone3"], "action": "SCMP_ACT_ERRNO"}],
    })  # fmt: skip
    done = minibox("run", "--seccomp", file, rootfs, "sh", "-c", "/bin/true; echo after")
    assert b"fork" in done.stderr
    assert done.returncode == 2


def test_a_profile_that_refuses_execve_is_an_error_with_a_hint(minibox, rootfs, tmp_path):
    file = profile(tmp_path, {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["execve", "execveat"], "action": "SCMP_ACT_ERRNO"}],
    })  # fmt: skip
    done = minibox("run", "--seccomp", file, rootfs, "true")
    assert done.returncode == 126
    assert b"seccomp profile" in done.stderr


def test_a_filter_is_loaded_with_its_rights_when_new_privileges_are_allowed(minibox, tool):
    found = errnos(minibox, tool, "bpf", "getppid", flags=("--allow-new-privs",))
    assert found == {"bpf": EPERM, "getppid": 0}


def test_an_exec_has_the_containers_filter(minibox, tool, tmp_path):
    detached(minibox, "one", "--seccomp", str(profile(tmp_path, OCI)), "-v", f"{tool}:/call:ro")
    done = minibox("exec", "one", "/call", NUMBERS["getppid"], NUMBERS["getpgid"], NUMBERS["uname"])
    assert done.stdout.split()[:2] == [b"78", b"1"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"syscalls": []}',
        '{"defaultAction": "ALLOW"}',
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["sync"], "action": "no"}]}',
    ],
)
def test_a_malformed_profile_is_an_error(minibox, rootfs, tmp_path, text):
    file = tmp_path / "profile.json"
    file.write_text(text)
    done = minibox("run", "--seccomp", file, rootfs, "true")
    assert done.returncode == 125
    assert b"--seccomp" in done.stderr
    assert b"internal error" not in done.stderr
