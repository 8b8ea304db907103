"""The life of a container by the verbs: run -d, ps, inspect, logs, kill, stop, wait, rm."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time

import pytest
from conftest import wait_until
from observe import detached, namespace, status

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"


def names(minibox) -> list[str]:
    return minibox("ps", "-q").stdout.decode().split()


def gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}") or status(pid)["State"].startswith("Z")


# --- run -d, --rm, --keep, --name --------------------------------------------------------------------


def test_detach_prints_the_name_and_returns_while_it_runs(minibox, rootfs):
    done = minibox("run", "-d", "--name", "one", rootfs, "sleep", "60")
    assert done.stdout == b"one\n"
    assert minibox.state("one")["status"] == "running"


def test_without_a_name_it_is_twelve_random_digits(minibox, rootfs):
    found = {minibox("run", "-d", rootfs, "sleep", "60").stdout.decode().strip() for _turn in range(2)}
    assert len(found) == 2
    assert all(re.fullmatch("[0-9a-f]{12}", name) for name in found)
    assert set(names(minibox)) == found


def test_a_detached_container_outlives_the_shell_that_made_it(minibox, rootfs):
    words = " ".join([*minibox.command, "run", "-d", "--name", "one", str(rootfs), "sleep", "60"])
    subprocess.run(
        ["setsid", "-w", "sh", "-c", words], env=minibox.environment, check=True, stdout=subprocess.DEVNULL
    )
    assert minibox("exec", "one", "true").returncode == 0


def test_a_detached_container_holds_no_descriptor_of_its_caller(minibox, rootfs):
    """A `$(minibox run -d ...)` ends although the container goes on."""
    start = time.monotonic()
    out = subprocess.run(
        ["sh", "-c", f'x=$({" ".join(minibox.command)} run -d --name one {rootfs} sleep 60); echo "$x"'],
        env=minibox.environment,
        capture_output=True,
        check=True,
        timeout=20,
    ).stdout
    assert out == b"one\n"
    assert time.monotonic() - start < 20


def test_detach_reports_what_goes_wrong_with_its_exit_code(minibox, rootfs):
    for words, code in ((("nowhere",), 127), (("/etc/passwd",), 126)):
        done = minibox("run", "-d", "--name", "one", rootfs, *words)
        assert (done.returncode, done.stdout) == (code, b"")
        assert words[0].encode() in done.stderr
    assert minibox("run", "-d", "--user", "nobody-here", rootfs, "true").returncode == 125
    assert names(minibox) == []


def test_a_container_is_removed_at_its_end_unless_kept(minibox, rootfs):
    minibox("run", "--name", "one", rootfs, "true")
    assert names(minibox) == []
    minibox("run", "--rm", "--name", "two", rootfs, "true")
    assert names(minibox) == []
    minibox("run", "--keep", "--name", "three", rootfs, "sh", "-c", "exit 3")
    assert names(minibox) == ["three"]
    assert (minibox.state("three")["status"], minibox.state("three")["exit_code"]) == ("stopped", 3)


def test_a_detached_container_is_kept_unless_rm(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "true")
    assert wait_until(lambda: minibox.state("one")["status"] == "stopped")
    minibox("run", "-d", "--rm", "--name", "two", rootfs, "true")
    assert wait_until(lambda: names(minibox) == ["one"])


@pytest.mark.root
def test_the_layer_of_a_kept_container_stays_until_rm(minibox, rootfs):
    minibox("run", "--keep", "--name", "one", rootfs, "sh", "-c", "echo mine >/mine")
    assert (minibox.data_dir / "one" / "upper" / "mine").read_text() == "mine\n"
    minibox("rm", "one")
    assert not (minibox.data_dir / "one").exists()


def test_a_name_in_use_is_refused_and_its_owner_unharmed(minibox, rootfs):
    detached(minibox, "one")
    done = minibox("run", "--name", "one", rootfs, "true")
    assert done.returncode == 125
    assert b'the name "one" is in use' in done.stderr
    assert minibox("exec", "one", "true").returncode == 0


def test_a_timeout_holds_for_a_detached_container(minibox, rootfs):
    minibox("run", "-d", "--timeout", "0.2", "--name", "one", rootfs, "sleep", "60")
    assert wait_until(lambda: minibox.state("one")["status"] == "stopped")
    assert (minibox.state("one")["exit_code"], minibox.state("one")["timed_out"]) == (137, True)


# --- ps and inspect ----------------------------------------------------------------------------------


def test_ps_lists_running_and_stopped_ones(minibox, rootfs):
    pid = detached(minibox, "one", command=("sleep", "62"))
    minibox("run", "--keep", "--name", "two", rootfs, "sh", "-c", "exit 3")
    head, first, second = minibox("ps").stdout.decode().splitlines()
    assert head.split() == ["ID", "PID", "STATUS", "CREATED", "COMMAND"]
    assert first.split()[:3] == ["one", str(pid), "running"]
    assert first.endswith("sleep 62")
    assert second.split()[:4] == ["two", "-", "exited", "(3)"]


def test_ps_with_nothing_to_list(minibox):
    assert minibox("ps").stdout.decode().split() == ["ID", "PID", "STATUS", "CREATED", "COMMAND"]
    assert minibox("ps", "-q").stdout == b""
    assert json.loads(minibox("ps", "--json").stdout) == []


def test_ps_as_json(minibox):
    pid = detached(minibox, "one")
    (row,) = json.loads(minibox("ps", "--json").stdout)
    assert (row["id"], row["pid"], row["status"], row["command"]) == ("one", pid, "running", ["sleep", "60"])


def test_inspect_says_what_the_kernel_says(minibox):
    pid = detached(minibox, "one")
    state = minibox.state("one")
    assert state["namespaces"]["pid"] == namespace(pid, "pid")
    assert state["namespaces"]["net"] == namespace(pid, "net")
    assert state["processes"] == [pid]
    assert state["command"] == ["sleep", "60"]
    assert state["spec"]["root"]["path"].endswith("/rootfs")


def test_inspect_of_several(minibox):
    detached(minibox, "one")
    detached(minibox, "two")
    assert [one["id"] for one in json.loads(minibox("inspect", "two", "one").stdout)] == ["two", "one"]


def test_states_are_closed_to_others(minibox):
    detached(minibox, "one")
    for path in (minibox.run_dir, minibox.run_dir / "containers", minibox.run_dir / "containers" / "one"):
        assert path.stat().st_mode & 0o777 == 0o700
    for file in ("state.json", "log"):
        assert (minibox.run_dir / "containers" / "one" / file).stat().st_mode & 0o777 == 0o600


# --- names -------------------------------------------------------------------------------------------


def test_the_beginning_of_a_name_is_enough_when_it_is_the_only_one(minibox):
    detached(minibox, "webserver")
    detached(minibox, "website")
    detached(minibox, "web-site-2")
    assert minibox("exec", "webse", "hostname").stdout == b"webserver\n"
    done = minibox("exec", "web", "hostname")
    assert done.returncode == 125
    assert b"ambiguous" in done.stderr
    assert minibox("exec", "website", "hostname").stdout == b"website\n"


def test_a_whole_name_goes_before_the_beginning_of_another(minibox):
    detached(minibox, "web")
    detached(minibox, "web2")
    assert minibox("exec", "web", "hostname").stdout == b"web\n"


@pytest.mark.parametrize("verb", ["inspect", "logs", "kill", "stop", "wait", "rm"])
def test_a_container_that_is_not_there_is_an_error(minibox, verb):
    done = minibox(verb, "nobody")
    assert done.returncode != 0
    assert b'no container "nobody"' in done.stderr


@pytest.mark.parametrize("verb", ["inspect", "logs", "kill", "stop", "wait", "rm"])
def test_a_container_has_to_be_named(minibox, verb):
    assert minibox(verb).returncode == 125


# --- logs --------------------------------------------------------------------------------------------

TALK = "echo one; echo two >&2; printf 'three\\nno end'"


@pytest.fixture
def talker(minibox, rootfs):
    """A container that has said something on both streams and ended."""
    minibox("run", "-d", "--name", "talker", rootfs, "sh", "-c", TALK)
    assert wait_until(lambda: minibox.state("talker")["status"] == "stopped")
    return minibox


def test_logs_come_on_the_streams_they_came_on(talker):
    done = talker("logs", "talker")
    assert (done.stdout, done.stderr) == (b"one\nthree\nno end", b"two\n")


def test_the_last_lines_only(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "sh", "-c", "echo one; echo two; echo three")
    minibox("wait", "one")
    for count, text in ((2, b"two\nthree\n"), (0, b""), (99, b"one\ntwo\nthree\n")):
        assert minibox("logs", "--tail", count, "one").stdout == text


def test_the_last_line_is_whole_though_it_was_written_in_pieces(minibox, rootfs):
    minibox(
        "run",
        "-d",
        "--name",
        "one",
        rootfs,
        "sh",
        "-c",
        "echo a; printf b; sleep 0.1; printf c; sleep 0.1; echo d",
    )
    minibox("wait", "one")
    assert minibox("logs", "--tail", "1", "one").stdout == b"bcd\n"


def test_the_time_of_each_line(talker):
    out = talker("logs", "--timestamps", "talker").stdout.decode()
    assert re.fullmatch(f"{STAMP} one\n{STAMP} three\n{STAMP} no end", out)


def test_the_file_has_the_format_of_cri_logs(talker):
    text = (talker.run_dir / "containers" / "talker" / "log").read_text()
    lines = text.splitlines()
    assert all(re.fullmatch(rf"{STAMP} (stdout|stderr) [FP] .*", line) for line in lines)
    assert sorted(line.split(" ", 1)[1] for line in lines) == [
        "stderr F two", "stdout F one", "stdout F three", "stdout P no end",
    ]  # fmt: skip


def test_a_followed_log_goes_on_until_the_end(minibox, rootfs, tmp_path):
    script = "echo first; while ! [ -e /gate/open ]; do sleep 0.05; done; echo last"
    detached(
        minibox,
        "one",
        "-v",
        f"{tmp_path}:/gate:idmap" if os.geteuid() == 0 else f"{tmp_path}:/gate",
        command=("sh", "-c", script),
    )
    process = minibox.start("logs", "-f", "one")
    assert process.stdout.readline() == b"first\n"
    (tmp_path / "open").touch()
    assert process.stdout.readline() == b"last\n"
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_a_followed_log_of_a_stopped_container_ends_at_once(talker):
    assert talker("logs", "--follow", "talker", timeout=10).stdout == b"one\nthree\nno end"


def test_a_line_written_in_pieces_is_one_line(minibox, rootfs):
    minibox(
        "run", "-d", "--name", "one", rootfs, "sh", "-c", "printf a; sleep 0.1; printf b; sleep 0.1; echo c"
    )
    minibox("wait", "one")
    assert minibox("logs", "one").stdout == b"abc\n"


def test_bytes_that_are_no_text_come_back_unchanged(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "printf", "\\377\\000\\n")
    minibox("wait", "one")
    assert minibox("logs", "one").stdout == b"\xff\x00\n"


def test_a_container_in_the_foreground_has_no_log(minibox, rootfs):
    minibox("run", "--keep", "--name", "one", rootfs, "true")
    done = minibox("logs", "one")
    assert done.returncode == 125
    assert b"no log" in done.stderr


# --- kill, stop, wait, rm ------------------------------------------------------------------------------


def test_kill_ends_it_by_sigkill(minibox):
    pid = detached(minibox, "one")
    assert minibox("kill", "one").stdout == b"one\n"
    assert minibox("wait", "one").stdout == b"137\n"
    assert gone(pid)


@pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "sigusr1", "10"])
def test_kill_sends_the_signal_that_is_asked_for(minibox, name):
    detached(
        minibox,
        "one",
        command=("sh", "-c", "trap 'exit 42' USR1; echo ready; while :; do sleep 1 & wait $!; done"),
    )
    assert wait_until(lambda: minibox("logs", "one").stdout == b"ready\n")
    assert minibox("kill", "-s", name, "one").returncode == 0
    assert minibox("wait", "one").stdout == b"42\n"


def test_kill_refuses_what_is_no_signal_and_what_does_not_run(minibox, rootfs):
    minibox("run", "--keep", "--name", "one", rootfs, "true")
    assert b'unknown signal "NONSENSE"' in minibox("kill", "-s", "NONSENSE", "one").stderr
    done = minibox("kill", "one")
    assert done.returncode != 0
    assert b"not running" in done.stderr


def test_stop_asks_first(minibox):
    detached(
        minibox,
        "one",
        command=("sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 1 & wait $!; done"),
    )
    assert wait_until(lambda: minibox("logs", "one").stdout == b"ready\n")
    assert minibox("stop", "one").stdout == b"one\n"
    assert minibox.state("one")["exit_code"] == 0
    assert minibox("logs", "one").stdout == b"ready\nbye\n"


def test_stop_kills_at_once_what_would_not_notice(minibox):
    pid = detached(minibox, "one")
    start = time.monotonic()
    assert minibox("stop", "one").returncode == 0
    assert time.monotonic() - start < 5
    assert gone(pid)
    assert minibox.state("one")["exit_code"] == 137


def test_stop_kills_what_does_not_end_in_time(minibox):
    detached(
        minibox,
        "one",
        command=("sh", "-c", "trap 'echo no' TERM; echo ready; while :; do sleep 1 & wait $!; done"),
    )
    assert wait_until(lambda: minibox("logs", "one").stdout == b"ready\n")
    assert minibox("stop", "-t", "0.3", "one").returncode == 0
    assert minibox.state("one")["exit_code"] == 137
    assert b"no" in minibox("logs", "one").stdout


def test_wait_prints_a_code_for_each(minibox, rootfs):
    for name, code in (("one", 1), ("two", 2)):
        minibox("run", "-d", "--name", name, rootfs, "sh", "-c", f"exit {code}")
    assert minibox("wait", "two", "one").stdout == b"2\n1\n"


def test_wait_waits(minibox, tmp_path):
    detached(minibox, "one")
    process = minibox.start("wait", "one")
    assert not wait_until(lambda: process.poll() is not None, 0.3)
    minibox("kill", "one")
    assert process.communicate(timeout=10)[0] == b"137\n"


def test_rm_removes_a_stopped_one_and_refuses_a_running_one(minibox, rootfs):
    minibox("run", "--keep", "--name", "old", rootfs, "true")
    assert minibox("rm", "old").stdout == b"old\n"
    detached(minibox, "one")
    done = minibox("rm", "one")
    assert done.returncode != 0
    assert b"is running" in done.stderr
    assert names(minibox) == ["one"]


def test_rm_force_ends_it_first(minibox):
    pid = detached(minibox, "one")
    assert minibox("rm", "-f", "one").stdout == b"one\n"
    assert gone(pid)
    assert names(minibox) == []


def test_flags_may_stand_behind_the_names(minibox):
    detached(minibox, "one")
    detached(minibox, "two")
    assert minibox("rm", "one", "two", "-f").returncode == 0
    assert names(minibox) == []


def test_one_that_fails_does_not_spare_the_others(minibox, rootfs):
    minibox("run", "--keep", "--name", "one", rootfs, "true")
    done = minibox("rm", "nobody", "one")
    assert done.returncode != 0
    assert done.stdout == b"one\n"
    assert names(minibox) == []


def test_the_name_is_free_again_after_rm(minibox, rootfs):
    for _turn in range(3):
        assert minibox("run", "--keep", "--name", "one", rootfs, "true").returncode == 0
        assert minibox("rm", "one").returncode == 0


# --- two at once -------------------------------------------------------------------------------------


def test_two_with_one_name_at_once_one_wins(minibox, rootfs):
    processes = [minibox.start("run", "--name", "same", rootfs, "sleep", "0.5") for _turn in range(6)]
    for process in processes:
        process.communicate()
    codes = sorted(process.returncode for process in processes)
    assert codes[0] == 0
    assert set(codes[1:]) <= {0, 125}
    assert codes[-1] == 125
    assert names(minibox) == []


def test_many_at_once_have_ids_of_their_own(minibox, rootfs):
    processes = [minibox.start("run", rootfs, "cat", "/proc/self/uid_map") for _turn in range(12)]
    maps = [process.communicate()[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    if os.geteuid() == 0:
        assert len(set(maps)) == 12


def test_two_rm_at_once_do_no_harm(minibox):
    pid = detached(minibox, "one")
    processes = [minibox.start("rm", "-f", "one") for _turn in range(4)]
    errors = [process.communicate()[1] for process in processes]
    assert gone(pid)
    assert names(minibox) == []
    assert min(process.returncode for process in processes) == 0, errors
    assert not any(b"internal error" in error for error in errors)


def test_ps_while_containers_come_and_go(minibox, rootfs):
    processes = [minibox.start("run", rootfs, "true") for _turn in range(8)]
    done = [minibox("ps") for _turn in range(5)]
    for process in processes:
        process.communicate()
    assert [one.returncode for one in done] == [0] * 5
    assert [one.stderr for one in done] == [b""] * 5


# --- the command itself --------------------------------------------------------------------------------


def test_version_and_help(minibox):
    import minibox as package

    assert minibox("version").stdout.decode().startswith(f"minibox {package.__version__} ")
    assert minibox("--version").stdout == minibox("version").stdout
    text = minibox("help").stdout.decode()
    for verb in (
        "run",
        "exec",
        "ps",
        "inspect",
        "logs",
        "kill",
        "stop",
        "wait",
        "rm",
        "plan",
        "version",
        "help",
    ):
        assert f"  {verb} " in text
    assert "--memory SIZE" in minibox("help", "run").stdout.decode()
    assert minibox("run", "--help").stdout == minibox("help", "run").stdout
    assert minibox().stdout.decode() == text


def test_the_directories_can_be_named_by_flags(minibox, rootfs, tmp_path):
    words = ("--root", tmp_path / "run", f"--data-root={tmp_path}/data")
    minibox(*words, "run", "--keep", "--name", "one", rootfs, "true")
    assert minibox(*words, "ps", "-q").stdout == b"one\n"
    assert names(minibox) == []
    assert (tmp_path / "data" / "one").is_dir()
    assert minibox(*words, "rm", "one").returncode == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_null_for_the_payload_and_no_traceback(minibox, rootfs, closed, tmp_path):
    script = "ls -l /proc/$$/fd >/tmp/list; grep -c null /tmp/list; echo problem >&2"
    words = " ".join([*minibox.command, "run", str(rootfs), "sh", "-c", f"'{script}'"])
    done = subprocess.run(
        ["sh", "-c", f"{words} {closed}"], env=minibox.environment, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    if ">&-" not in closed.replace("2>&-", ""):
        assert int(done.stdout) >= 1
