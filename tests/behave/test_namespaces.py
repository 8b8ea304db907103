"""Each kind of namespace: new, the host's, another container's, and one given by a file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import wait_until
from observe import detached, host_uid, namespace

pytestmark = pytest.mark.root

#: flag -> the name of its file in /proc/PID/ns
KINDS = {"--pid": "pid", "--net": "net", "--ipc": "ipc", "--uts": "uts", "--cgroupns": "cgroup"}


@pytest.mark.parametrize("flag", KINDS)
def test_host_is_the_hosts_own(minibox, flag):
    pid = detached(minibox, "one", flag, "host")
    assert namespace(pid, KINDS[flag]) == namespace("self", KINDS[flag])
    others = {kind for other, kind in KINDS.items() if other != flag} | {"user", "mnt"}
    assert all(namespace(pid, kind) != namespace("self", kind) for kind in others)


@pytest.mark.parametrize("flag", KINDS)
def test_what_is_shared_with_the_host_is_said_in_the_plan(minibox, rootfs, flag):
    name = {"--net": "net", "--cgroupns": "cgroup"}.get(flag, flag.strip("-"))
    plan = minibox("plan", flag, "host", rootfs).stdout.decode()
    assert f"note: shared with the host: {name}" in plan


@pytest.mark.parametrize("flag", [*KINDS, "--timens", "--userns", "--mntns"])
def test_new_is_its_own(minibox, flag):
    kind = {**KINDS, "--timens": "time", "--userns": "user", "--mntns": "mnt"}[flag]
    pid = detached(minibox, "one", flag, "new")
    assert namespace(pid, kind) != namespace("self", kind)


@pytest.mark.parametrize("flag", KINDS)
def test_container_is_that_containers_and_so_is_its_user_namespace(minibox, flag):
    web = detached(minibox, "web")
    pid = detached(minibox, "helper", flag, "container:web")
    assert namespace(pid, KINDS[flag]) == namespace(web, KINDS[flag])
    assert namespace(pid, "user") == namespace(web, "user")
    assert host_uid(pid) == host_uid(web)
    others = {kind for other, kind in KINDS.items() if other != flag} | {"mnt"}
    assert all(namespace(pid, kind) != namespace(web, kind) for kind in others)


@pytest.fixture
def keeper(request) -> Iterator[int]:
    """A process of the host's root in a new namespace of the kind that the test is about."""
    kind = KINDS[request.param]
    pid_kind = "pid_for_children" if kind == "pid" else kind
    with subprocess.Popen(["unshare", "--fork", "--kill-child", f"--{kind}", "sleep", "60"]) as process:
        assert wait_until(lambda: namespace(process.pid, pid_kind) not in ("", namespace("self", kind)), 5)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        assert wait_until(lambda: children.read_text() != "")
        yield int(children.read_text())
        process.kill()


@pytest.mark.parametrize(
    ("keeper", "flag"), [(flag, flag) for flag in KINDS if flag != "--pid"], indirect=["keeper"]
)
def test_a_file_of_a_namespace_can_be_joined(keeper, minibox, flag):
    kind = KINDS[flag]
    pid = detached(minibox, "one", flag, f"ns:/proc/{keeper}/ns/{kind}")
    assert namespace(pid, kind) == namespace(keeper, kind)
    assert namespace(pid, "user") != namespace("self", "user")


@pytest.mark.parametrize("keeper", ["--pid"], indirect=True)
def test_a_pid_namespace_of_the_host_needs_its_user_namespace(keeper, minibox, rootfs):
    done = minibox("run", "--pid", f"ns:/proc/{keeper}/ns/pid", rootfs, "true")
    assert done.returncode == 125
    assert b"--userns host" in done.stderr
    pid = detached(minibox, "one", "--pid", f"ns:/proc/{keeper}/ns/pid", "--userns", "host")
    assert namespace(pid, "pid") == namespace(keeper, "pid")


def test_user_namespace_of_a_container_can_be_shared_alone(minibox):
    web = detached(minibox, "web")
    pid = detached(minibox, "helper", "--userns", "container:web")
    assert namespace(pid, "user") == namespace(web, "user")
    assert namespace(pid, "pid") != namespace(web, "pid")
    assert host_uid(pid) == host_uid(web)


def test_several_namespaces_of_a_container_can_be_shared(minibox):
    web = detached(minibox, "web")
    flags = [word for flag in KINDS for word in (flag, "container:web")]
    pid = detached(minibox, "helper", *flags)
    assert all(namespace(pid, kind) == namespace(web, kind) for kind in KINDS.values())


def test_a_container_may_be_named_by_its_beginning(minibox):
    web = detached(minibox, "webserver")
    assert namespace(detached(minibox, "helper", "--net", "container:web"), "net") == namespace(web, "net")


@pytest.mark.parametrize("flag", KINDS)
def test_a_container_that_is_not_there_is_an_error(minibox, rootfs, flag):
    done = minibox("run", flag, "container:nobody", rootfs, "true")
    assert done.returncode == 125
    assert b'no container "nobody"' in done.stderr


