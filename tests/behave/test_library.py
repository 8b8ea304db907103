"""minibox as a library: run, Result, Sandbox, errors, threads."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import wait_until
from observe import namespace, status

MIB = 1 << 20


# --- run -----------------------------------------------------------------------------------------------


def test_run_gives_exit_code_and_both_streams_as_bytes(library, rootfs):
    result = library.run(rootfs, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert (result.oom_killed, result.timed_out) == (False, False)


def test_the_root_may_be_text_or_a_path_and_the_command_is_sh(library, rootfs):
    assert library.run(str(rootfs), stdin=b"echo $0").stdout == b"sh\n"
    assert library.run(Path(rootfs), stdin=b"echo $0").stdout == b"sh\n"


def test_stdin_is_what_is_given_or_empty(library, rootfs):
    assert library.run(rootfs, ["cat"], stdin=b"\x00\xff text").stdout == b"\x00\xff text"
    assert library.run(rootfs, ["wc", "-c"]).stdout == b"0\n"
    assert library.run(rootfs, ["wc", "-c"], stdin=b"").stdout == b"0\n"


def test_much_goes_in_and_out_at_once(library, rootfs):
    data = os.urandom(3 * MIB)
    assert library.run(rootfs, ["cat"], stdin=data).stdout == data
    result = library.run(rootfs, ["sh", "-c", "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2"])
    assert (len(result.stdout), len(result.stderr)) == (1000000, 1000000)


def test_input_that_nobody_reads_is_no_error(library, rootfs):
    assert library.run(rootfs, ["true"], stdin=bytes(MIB)).exit_code == 0


def test_a_death_by_signal_is_128_and_its_number(library, rootfs):
    assert library.run(rootfs, ["sh", "-c", "kill -TERM $$"], init=True).exit_code == 143


def test_check_raises_for_a_failure_and_returns_the_result_else(library, rootfs):
    result = library.run(rootfs, ["true"])
    assert result.check() is result
    with pytest.raises(subprocess.CalledProcessError) as caught:
        library.run(rootfs, ["sh", "-c", "echo out; exit 3"]).check()
    assert (caught.value.returncode, caught.value.stdout) == (3, b"out\n")


def test_without_capture_the_streams_are_the_callers(library, rootfs, capfd):
    result = library.run(rootfs, ["sh", "-c", "echo out; echo err >&2"], capture=False)
    assert (result.stdout, result.stderr) == (b"", b"")
    assert tuple(capfd.readouterr()) == ("out\n", "err\n")


def test_a_timeout_ends_it(library, rootfs):
    start = time.monotonic()
    result = library.run(rootfs, ["sh", "-c", "echo first; exec sleep 60"], timeout=0.3)
    assert (result.timed_out, result.exit_code, result.stdout) == (True, 137, b"first\n")
    assert 0.3 <= time.monotonic() - start < 10
    assert 0.3 <= result.usage.wall < 10


def test_a_timeout_that_is_not_reached_changes_nothing(library, rootfs):
    result = library.run(rootfs, ["true"], timeout=30)
    assert (result.timed_out, result.exit_code) == (False, 0)


@pytest.mark.root
def test_an_oom_kill_is_told(library, rootfs):
    result = library.run(rootfs, ["sh", "-c", "exec tail /dev/zero"], memory=16 * MIB)
    assert (result.oom_killed, result.exit_code) == (True, 137)
    assert result.usage.peak_memory <= 17 * MIB


def test_usage_counts_processor_time_memory_and_time(library, rootfs):
    result = library.run(rootfs, ["sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"])
    usage = result.usage
    assert 0.05 < usage.cpu_user + usage.cpu_system <= usage.wall * os.cpu_count()
    assert 100_000 < usage.peak_memory < 64 * MIB


@pytest.mark.root
def test_peak_memory_is_that_of_all_processes_together(library, rootfs):
    result = library.run(rootfs, ["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=30"])
    assert 30 * MIB < result.usage.peak_memory < 64 * MIB


# --- keywords ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "script", "out"), [
    ({"user": 1000}, "id -u", "1000\n"),
    ({"user": "user", "group_add": ["tty"]}, "id -G", "1000 5\n"),
    ({"workdir": Path("/srv/new")}, "pwd", "/srv/new\n"),
    ({"env": {"A": "b c", "N": 1}}, "echo $A$N", "b c1\n"),
    ({"hostname": "web"}, "hostname", "web\n"),
    ({"umask": 0o077}, "umask", "0077\n"),
    ({"ulimit": {"nofile": "64"}}, "ulimit -n", "64\n"),
    ({"tmpfs": ["/t:size=1m"]}, "df -k /t | tail -1 | awk '{print $2}'", "1024\n"),
    ({"read_only": True}, "touch /x 2>/dev/null || echo refused", "refused\n"),
    ({"sysctl": {"net.ipv4.ip_default_ttl": 77}}, "cat /proc/sys/net/ipv4/ip_default_ttl", "77\n"),
    ({"cap_drop": ["ALL"]}, "grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n"),
    ({"cap_drop": ["ALL"], "caps": ["CHOWN"]}, "awk '/CapEff/ {print $2}' /proc/self/status", f"{1:016x}\n"),
    ({"seccomp": "unconfined"}, "grep Seccomp: /proc/self/status", "Seccomp:\t0\n"),
    ({"network": "none"}, "ls /sys/class/net", "lo\n"),
    ({"pids_limit": 44}, "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null || :", "44\n"),
    ({"init": True}, "echo $$", "2\n"),
    ({"name": "named"}, "hostname", "named\n"),
    ({"privileged": False, "memory": None}, "grep Seccomp: /proc/self/status", "Seccomp:\t2\n"),
    ({"uidmap": ["0:200000:1000"]}, "awk '{print $2}' /proc/self/uid_map", "200000\n"),
    ({"allow_new_privs": True}, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0\n"),
    ({"cpus": 0.5, "memory": "64m", "cpu_shares": 512, "cpuset_cpus": "0"}, "echo ran", "ran\n"),
])  # fmt: skip
@pytest.mark.root
def test_a_keyword_means_what_the_flag_means(library, rootfs, options, script, out):
    result = library.run(rootfs, ["sh", "-c", script], **options)
    assert (result.stdout.decode(), result.stderr, result.exit_code) == (out, b"", 0)


def test_mounts_are_volumes(library, rootfs, canary):
    result = library.run(rootfs, ["cat", "/data/file"], mounts=[f"{canary}:/data:ro"])
    assert result.stdout == b"untouched\n"


def test_a_seccomp_profile_may_be_a_dict(library, rootfs):
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    result = library.run(rootfs, ["mkdir", "/x"], seccomp=profile)
    assert b"Operation not permitted" in result.stderr


def test_the_documented_keywords_are_those_of_the_flags():
    import minibox.api
    from minibox.api import RENAMED
    from minibox.spec.options import RUN

    text = Path(minibox.api.__file__).read_text()
    block = text[text.index("class Options(") : text.index("class CommandOptions(")]
    keys = [
        line.split(":")[0].strip()
        for line in block.splitlines()
        if line.startswith("        ") and ": " in line
    ]
    assert len(keys) > 30
    assert not [key for key in keys if RENAMED.get(key, key).replace("_", "-") not in RUN]


# --- errors --------------------------------------------------------------------------------------------


def test_an_unknown_keyword_is_a_type_error(library, rootfs):
    with pytest.raises(TypeError, match='no option "memroy"'):
        library.run(rootfs, ["true"], memroy="64m")


def test_text_where_a_list_is_wanted_is_a_type_error(library, rootfs):
    with pytest.raises(TypeError, match="a list is wanted"):
        library.run(rootfs, ["true"], mounts="/etc:/x")


@pytest.mark.parametrize(
    ("command", "code"), [("nowhere", 127), ("/nowhere", 127), ("/etc/passwd", 126), ("/etc", 126)]
)
def test_a_command_that_cannot_be_run_is_a_step_error_with_its_exit_code(library, rootfs, command, code):
    with pytest.raises(library.StepError) as caught:
        library.run(rootfs, [command])
    assert (caught.value.exit_code, caught.value.step) == (code, "process.execute")
    assert caught.value.index == caught.value.total > 50
    assert command in caught.value.what


def test_a_step_error_says_what_why_and_what_to_do(library, rootfs):
    with pytest.raises(library.StepError) as caught:
        library.run(rootfs, ["nowhere"])
    error = caught.value
    assert error.errno == 2
    assert error.why
    assert error.hint
    assert str(error).startswith(f"step {error.index}/{error.total} process.execute failed: ")


def test_a_bad_value_is_a_spec_error_that_names_the_flag(library, rootfs):
    with pytest.raises(library.SpecError) as caught:
        library.run(rootfs, ["true"], memory="much")
    assert caught.value.pointer == "--memory"


def test_a_missing_root_is_a_spec_error(library, tmp_path):
    with pytest.raises(library.SpecError, match="does not exist"):
        library.run(tmp_path / "nowhere", ["true"])


def test_a_name_in_use_is_a_state_error(library, rootfs):
    with library.Sandbox(rootfs, name="same"), pytest.raises(library.StateError, match="in use"):
        library.run(rootfs, ["true"], name="same")


def test_every_error_is_a_minibox_error_with_an_exit_code(library):
    for name in ("SpecError", "StepError", "StateError", "KernelError", "UsageError"):
        assert issubclass(getattr(library, name), library.MiniboxError)
        assert getattr(library, name).exit_code == 125


def test_an_error_leaves_no_descriptor_open(library, rootfs):
    def failures() -> None:
        for options in ({"user": "nobody-here"}, {"memory": "much"}, {}):
            with pytest.raises(library.MiniboxError):
                library.run(rootfs, ["nowhere"], stdin=b"x", **options)

    failures()  # what is opened once for all time
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    for _turn in range(3):
        failures()
    gc.collect()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_run_leaves_no_descriptor_and_no_child(library, rootfs):
    library.run(rootfs, ["true"])
    before = sorted(os.listdir("/proc/self/fd"))
    for _turn in range(5):
        library.run(rootfs, ["sh", "-c", "cat; echo x >&2"], stdin=b"text")
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_the_callers_signal_handlers_are_left_alone(library, rootfs):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGWINCH, signal.SIGPIPE)
    before = [signal.getsignal(number) for number in numbers]
    library.run(rootfs, ["true"])
    with library.Sandbox(rootfs) as box:
        box.exec(["true"])
    assert [signal.getsignal(number) for number in numbers] == before


def test_an_interrupt_of_the_caller_ends_the_container(library, minibox, rootfs):
    main = threading.main_thread().ident

    def interrupt() -> None:
        wait_until(lambda: b'"running"' in minibox("ps", "--json").stdout)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        library.run(rootfs, ["sleep", "60"], name="one")
    thread.join()
    assert minibox("ps", "-q").stdout == b""


# --- threads -------------------------------------------------------------------------------------------


def test_eight_threads_at_once(library, rootfs):
    def one(number: int) -> tuple[int, bytes]:
        result = library.run(rootfs, ["sh", "-c", f"cat; exit {number}"], stdin=str(number).encode())
        return result.exit_code, result.stdout

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, range(40)))
    assert found == [(number, str(number).encode()) for number in range(40)]


def test_a_sandbox_each_in_eight_threads(library, rootfs):
    def one(number: int) -> list[bytes]:
        with library.Sandbox(rootfs) as box:
            box.exec(["sh", "-c", f"echo {number} >/tmp/mine"])
            return [box.exec(["cat", "/tmp/mine"]).stdout for _turn in range(3)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == [[f"{number}\n".encode()] * 3 for number in range(8)]


def test_a_sandbox_outlives_the_thread_that_made_it(library, rootfs):
    made = []
    thread = threading.Thread(target=lambda: made.append(library.Sandbox(rootfs)))
    thread.start()
    thread.join()
    with made[0] as box:
        assert box.exec(["echo", "still here"]).stdout == b"still here\n"


def test_a_busy_thread_does_not_hang_the_clone(library, rootfs):
    """Locks that another thread holds at the clone are not needed by the child."""
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            sys.intern(str(time.monotonic_ns()))
            os.stat("/")
            print("", end="", file=sys.stderr)

    threads = [threading.Thread(target=busy) for _number in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert all(library.run(rootfs, ["true"], timeout=20).exit_code == 0 for _turn in range(15))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# --- Sandbox -------------------------------------------------------------------------------------------


def test_a_sandbox_keeps_files_between_many_commands(library, rootfs):
    with library.Sandbox(rootfs) as box:
        for number in range(20):
            assert box.exec(["sh", "-c", f"echo {number} >>/tmp/log"]).exit_code == 0
        assert box.exec(["cat", "/tmp/log"]).stdout.split() == [str(number).encode() for number in range(20)]
    assert not (rootfs / "tmp" / "log").exists()


def test_an_exec_has_streams_exit_code_timeout_and_usage_of_its_own(library, rootfs):
    with library.Sandbox(rootfs) as box:
        result = box.exec(["sh", "-c", "cat; echo err >&2; exit 4"], stdin=b"text")
        assert (result.exit_code, result.stdout, result.stderr) == (4, b"text", b"err\n")
        slow = box.exec(["sleep", "60"], timeout=0.2)
        assert (slow.timed_out, slow.exit_code) == (True, 137)
        assert box.exec(["echo", "still up"]).stdout == b"still up\n"
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # it begins as a fork of this process
        assert 0 < box.exec(["true"]).usage.peak_memory < own + 64 * MIB


@pytest.mark.root
def test_an_exec_may_have_another_user_directory_and_variables(library, rootfs):
    with library.Sandbox(rootfs, env={"A": "box"}) as box:
        result = box.exec(
            ["sh", "-c", "id -u; pwd; echo $A $B"], user=1000, workdir="/srv", env={"B": "exec"}
        )
    assert result.stdout.split() == [b"1000", b"/srv", b"box", b"exec"]


def test_exec_without_capture(library, rootfs, capfd):
    with library.Sandbox(rootfs) as box:
        assert box.exec(["echo", "out"], capture=False).stdout == b""
    assert capfd.readouterr().out == "out\n"


def test_its_pid_one_only_reaps(library, rootfs):
    with library.Sandbox(rootfs) as box:
        box.exec(["sh", "-c", "for i in 1 2 3; do (setsid sleep 0.01 &); done"])
        assert os.readlink(f"/proc/{box.pid}/exe").startswith("/memfd:minibox-init")
        zombies = f"/proc/{box.pid}/task/{box.pid}/children"
        assert wait_until(lambda: Path(zombies).read_text() == "")


def test_its_pid_plan_and_name_can_be_looked_at(library, minibox, rootfs):
    with library.Sandbox(rootfs, name="looked-at") as box:
        assert box.name == "looked-at"
        assert namespace(box.pid, "pid") != namespace("self", "pid")
        assert box.plan["process.execute"].op.argv
        assert minibox.state("looked-at")["pid"] == box.pid


@pytest.mark.root
def test_an_oom_kill_in_a_sandbox_is_told_of_the_command_it_hit(library, rootfs):
    with library.Sandbox(rootfs, memory="24m") as box:
        assert box.exec(["true"]).oom_killed is False
        result = box.exec(["sh", "-c", "exec tail /dev/zero"])
        assert (result.oom_killed, result.exit_code) == (True, 137)
        assert box.exec(["sh", "-c", "kill -KILL $$"]).oom_killed is False
        assert box.exec(["sh", "-c", "tail /dev/zero; echo went on"]).oom_killed is True


def test_limits_hold_for_all_commands_together(library, rootfs):
    with library.Sandbox(rootfs, cap_drop=["ALL"]) as box:
        assert b"0000000000000000" in box.exec(["grep", "CapEff", "/proc/self/status"]).stdout


def test_closing_ends_every_process_of_it(library, rootfs):
    box = library.Sandbox(rootfs)
    box.exec(["sh", "-c", "setsid sleep 60 >/dev/null 2>&1 &"])
    pid = box.pid
    child = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    box.close()
    assert not os.path.exists(f"/proc/{pid}")
    assert wait_until(lambda: not os.path.exists(f"/proc/{child}") or status(child)["State"][0] == "Z")


def test_closing_twice_is_no_error(library, rootfs):
    box = library.Sandbox(rootfs)
    box.close()
    box.close()


def test_a_closed_sandbox_says_so(library, rootfs):
    with library.Sandbox(rootfs, name="shut") as box:
        pass
    with pytest.raises(library.StateError, match="sandbox shut is closed"):
        box.exec(["true"])
    with pytest.raises(library.StateError, match="sandbox shut is closed"):
        _ = box.pid


def test_an_exception_in_the_with_passes_through_and_closes_it(library, minibox, rootfs):
    with pytest.raises(ZeroDivisionError), library.Sandbox(rootfs):
        _ = 1 / 0
    assert minibox("ps", "-q").stdout == b""


def test_a_failed_command_leaves_the_sandbox_up(library, rootfs):
    with library.Sandbox(rootfs) as box:
        for command, code in (("nowhere", 127), ("/etc", 126)):
            with pytest.raises(library.StepError) as caught:
                box.exec([command])
            assert caught.value.exit_code == code
        assert box.exec(["echo", "up"]).stdout == b"up\n"


def test_an_unknown_keyword_of_exec_is_a_type_error(library, rootfs):
    with library.Sandbox(rootfs) as box, pytest.raises(TypeError):
        box.exec(["true"], nonsense=1)


def test_a_sandbox_that_cannot_be_made_leaves_nothing(library, minibox, rootfs):
    with pytest.raises(library.MiniboxError):
        library.Sandbox(rootfs, user="nobody-here", name="bad")
    assert minibox("ps", "-q").stdout == b""


def test_a_sandbox_whose_pid_one_was_killed_says_so(library, minibox, rootfs):
    with library.Sandbox(rootfs, name="shot") as box:
        os.kill(box.pid, signal.SIGKILL)
        assert wait_until(lambda: status(box.pid)["State"][0] == "Z")
        with pytest.raises(library.MiniboxError):
            box.exec(["true"])


def test_a_sandbox_ends_with_the_process_that_made_it(minibox, rootfs):
    script = (
        f"import minibox, os; box = minibox.Sandbox({str(rootfs)!r}, name='orphan');"
        "print(box.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=minibox.environment, capture_output=True, check=False
    )
    pid = int(done.stdout)
    assert wait_until(lambda: not os.path.exists(f"/proc/{pid}") or status(pid)["State"][0] == "Z")
    minibox("run", rootfs, "true")  # which clears away what it left
    assert minibox("ps", "-q").stdout == b""


def test_importing_minibox_imports_nothing_of_it(minibox):
    script = "import sys, minibox; print([name for name in sys.modules if name.startswith('minibox.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"[]\n"
