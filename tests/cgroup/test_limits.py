"""Every limit of the OCI's linux.resources: in the group's file, agreed to by verify, or refused by name."""

from __future__ import annotations

import os
import time

import pytest
from conftest import ROOTFS, wait_until

FILES = [
    (("-m", "64m", "--memory-reservation", "32m"), "memory.soft_limit_in_bytes", str(32 << 20)),
    (("-m", "64m", "--memory-swappiness", "7"), "memory.swappiness", "7"),
    (("-m", "64m", "--oom-kill-disable"), "memory.oom_control", "oom_kill_disable 1"),
    (("--cpu-period", "50000", "--cpu-quota", "20000"), "cpu.cfs_quota_us", "20000"),
    (("--cpu-period", "50000"), "cpu.cfs_period_us", "50000"),
    (("--cpu-quota", "20000", "--cpu-burst", "9000"), "cpu.cfs_burst_us", "9000"),
    (("--cpu-idle",), "cpu.idle", "1"),
    (("--cpu-rt-period", "900000", "--cpu-rt-runtime", "1000"), "cpu.rt_runtime_us", "1000"),
    (("--cpuset-mems", "0"), "cpuset.mems", "0"),
    (("--blkio-weight", "300"), "blkio.bfq.weight", "300"),
    (("--hugetlb", "2m=4m"), "hugetlb.2MB.max", str(4 << 20)),  # in the v2 part of a hybrid host
    (("--cgroup-conf", "hugetlb.2MB.max=4194304"), "hugetlb.2MB.max", str(4 << 20)),
    (("--cgroup-conf", "cgroup.max.depth=3"), "cgroup.max.depth", "3"),
]


@pytest.mark.parametrize(("flags", "file", "value"), FILES)
def test_the_value_stands_in_the_file_and_verify_agrees(minibox, up, flags, file, value):
    if file.startswith("hugetlb") and "hugetlb" not in hybrid_controllers():
        pytest.skip("the controller hugetlb is not in the v2 hierarchy of this host")
    one = up("one", *flags)
    assert one.read(file).splitlines()[0] == value
    done = minibox("verify", "one")
    assert done.returncode == 0, done.stdout.decode()


def hybrid_controllers() -> list[str]:
    try:
        with open("/sys/fs/cgroup/unified/cgroup.controllers") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def test_a_disk_is_throttled_by_path_or_numbers(minibox, up, disk):
    path, numbers = disk
    one = up(
        "one", "--device-read-bps", f"{path}:2m", "--device-write-bps", f"{numbers}:1m",
        "--device-read-iops", f"{path}:300", "--device-write-iops", f"{path}:200",
    )  # fmt: skip
    assert one.read("blkio.throttle.read_bps_device") == f"{numbers} {2 << 20}"
    assert one.read("blkio.throttle.write_bps_device") == f"{numbers} {1 << 20}"
    assert one.read("blkio.throttle.read_iops_device") == f"{numbers} 300"
    assert one.read("blkio.throttle.write_iops_device") == f"{numbers} 200"
    assert minibox("verify", "one").returncode == 0


def test_verify_notices_a_limit_that_was_taken_off(minibox, up):
    one = up("one", "-m", "64m", "--cpus", "0.5")
    for directory in one.state["cgroups"]:
        for file in ("cpu.cfs_quota_us", "memory.limit_in_bytes"):
            if os.path.exists(f"{directory}/{file}") and "memsw" not in file:
                with open(f"{directory}/{file}", "w") as setting:
                    setting.write("-1" if file.startswith("cpu") else str(32 << 20))
    out = minibox("verify", "one")
    assert out.returncode == 1
    assert b"cgroup.cpu.cpu.cfs_quota_us" in out.stdout
    assert b"memory.limit_in_bytes" in out.stdout


