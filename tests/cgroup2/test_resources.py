"""The rest of the limits, devices by a BPF program, pause, update and stats, where all is cgroup v2."""

from __future__ import annotations

import json
import os
import stat
import subprocess

import pytest
from conftest import wait_until

from minibox.cgroup import devices, v2
from minibox.kernel import host

pytestmark = pytest.mark.cgroup2
NODES = (
    "for n in b\\ 254\\ 0 b\\ 7\\ 0 c\\ 1\\ 1; do rm -f /v/n; mknod /v/n $n && echo made; "
    "(: </v/n) 2>&1; done; true"
)


def has(controller: str) -> bool:
    with open("/sys/fs/cgroup/cgroup.controllers") as file:
        return controller in file.read().split()


def rules() -> str:
    """Why this kernel has no rules for devices, "" when it has."""
    return host.probe().no_devices


@pytest.mark.parametrize(("controller", "flags", "file", "value"), [
    ("memory", ("-m", "64m", "--memory-reservation", "32m"), "memory.low", str(32 << 20)),
    ("cpu", ("--cpu-period", "50000", "--cpu-quota", "20000"), "cpu.max", "20000 50000"),
    ("cpu", ("--cpu-period", "50000"), "cpu.max", "max 50000"),
    ("cpu", ("--cpu-shares", "1024"), "cpu.weight", "100"),
    ("cpu", ("--cpu-idle",), "cpu.idle", "1"),
    ("cpuset", ("--cpuset-mems", "0"), "cpuset.mems", "0"),
    ("memory", ("--cgroup-conf", "memory.high=16777216"), "memory.high", str(16 << 20)),
    ("pids", ("--cgroup-conf", "cgroup.max.depth=3"), "cgroup.max.depth", "3"),
])  # fmt: skip
def test_the_value_stands_in_the_file_and_verify_agrees(minibox, up, controller, flags, file, value):
    if not has(controller):
        pytest.skip(f"this kernel has no {controller} controller")
    assert up("one", *flags).read(file) == value
    done = minibox("verify", "one")
    assert done.returncode == 0, done.stdout.decode()


def test_a_disk_is_throttled(minibox, up):
    subprocess.run(["modprobe", "-qa", "loop"], check=False)  # not where it is built in
    disks = [name for name in sorted(os.listdir("/sys/block")) if not name.startswith(("ram", "zram", "sr"))]
    if not has("io") or not disks:
        pytest.skip("no disk, or no io controller")
    with open(f"/sys/block/{disks[0]}/dev") as file:
        numbers = file.read().strip()
    group = up("one", "--device-read-bps", f"{numbers}:2m", "--device-write-iops", f"{numbers}:100")
    assert group.read("io.max") == f"{numbers} rbps={2 << 20} wbps=max riops=max wiops=100"
    assert minibox("verify", "one").returncode == 0


@pytest.mark.parametrize("flags", [
    ("-m", "64m", "--memory-swappiness", "7"), ("-m", "64m", "--oom-kill-disable"),
    ("--cpu-rt-runtime", "1000"), ("--net-classid", "1"), ("--net-prio", "lo=3"),
])  # fmt: skip
def test_what_the_kernel_has_for_v1_only_is_refused(minibox, rootfs, flags):
    done = minibox("run", *flags, rootfs, "true")
    assert done.returncode == 125
    assert (
        f"{flags[-2] if not flags[-1].startswith('--') else flags[-1]}: the kernel has it for cgroup v1 only"
        in done.stderr.decode()
    )


def test_weights_are_those_of_runc_and_crun():
    assert [v2.weight(shares) for shares in (2, 100, 512, 1024, 2000, 262144)] == [1, 17, 59, 100, 170, 10000]
    assert [v2.io_weight(blkio) for blkio in (10, 500, 1000)] == [1, 4950, 10000]


# --- devices -----------------------------------------------------------------------------------------------


def test_nodes_can_be_made_and_not_opened_without_a_user_namespace(inside, tmp_path):
    if rules():
        assert inside("mknod /bin/n b 7 0 2>/dev/null || echo refused", "--userns", "host") == "refused\n"
        pytest.skip(rules())
    out = inside(NODES, "--userns", "host", "-v", f"{tmp_path}:/v:dev")
    assert out.count("made") == 3
    assert out.count("Operation not permitted") == 3
    assert (
        inside("cat /dev/null; echo x >/dev/null; head -c 3 /dev/zero | wc -c", "--userns", "host") == "3\n"
    )


@pytest.fixture
def device() -> str:
    """A device that root may open, and that no default rule allows."""
    for path in ("/dev/cpu_dma_latency", "/dev/loop0", "/dev/net/tun", "/dev/fuse", "/dev/ttyS0"):
        if os.path.exists(path):
            return path
    pytest.skip("no device to open")


def test_what_is_granted_is_read_and_not_written(inside, tmp_path, device):
    if rules():
        pytest.skip(rules())
    status = os.stat(device)
    kind = "b" if stat.S_ISBLK(status.st_mode) else "c"
    number = (os.major(status.st_rdev), os.minor(status.st_rdev))
    made = "mknod /v/n {} {} {}".format(kind, *number)
    script = f"{made}; (: </v/n) && echo read; (: 2>/dev/null >/v/n) || echo refused"
    flags = ("--userns", "host", "-v", f"{tmp_path}:/v:dev")
    assert inside(script + "; true", *flags) == "refused\n"
    rule = "{} {}:{} r".format(kind, *number)
    assert inside(script, *flags, "--device-cgroup-rule", rule) == "read\nrefused\n"
    assert (
        inside(f"{made}; (: </v/n) && (: >/v/n) && echo both", *flags, "--device-cgroup-rule", "a *:* rwm")
        == "both\n"
    )


