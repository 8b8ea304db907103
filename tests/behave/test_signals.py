"""Signals to minibox: what reaches the payload, what ends it, with which code, and how soon.

PID 1 of a pid namespace gets only those signals that it handles, so minibox passes on what is handled and
kills where it is not; the exit code is 128 + the signal either way.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from conftest import Minibox, wait_until
from test_residue import has_ended, leftovers, no_orphans, processes, reap_orphans, slow_pipe

READY = b"ready\n"
#: says "ready" once its traps are set, then waits in a way that lets traps run at once
WAIT = "echo ready; while :; do sleep 1000 & wait $!; done"
ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    with no_orphans():
        yield


def payload(
    minibox: Minibox, rootfs: object, script: str, *flags: object, **options: object
) -> subprocess.Popen[bytes]:
    """A container that runs a script, once the script has said "ready"."""
    process = minibox.start("run", *flags, rootfs, "sh", "-c", script, **options)
    assert process.stdout is not None
    assert process.stdout.readline() == READY, process.communicate(timeout=10)
    return process


def end(process: subprocess.Popen[bytes], seconds: float = 10) -> tuple[int, bytes]:
    """(exit code, the rest of stdout) of a process that has to end by itself."""
    out, _err = process.communicate(timeout=seconds)
    return process.returncode, out


# --- signals that ask for an end -----------------------------------------------------------------------


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
@pytest.mark.parametrize("flags", [(), ("--init",)], ids=["plain", "init"])
def test_a_payload_without_a_handler_ends_at_once(minibox, rootfs, number, flags):
    """It is PID 1 and would never notice, or is minibox-init's child and dies of it."""
    process = minibox.start("run", *flags, rootfs, "tail", "-f", "/etc/passwd")
    assert process.stdout.readline().startswith(b"root:")
    process.send_signal(number)
    assert end(process, 5)[0] == 128 + number
    assert leftovers(minibox) == []


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_payload_with_a_handler_ends_as_it_likes(minibox, rootfs, number):
    name = number.name.removeprefix("SIG")
    process = payload(minibox, rootfs, f"trap 'echo got {name}; exit 9' {name}; {WAIT}")
    process.send_signal(number)
    assert end(process) == (9, f"got {name}\n".encode())
    assert leftovers(minibox) == []


def test_init_passes_a_handled_signal_on(minibox, rootfs):
    process = payload(minibox, rootfs, f"trap 'echo got it; exit 9' TERM; {WAIT}", "--init")
    process.send_signal(signal.SIGTERM)
    assert end(process) == (9, b"got it\n")


def test_a_payload_that_handles_term_and_stays_is_killed_after_the_grace(minibox, rootfs):
    process = payload(minibox, rootfs, f"trap 'echo no' TERM; {WAIT}", "--stop-timeout", "0.3")
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert end(process) == (128 + signal.SIGTERM, b"no\n")
    assert time.monotonic() - begin >= 0.3
    assert leftovers(minibox) == []


def test_the_third_interrupt_ends_a_payload_that_ignores_two(minibox, rootfs):
    process = payload(minibox, rootfs, f"trap 'echo no' INT; {WAIT}")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"no\n"
    process.send_signal(signal.SIGINT)
    assert end(process, 5)[0] == 128 + signal.SIGINT


@pytest.mark.parametrize(
    "number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH], ids=lambda number: number.name
)
def test_other_signals_are_passed_on_and_end_nothing(minibox, rootfs, number):
    name = number.name.removeprefix("SIG")
    process = payload(minibox, rootfs, f"trap 'echo got it' {name}; trap 'exit 0' TERM; {WAIT}")
    if number != signal.SIGWINCH:  # which is about a terminal, and there is none
        process.send_signal(number)
        assert process.stdout.readline() == b"got it\n"
    else:
        process.send_signal(number)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (0, b"")


def test_a_signal_that_nobody_handles_and_that_asks_for_nothing_is_dropped(minibox, rootfs):
    process = payload(minibox, rootfs, f"trap 'exit 4' TERM; {WAIT}")
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 4