def test_a_container_that_has_ended_is_an_error(minibox, rootfs):
    minibox("run", "--keep", "--name", "web", rootfs, "true")
    done = minibox("run", "--net", "container:web", rootfs, "true")
    assert done.returncode == 125
    assert b"not running" in done.stderr


def test_namespaces_of_two_containers_do_not_go_together(minibox, rootfs):
    detached(minibox, "one")
    detached(minibox, "two")
    done = minibox("run", "--net", "container:one", "--ipc", "container:two", rootfs, "true")
    assert done.returncode == 125
    assert b"different user namespaces" in done.stderr


# --- what each one means inside --------------------------------------------------------------------


def test_the_hosts_network_has_the_hosts_interfaces(minibox):
    assert minibox.inside("ls /sys/class/net", "--net", "host").split() == sorted(
        os.listdir("/sys/class/net")
    )


def test_in_the_hosts_pid_namespace_the_hosts_processes_are_seen_and_safe(minibox):
    out = minibox.inside(
        f"cat /proc/{os.getpid()}/comm; kill -0 {os.getpid()} 2>&1 || echo refused", "--pid", "host"
    )
    assert out.splitlines()[0] == Path("/proc/self/comm").read_text().strip()
    assert out.splitlines()[-1] == "refused"


def test_in_the_hosts_pid_namespace_no_child_outlives_the_container(minibox):
    token = f"6{os.getpid()}"
    minibox.inside(f"setsid sleep {token} >/dev/null 2>&1 & :", "--pid", "host")
    words = f"sleep\0{token}\0".encode()

    def running() -> bool:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if words in entry.read_bytes():
                    return True
            except OSError:
                continue
        return False

    assert wait_until(lambda: not running(), 5)


def test_the_hosts_name_is_seen_and_cannot_be_changed(minibox):
    name = os.uname().nodename
    out = minibox.inside("hostname; hostname other 2>&1 || echo refused", "--uts", "host")
    assert out.splitlines()[0] == name
    assert out.splitlines()[-1] == "refused"
    assert os.uname().nodename == name


def test_its_own_cgroup_is_the_top_and_the_hosts_is_not(minibox):
    assert all(
        line.endswith(":/") for line in minibox.inside("grep -E 'pids|memory' /proc/self/cgroup").split()
    )
    out = minibox.inside("cat /proc/self/cgroup", "--cgroupns", "host", "--name", "named")
    assert "/minibox-named" in out


def test_a_helper_sees_the_processes_of_the_container_whose_pid_namespace_it_shares(minibox):
    detached(minibox, "web", command=("sleep", "61"))
    out = minibox.inside("ps -o pid=,args=; stat -c %u /proc/1", "--pid", "container:web")
    lines = [line.split(None, 1) for line in out.splitlines()]
    assert ["1", "sleep 61"] in lines
    assert lines[-1] == ["0"]


def test_a_helper_may_signal_the_container_whose_pid_namespace_it_shares(minibox, rootfs):
    detached(minibox, "web", command=("sh", "-c", "trap 'exit 7' USR1; while :; do sleep 1 & wait $!; done"))

    def signalled() -> bool:  # the trap may not be set yet; the end of PID 1 may be quicker than kill's own
        minibox("run", "--pid", "container:web", rootfs, "kill", "-USR1", "1")
        return minibox.state("web")["status"] == "stopped"

    assert wait_until(signalled)
    assert minibox("wait", "web").stdout == b"7\n"


def test_the_end_of_the_container_is_the_helpers_end(minibox):
    detached(minibox, "web")
    detached(minibox, "helper", "--pid", "container:web")
    minibox("kill", "web")
    assert wait_until(lambda: minibox.state("helper")["status"] == "stopped")
    assert minibox.state("helper")["exit_code"] == 137


def test_a_helper_talks_to_the_container_whose_network_it_shares(minibox):
    detached(minibox, "web", command=("sh", "-c", "while :; do echo hello | nc -l -p 80; done"))
    out = minibox.inside("until nc 127.0.0.1 80 </dev/null; do :; done 2>/dev/null", "--net", "container:web")
    assert out == "hello\n"


# --- the network ---------------------------------------------------------------------------------


@pytest.fixture
def netns() -> Iterator[str]:
    """A network namespace by name, with a dummy interface, if the kernel has it."""
    name = f"test-{os.getpid()}"
    had = os.path.exists("/run/netns")
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)
    if not had:
        subprocess.run(["umount", "/run/netns"], check=True)
        os.rmdir("/run/netns")


def test_a_named_network_namespace_can_be_joined(netns, minibox):
    pid = detached(minibox, "one", "--net", f"ns:/run/netns/{netns}")
    assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/run/netns/{netns}").st_ino
    assert namespace(pid, "user") != namespace("self", "user")
    shown = subprocess.run(["ip", "netns", "pids", netns], capture_output=True, check=True).stdout
    assert shown.split() == [str(pid).encode()]