@pytest.mark.parametrize(("flags", "words"), [
    (("--net-classid", "1"), "--net-classid: the cgroup controller net_cls is not available on this host"),
    (("--net-prio", "lo=3"), "--net-prio: the cgroup controller net_prio is not available"),
    (("--rdma", "mlx5_1=handles:2,objects:2000"), "--rdma: the cgroup controller rdma is not available"),
    (("--rdma", "mlx5_1=pages:2"), "--rdma"),
    (("--cgroup-conf", "memory.high=1m"), "memory.high is of cgroup v2, and the controller memory is in a"),
    (("--cgroup-conf", "cgroup.procs=1"), '"cgroup.procs" is no setting'),
    (("--cgroup-conf", "../x.y=1"), "is no setting of a cgroup v2"),
    (("--cpus", "1", "--cpu-quota", "5000"), "--cpus"),
    (("--cpu-quota", "10"), "--cpu-quota: the kernel's least is 1000"),
    (("--cpu-idle", "--cpu-shares", "5"), "--cpu-idle"),
    (("-m", "32m", "--memory-reservation", "33m"), "--memory-reservation: is more than --memory"),
    (("--memory-swappiness", "101"), "--memory-swappiness"),
    (("--blkio-weight", "9"), "--blkio-weight"),
    (("--hugetlb", "3m=4m"), "--hugetlb: this machine has no huge pages of 3m"),
    (("--device-read-bps", "/dev/null:1m"), "--device-read-bps: /dev/null is no block device"),
    (("--device-read-bps", "/dev/nowhere:1m"), "--device-read-bps: /dev/nowhere"),
    (("--device-write-iops", "1m"), "is not DEVICE:VALUE"),
    (("--device-cgroup-rule", "x 1:3 r"), "--device-cgroup-rule"),
    (("--device-cgroup-rule", "c 1:3"), "--device-cgroup-rule"),
    (("--device", "/etc/passwd"), "--device: /etc/passwd is no device node"),
    (("--device", "/dev/null:/x:z"), "--device"),
    (("--cgroup-parent", "../x"), "--cgroup-parent"),
    (("--cpuset-mems", "7"), "cgroup.cpuset.cpuset.mems failed"),
    (("--blkio-weight-device", "7:0:100"), "this disk's scheduler knows no weights"),
])  # fmt: skip
def test_what_cannot_be_had_is_refused_by_name(refused, flags, words):
    assert words in refused(*flags)


def test_a_parent_group_holds_the_containers(minibox, up):
    parents = [
        f"/sys/fs/cgroup/{name}/minibox-parent"
        for name in ("pids", "memory", "freezer", "cpu", "cpuacct", "blkio", "devices")
    ]
    for parent in parents:
        os.mkdir(parent)
    try:
        one = up("one", "--cgroup-parent", "/minibox-parent")
        assert all("/minibox-parent/minibox-one" in group for group in one.state["cgroups"])
        assert minibox("verify", "one").returncode == 0
        assert minibox("rm", "-f", "one").returncode == 0
        assert not any(os.listdir(parent) == ["minibox-one"] for parent in parents)
    finally:
        for parent in parents:
            os.rmdir(parent)


def test_a_parent_that_is_not_there_is_named(refused):
    text = refused("--cgroup-parent", "/nowhere")
    assert "/nowhere/minibox-" in text
    assert "the group that --cgroup-parent names has to be there" in text


# --- in force ------------------------------------------------------------------------------------------


def test_who_eats_memory_is_killed_told_and_recorded(minibox):
    done = minibox("run", "--name", "eater", "--memory", "32m", ROOTFS, "tail", "/dev/zero")
    assert done.returncode == 137
    assert b"oom_killed" in done.stderr
    events = [line.split()[1] for line in minibox("events", "--no-follow").stdout.decode().splitlines()]
    assert events == ["create", "start", "oom", "exit", "remove"]


def test_a_fork_bomb_is_held_and_the_host_stays_quick(minibox, up):
    bomb = "bomb() { bomb | bomb & }; (bomb) 2>/dev/null & exec sleep 100"
    one = up("one", "--pids-limit", "20", script=bomb)
    begun = time.monotonic()
    assert minibox("run", ROOTFS, "true").returncode == 0
    assert time.monotonic() - begun < 5
    assert wait_until(lambda: int(one.read("pids.events").split()[1]) > 0)
    assert int(one.read("pids.current")) <= 20
    assert minibox("rm", "-f", "one").returncode == 0
    assert not any(os.path.exists(group) for group in one.state["cgroups"])


def test_half_a_processor_is_half_a_processor(minibox, up):
    """By the kernel's own account: processor time used, of what three seconds of the clock would give."""
    one = up("one", "--cpus", "0.5", script="while :; do :; done")
    before, begun = int(one.read("cpuacct.usage")), time.monotonic_ns()
    time.sleep(3)
    used, passed = int(one.read("cpuacct.usage")) - before, time.monotonic_ns() - begun
    assert 0.45 < used / passed < 0.55