def test_ignored_hangups_stay_ignored(minibox, rootfs):
    """As `nohup minibox run ...` wants it."""
    process = payload(
        minibox,
        rootfs,
        f"trap 'exit 4' TERM; {WAIT}",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)  # comes later, so the first has been dealt with
    assert end(process)[0] == 4, "ended by the hangup"
    assert leftovers(minibox) == []


def test_an_ignored_hangup_is_not_ignored_by_the_payload(minibox, rootfs):
    """Dispositions are the caller's own business: the payload starts with the default ones."""
    process = minibox.start(
        "run",
        rootfs,
        "grep",
        "SigIgn",
        "/proc/self/status",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert end(process) == (0, b"SigIgn:\t" + b"0" * 16 + b"\n")


def test_blocked_signals_of_the_caller_are_not_the_payloads(minibox, rootfs):
    process = minibox.start(
        "run",
        rootfs,
        "grep",
        "SigBlk",
        "/proc/self/status",
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]),
    )
    assert end(process) == (0, b"SigBlk:\t" + b"0" * 16 + b"\n")


@pytest.mark.parametrize("number", [1, 9, 15], ids=["HUP", "KILL", "TERM"])
def test_a_payload_that_dies_of_a_signal_gives_128_and_the_number(minibox, rootfs, number):
    done = minibox("run", "--init", rootfs, "sh", "-c", f"kill -{number} $$")
    assert done.returncode == 128 + number
    assert leftovers(minibox) == []


# --- while the container is being made -----------------------------------------------------------------


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
@pytest.mark.parametrize("line", [1, 5, 9, 13, 40, -6, -4])
def test_a_signal_while_it_is_made_undoes_everything(minibox, rootfs, number, line):
    """At once, without the next command's help.  `line` is one of --trace's, from the end if negative."""
    total = minibox("run", "--trace", rootfs, "true").stderr.count(b"\n")
    reading, writing = slow_pipe()
    process = minibox.start("run", "--trace", rootfs, "sleep", "1000", stderr=writing)
    os.close(writing)
    for _ in range(line % total):
        assert os.read(reading, 4096)
    process.send_signal(number)
    while os.read(reading, 4096):
        pass
    os.close(reading)
    assert end(process)[0] == 128 + number
    assert leftovers(minibox) == []


def test_a_second_signal_does_not_stop_the_clearing_away(minibox, rootfs):
    reading, writing = slow_pipe()
    process = minibox.start("run", "--trace", rootfs, "sleep", "1000", stderr=writing)
    os.close(writing)
    for _ in range(12):
        os.read(reading, 4096)
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
    while os.read(reading, 4096):
        pass
    os.close(reading)
    assert end(process)[0] in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert leftovers(minibox) == []


# --- SIGKILL, callers that end, deadlines --------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("--init",), ("--pid", "host")], ids=["plain", "init", "host's pids"])
def test_killing_minibox_ends_the_container(minibox, rootfs, flags):
    if flags == ("--pid", "host") and os.geteuid():
        flags = ()
    script = "echo ready; sleep 1001 & sleep 1002"
    process = payload(minibox, rootfs, script, "--name", "gone", *flags, stderr=subprocess.DEVNULL)
    everybody = (lambda: minibox.state("gone")["processes"]) if flags == ("--pid", "host") else None
    pids: list[int] = []

    def both() -> bool:
        pids[:] = everybody() if everybody else processes(minibox, "gone")  # type: ignore[assignment]
        return len(pids) >= 2

    assert wait_until(both)
    process.kill()
    process.wait(10)
    process.stdout.close()
    if flags != ("--pid", "host"):
        assert wait_until(lambda: all(has_ended(pid) for pid in pids), 5)
    done = minibox("run", rootfs, "true")
    assert b"gone had lost its supervisor: removed" in done.stderr
    assert wait_until(lambda: all(has_ended(pid) for pid in pids), 5)
    assert leftovers(minibox) == []