def test_a_device_is_shown_with_an_owner_inside(inside, device):
    kind = "block special file" if stat.S_ISBLK(os.stat(device).st_mode) else "character special file"
    out = inside("stat -c '%F %u %g' /dev/x; (: </dev/x) && echo read", "--device", f"{device}:/dev/x:r")
    assert out == f"{kind} 0 0\nread\n"


def test_verify_knows_the_program_and_notices_another(minibox, up):
    if rules():
        pytest.skip(rules())
    group = up("one")
    assert minibox("verify", "one").returncode == 0
    devices.attach(str(group.path), ("a *:* rwm",))
    done = minibox("verify", "one")
    assert done.returncode == 1
    assert b"cgroup.unified.devices" in done.stdout


def test_the_program_says_what_the_rules_say():
    """Every access of some devices, by a small interpreter of the instructions."""
    wanted = ("c *:* m", "c 1:3 rwm", "b 8:* r", "c 136:* rw")
    code = devices.assemble(wanted)
    for kind in "bc":
        for major, minor in ((1, 3), (1, 5), (8, 0), (8, 16), (136, 7)):
            for bits in range(1, 8):
                allowed = any(_allows(rule, kind, major, minor, bits) for rule in wanted)
                assert _run(code, kind, major, minor, bits) == allowed, (kind, major, minor, bits)


def _allows(rule: str, kind: str, major: int, minor: int, bits: int) -> bool:
    its, numbers, access = rule.split()
    first, second = numbers.split(":")
    granted = sum(devices.ACCESS[letter] for letter in access)
    same = its in ("a", kind) and first in ("*", str(major)) and second in ("*", str(minor))
    return same and bits & ~granted == 0


def _run(code: bytes, kind: str, major: int, minor: int, bits: int) -> bool:
    import struct

    context = (bits << 16 | devices.TYPES[kind], major, minor)
    registers, place = [0] * 11, 0
    while True:
        opcode, both, off, imm = struct.unpack_from("<BBhI", code, place * 8)
        dst, src = both & 15, both >> 4
        place += 1
        if opcode == devices.LDX_MEM_W:
            registers[dst] = context[off // 4]
        elif opcode == devices.MOV_K:
            registers[dst] = imm
        elif opcode == devices.MOV_X:
            registers[dst] = registers[src]
        elif opcode == devices.AND_K:
            registers[dst] &= imm
        elif opcode == devices.RSH_K:
            registers[dst] >>= imm
        elif opcode in (devices.JNE_K, devices.JNE_X):
            place += off * (registers[dst] != (imm if opcode == devices.JNE_K else registers[src]))
        else:
            assert opcode == devices.EXIT
            return bool(registers[0])


# --- verbs -------------------------------------------------------------------------------------------------


def test_pause_and_unpause(minibox, up):
    group = up("one", script="while :; do :; done")
    assert minibox("pause", "one").returncode == 0
    assert "frozen 1" in group.read("cgroup.events")
    assert b"paused" in minibox("ps").stdout
    assert b"is paused" in minibox("exec", "one", "true").stderr
    assert minibox("unpause", "one").returncode == 0
    assert b"running" in minibox("ps").stdout
    minibox("pause", "one")
    assert minibox("kill", "one").returncode == 0
    assert wait_until(lambda: b"exited (137)" in minibox("ps").stdout)


def test_update_changes_what_is_in_force(minibox, up):
    group = up("one", "-m", "64m")
    flags = ["-m", "32m", "--memory-swap", "48m", "--pids-limit", "9"] + (
        ["--cpus", "0.5"] if has("cpu") else []
    )
    done = minibox("update", *flags, "one")
    assert done.returncode == 0, done.stderr.decode()
    assert [group.read(file) for file in ("memory.max", "memory.swap.max", "pids.max")] == [
        str(32 << 20), str(16 << 20), "9",
    ]  # fmt: skip
    if has("cpu"):
        assert group.read("cpu.max") == "50000 100000"
    done = minibox("verify", "one")
    assert done.returncode == 0, done.stdout.decode()


def test_stats_count(minibox, up):
    up("one", "-m", "64m", script="while :; do :; done")
    row = json.loads(minibox("stats", "--no-stream", "--json", "one").stdout)
    assert row["cpu_percent"] > 20
    assert (row["memory_limit"], row["pids"]) == (64 << 20, 1)


def test_a_parent_group_hands_down(minibox, rootfs):
    os.mkdir("/sys/fs/cgroup/minibox-parent")
    try:
        done = minibox(
            "run",
            "-d",
            "--name",
            "one",
            "-m",
            "64m",
            "--cgroup-parent",
            "/minibox-parent",
            rootfs,
            "sleep",
            "100",
        )
        assert done.returncode == 0, done.stderr.decode()
        with open("/sys/fs/cgroup/minibox-parent/minibox-one/memory.max") as file:
            assert file.read().strip() == str(64 << 20)
        assert minibox("rm", "-f", "one").returncode == 0
    finally:
        os.rmdir("/sys/fs/cgroup/minibox-parent")
