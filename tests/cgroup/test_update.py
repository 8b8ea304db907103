"""update: other limits for a container that runs, in force at once, and known to verify."""

from __future__ import annotations

from conftest import wait_until


def held(minibox) -> None:
    done = minibox("verify", "one")
    assert done.returncode == 0, done.stdout.decode()


def test_memory_and_swap_go_up_and_down_together(minibox, up):
    one = up("one", "-m", "64m")
    for memory, swap in (("128m", "256m"), ("32m", "32m"), ("96m", "-1"), ("48m", "64m")):
        done = minibox("update", "-m", memory, "--memory-swap", swap, "one")
        assert done.returncode == 0, done.stderr.decode()
        assert one.read("memory.limit_in_bytes") == str(int(memory[:-1]) << 20)
        found = int(one.read("memory.memsw.limit_in_bytes"))
        assert found > 1 << 60 if swap == "-1" else found == int(swap[:-1]) << 20
        held(minibox)


def test_limits_that_were_not_there_are_added(minibox, up, disk):
    one = up("one")
    flags = (
        "--cpus",
        "0.5",
        "--pids-limit",
        "9",
        "--memory-reservation",
        "16m",
        "--device-write-bps",
        f"{disk[0]}:1m",
    )
    assert minibox("update", *flags, "one").returncode == 0
    assert one.read("cpu.cfs_quota_us") == "50000"
    assert one.read("pids.max") == "9"
    assert one.read("memory.soft_limit_in_bytes") == str(16 << 20)
    assert one.read("blkio.throttle.write_bps_device") == f"{disk[1]} {1 << 20}"
    held(minibox)
    minibox("update", "--device-write-bps", f"{disk[0]}:2m", "one")
    assert one.read("blkio.throttle.write_bps_device") == f"{disk[1]} {2 << 20}"
    held(minibox)


def test_what_was_not_named_stays(minibox, up):
    one = up("one", "-m", "64m", "--cpu-shares", "512", "--pids-limit", "33")
    assert minibox("update", "--cpu-shares", "256", "one").returncode == 0
    assert [one.read(file) for file in ("memory.limit_in_bytes", "cpu.shares", "pids.max")] == [
        str(64 << 20), "256", "33",
    ]  # fmt: skip


def test_a_refused_value_changes_nothing(minibox, up):
    one = up("one", "--cpu-shares", "512", "--cpu-quota", "5000", "--cpu-period", "10000")
    done = minibox("update", "--cpu-shares", "256", "--cpu-burst", "999999999999", "one")
    assert done.returncode == 125
    assert b"the old limits stay in force" in done.stderr
    assert one.read("cpu.shares") == "512"
    held(minibox)


def test_less_than_is_used_is_refused_when_asked_to_check(minibox, up):
    one = up(
        "one", "-m", "64m", script="dd if=/dev/zero of=/dev/shm/f bs=1M count=20 2>&1 && echo up; sleep 100"
    )
    assert wait_until(lambda: minibox("logs", "one").stdout.endswith(b"up\n"))
    done = minibox("update", "--check-before-update", "-m", "4m", "one")
    assert done.returncode == 125
    assert b"more than the new limit: nothing was changed" in done.stderr
    assert one.read("memory.limit_in_bytes") == str(64 << 20)


def test_what_needs_a_group_that_is_not_there_is_refused(minibox, up):
    up("one")
    done = minibox("update", "--cpuset-cpus", "0", "one")
    assert done.returncode == 125
    assert b"no group with the controller cpuset: give the flag to run instead" in done.stderr
    assert minibox("update", "one").returncode != 0
    assert b"is not running" not in minibox("update", "--cpus", "1", "one").stderr


def test_the_new_limits_outlive_the_container(minibox, up):
    up("one", "-m", "64m")
    minibox("update", "-m", "32m", "one")
    minibox("kill", "one")
    minibox("wait", "one")
    assert minibox.state("one")["spec"]["resources"]["memory"] == 32 << 20
    assert b"not running" in minibox("update", "-m", "64m", "one").stderr