def test_a_detached_container_outlives_its_caller(minibox, rootfs):
    """The caller's whole process group is killed, and its session's terminal would not matter."""
    script = "import os, subprocess, sys; subprocess.run(sys.argv[1:], check=True); os.killpg(0, 9)"
    command = [
        *minibox.command,
        "run",
        "-d",
        "--name",
        "on",
        str(rootfs),
        "sh",
        "-c",
        f"trap 'exit 5' TERM; {WAIT}",
    ]
    caller = subprocess.run(
        [sys.executable, "-c", script, *command],
        env=minibox.environment,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        timeout=30,
        check=False,
    )
    assert caller.returncode == -signal.SIGKILL
    assert caller.stdout == b"on\n"
    assert wait_until(lambda: b"ready" in minibox("logs", "on").stdout)
    assert minibox.state("on")["status"] == "running"
    assert minibox("stop", "on").returncode == 0
    assert minibox.state("on")["exit_code"] == 5
    assert minibox("rm", "on").returncode == 0
    assert leftovers(minibox) == []


def test_a_monitor_that_is_asked_to_end_takes_its_container_with_it(minibox, rootfs):
    minibox("run", "-d", "--name", "on", rootfs, "sleep", "1000")
    os.kill(int(minibox.state("on")["supervisor"]), signal.SIGTERM)
    assert minibox("wait", "on").stdout == b"143\n"
    assert minibox.state("on")["status"] == "stopped"


def test_a_deadline_ends_it_and_is_told(minibox, rootfs):
    begin = time.monotonic()
    done = minibox(
        "run", "--name", "slow", "--timeout", "0.3", rootfs, "sh", "-c", "trap '' TERM; sleep 1000"
    )
    assert 0.3 <= time.monotonic() - begin < 5
    assert done.returncode == 137
    assert done.stderr == b"minibox: slow: killed after --timeout 0.3\n"
    assert leftovers(minibox) == []


def test_a_deadline_holds_for_a_detached_container_and_for_exec(minibox, rootfs):
    minibox("run", "-d", "--name", "short", "--timeout", "1", rootfs, "sleep", "1000")
    done = minibox("exec", "--timeout", "0.2", "short", "sleep", "1000")
    assert done.returncode == 137
    assert minibox("wait", "short").stdout == b"137\n"
    assert minibox.state("short")["timed_out"] is True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_to_exec_ends_that_command_alone(minibox, rootfs, number):
    minibox("run", "-d", "--name", "up", rootfs, "sleep", "1000")
    process = minibox.start("exec", "up", "sh", "-c", "echo ready; exec sleep 1001")
    assert process.stdout.readline() == READY
    process.send_signal(number)
    assert end(process, 5)[0] == 128 + number
    assert wait_until(lambda: len(processes(minibox, "up")) == 1)
    assert minibox.state("up")["status"] == "running"


def test_killing_exec_ends_its_command(minibox, rootfs):
    minibox("run", "-d", "--name", "up", rootfs, "sleep", "1000")
    process = minibox.start("exec", "up", "sh", "-c", "echo ready; exec sleep 1001")
    assert process.stdout.readline() == READY
    pids = processes(minibox, "up")
    assert len(pids) == 2
    process.kill()
    process.communicate(timeout=10)
    assert wait_until(lambda: reap_orphans() or sum(not has_ended(pid) for pid in pids) == 1)
    assert wait_until(lambda: reap_orphans() or sum(os.path.exists(f"/proc/{pid}") for pid in pids) == 1)


def test_kill_and_stop_reach_the_payload(minibox, rootfs):
    minibox(
        "run", "-d", "--name", "up", rootfs, "sh", "-c", f"trap 'echo usr' USR1; trap 'exit 6' TERM; {WAIT}"
    )
    assert wait_until(lambda: b"ready" in minibox("logs", "up").stdout)
    assert minibox("kill", "-s", "USR1", "up").returncode == 0
    assert wait_until(lambda: b"usr" in minibox("logs", "up").stdout)
    assert minibox("stop", "up").returncode == 0
    assert minibox.state("up")["exit_code"] == 6


def test_a_reader_that_goes_away_does_not_leave_the_container(minibox, rootfs):
    """`minibox run ... | head -1`: the payload gets SIGPIPE, as anywhere else."""
    process = minibox.start("run", rootfs, "yes")
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(10) in (1, 128 + signal.SIGPIPE)
    process.stderr.close()
    assert leftovers(minibox) == []