def test_root_of_the_container_has_no_power_over_a_joined_network(netns, minibox):
    out = minibox.inside(
        "ip link set lo down 2>&1 || echo refused",
        "--net",
        f"ns:/run/netns/{netns}",
        "--cap-add",
        "NET_ADMIN",
    )
    assert out.splitlines()[-1] == "refused"


def test_none_is_the_default_network(minibox, rootfs):
    default = minibox("plan", rootfs).stdout
    assert minibox("plan", "--network", "none", rootfs).stdout == default


def test_without_a_network_nothing_is_reachable(minibox):
    out = minibox.inside("ip route; nc -w 2 192.0.2.1 80 2>&1 </dev/null || echo refused")
    assert "Network is unreachable" in out
    assert out.splitlines()[-1] == "refused"


# --- mount namespaces ----------------------------------------------------------------------------


def test_the_hosts_mount_namespace_is_its_root(minibox, canary):
    out = minibox.inside(
        f"cat {canary.parent.parent}/*/canary/file 2>&1; readlink /proc/self/ns/mnt; cat /proc/self/uid_map",
        "--mntns",
        "host",
        rootfs=Path("/"),
    )
    assert namespace("self", "mnt") in out
    assert " 65536" in out


def test_the_hosts_mount_namespace_takes_no_other_root_and_no_mounts(minibox, rootfs, canary):
    for words in ((rootfs,), ("-v", f"{canary}:/data", "/"), ("--tmpfs", "/x", "/"), ("--read-only", "/")):
        done = minibox("run", "--mntns", "host", *words, "true")
        assert done.returncode == 125
        assert b"--mntns" in done.stderr


def test_a_containers_mount_namespace_is_its_root(minibox):
    web = detached(minibox, "web")
    minibox("exec", "web", "sh", "-c", "echo mine >/mine")
    out = minibox.inside(
        "cat /mine; readlink /proc/self/ns/mnt",
        "--mntns",
        "container:web",
        "--pid",
        "container:web",
        rootfs=Path("/"),
    )
    assert out.split() == ["mine", namespace(web, "mnt")]


# --- clocks --------------------------------------------------------------------------------------


def uptime(text: str) -> float:
    return float(text.split()[0])


@pytest.mark.parametrize(
    ("offset", "seconds"), [("1000000", 1000000), ("boottime=5000.5", 5000.5), ("-10", -10)]
)
def test_time_offsets_move_the_clocks(minibox, offset, seconds):
    before = uptime(Path("/proc/uptime").read_text())
    inside = uptime(minibox.inside("cat /proc/uptime", "--time-offset", offset))
    after = uptime(Path("/proc/uptime").read_text())
    assert before + seconds - 0.02 <= inside <= after + seconds + 0.02


def test_both_clocks_are_moved_unless_one_is_named(minibox):
    pid = detached(minibox, "one", "--time-offset", "60", "--time-offset", "boottime=7")
    offsets = Path(f"/proc/{pid}/timens_offsets").read_text().split()
    assert offsets == ["monotonic", "60", "0", "boottime", "7", "0"]
    assert namespace(pid, "time") != namespace("self", "time")


def test_an_exec_sees_the_containers_clocks(minibox):
    detached(minibox, "one", "--time-offset", "1000000")
    inside = uptime(minibox("exec", "one", "cat", "/proc/uptime").stdout.decode())
    assert inside > uptime(Path("/proc/uptime").read_text()) + 999_000


def test_a_containers_clocks_can_be_shared(minibox):
    web = detached(minibox, "web", "--time-offset", "1000000")
    pid = detached(minibox, "helper", "--timens", "container:web", "--userns", "container:web")
    assert namespace(pid, "time") == namespace(web, "time")


# --- the rest ------------------------------------------------------------------------------------


def test_a_sysctl_of_a_namespace_of_its_own_is_set_there_only(minibox):
    before = Path("/proc/sys/net/ipv4/ip_default_ttl").read_text()
    assert (
        minibox.inside("cat /proc/sys/net/ipv4/ip_default_ttl", "--sysctl", "net.ipv4.ip_default_ttl=77")
        == "77\n"
    )
    assert Path("/proc/sys/net/ipv4/ip_default_ttl").read_text() == before
    assert minibox.inside("cat /proc/sys/kernel/shmmni", "--sysctl", "kernel.shmmni=99") == "99\n"


@pytest.mark.parametrize("flags", [
    ("--sysctl", "kernel.core_pattern=|/x"), ("--sysctl", "vm.swappiness=1"),
    ("--net", "host", "--sysctl", "net.ipv4.ip_default_ttl=77"),
    ("--sysctl", "net/../kernel/core_pattern=x"), ("--sysctl", "kernel.shm_rmid_forced\n=1"),
])  # fmt: skip
def test_a_sysctl_of_the_machine_is_refused(minibox, rootfs, flags):
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    done = minibox("run", *flags, rootfs, "true")
    assert done.returncode == 125
    assert b"--sysctl" in done.stderr
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before
