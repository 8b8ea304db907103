"""Every action and flag of the OCI, through a real run: what the program notices, what the kernel reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from minibox.kernel import filters
from seccomp.programs import profile, written

GETPPID = 110  # x86_64; a static program of the C library does not make this call by itself
SIGSYS = 31


def run(minibox, root, tmp_path, document, *calls):
    return minibox("run", "--seccomp", written(tmp_path, document), root, "/caller", *calls)


def test_allow(minibox, caller, tmp_path):
    document = profile("SCMP_ACT_ERRNO", "getppid", errnoRet=5)
    document["syscalls"].append({"names": ["getpid"], "action": "SCMP_ACT_ALLOW"})
    assert run(minibox, caller, tmp_path, document, "39").stdout == b"1 0\n"


@pytest.mark.parametrize("number", [0, 1, 38, 4094])
def test_errno_is_the_one_that_the_profile_names(minibox, caller, tmp_path, number):
    done = run(minibox, caller, tmp_path, profile("SCMP_ACT_ERRNO", "getppid", errnoRet=number), GETPPID)
    assert done.stdout == (f"-1 {number}\n" if number else "0 0\n").encode()


@pytest.mark.parametrize("action", ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD"])
def test_a_killed_process_ends_by_sigsys(minibox, caller, tmp_path, action):
    done = run(minibox, caller, tmp_path, profile(action, "getppid"), "39", GETPPID, "39")
    assert done.stdout == b"1 0\n"
    assert done.returncode == 128 + SIGSYS


@pytest.mark.parametrize(
    ("action", "output"),
    [("SCMP_ACT_KILL_THREAD", b"the process lives\n"), ("SCMP_ACT_KILL_PROCESS", b"")],
)
def test_kill_thread_spares_the_other_threads(minibox, caller, tmp_path, action, output):
    assert run(minibox, caller, tmp_path, profile(action, "getppid"), "thread").stdout == output


def test_trap_raises_a_signal_that_a_handler_sees(minibox, caller, tmp_path):
    done = run(minibox, caller, tmp_path, profile("SCMP_ACT_TRAP", "getppid"), "trap", GETPPID)
    assert done.stdout == b"SIGSYS nr=110 code=1\n"  # SYS_SECCOMP


def test_trace_without_a_tracer_is_enosys(minibox, caller, tmp_path):
    assert run(minibox, caller, tmp_path, profile("SCMP_ACT_TRACE", "getppid"), GETPPID).stdout == b"-1 38\n"


def test_log_lets_the_call_through(minibox, caller, tmp_path):
    assert run(minibox, caller, tmp_path, profile("SCMP_ACT_LOG", "getppid"), GETPPID).stdout == b"0 0\n"


def test_notify_without_anybody_to_answer_is_refused_before_the_start(minibox, caller, tmp_path):
    done = run(minibox, caller, tmp_path, profile("SCMP_ACT_NOTIFY", "getppid"), GETPPID)
    assert done.returncode == 125
    assert b"listenerPath" in done.stderr
    assert b"--seccomp-notify" in done.stderr


@pytest.mark.parametrize(
    "flag",
    [
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ],
)
@pytest.mark.parametrize("notify", [False, True], ids=["alone", "with notify"])
def test_each_flag_is_taken_by_the_kernel(minibox, caller, tmp_path, flag, notify):
    document = profile("SCMP_ACT_ERRNO", "getppid", errnoRet=5, flags=[flag])
    handler = tmp_path / "handler.py"
    handler.write_text("SYSCALLS = ['gettid']\ndef handle(request): return None\n")
    more = ["--seccomp-notify", handler] if notify else []
    done = minibox("run", *more, "--seccomp", written(tmp_path, document), caller, "/caller", GETPPID, "186")
    assert done.stdout == b"-1 5\n1 0\n", done.stderr.decode()


def test_spec_allow_leaves_the_processor_faster_and_less_safe(minibox, rootfs, tmp_path):
    """The kernel reports it: without the flag a filter also mitigates speculative store bypass."""
    document = profile("SCMP_ACT_ERRNO", "acct", flags=["SECCOMP_FILTER_FLAG_SPEC_ALLOW"])
    command = (rootfs, "grep", "Speculation_Store_Bypass", "/proc/self/status")
    with_flag = minibox("run", "--seccomp", written(tmp_path, document), *command).stdout
    without = minibox("run", "--seccomp", "unconfined", *command).stdout
    assert with_flag == without


@pytest.mark.root
def test_the_filter_of_a_running_container_is_the_one_compiled(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "sleep", "60")
    pid = minibox.state("one")["pid"]
    (found,) = filters.read(pid)
    done = minibox("seccomp", "show", "--bpf", "--json", "default")
    import json

    assert json.loads(done.stdout)["filters"][0]["bpf"] == found.hex()
    assert filters.seccomp_status(pid) == (2, 1)
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"  # and it goes on
