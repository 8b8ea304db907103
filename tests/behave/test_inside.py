"""What a process in a default container sees and may do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import compile_c
from observe import FOURTEEN, detached, mounts, namespace, parse_status, status


def test_it_is_root_and_alone(minibox):
    out = minibox.inside("id -u; echo $$; ps -o comm= >/tmp/list; cat /tmp/list")
    assert out.split() == ["0", "1", "sh", "ps"]


@pytest.mark.root
def test_pid_one_has_an_unprivileged_uid_outside(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "sleep", "60")
    pid = minibox.state("one")["pid"]
    with open(f"/proc/{pid}/status") as file:
        uids = next(line for line in file if line.startswith("Uid:")).split()[1:]
    assert len(set(uids)) == 1
    assert int(uids[0]) > 65536


def test_seven_namespaces_are_its_own(minibox):
    pid = detached(minibox, "one")
    for kind in ("user", "pid", "net", "mnt", "uts", "ipc", "cgroup"):
        assert namespace(pid, kind) != namespace("self", kind), kind
    assert namespace(pid, "time") == namespace("self", "time")


def test_its_host_name_is_its_own(minibox):
    before = os.uname().nodename
    assert minibox.inside("hostname", "--name", "box-1") == "box-1\n"
    assert os.uname().nodename == before


def test_lo_is_up_and_the_only_interface(minibox):
    out = minibox.inside(
        "ls /sys/class/net; cat /sys/class/net/lo/flags; timeout 9 nc -l -p 1234 </dev/null >/tmp/got &"
        "until echo joined | timeout 9 nc 127.0.0.1 1234; do :; done 2>/dev/null; wait; cat /tmp/got",
        timeout=20,
    )
    name, flags, joined = out.split()
    assert name == "lo"
    assert int(flags, 16) & 1  # IFF_UP
    assert joined == "joined"


def test_no_file_of_the_host_is_seen(minibox, rootfs, canary):
    out = minibox.inside(f"ls -A /; ls {canary} 2>&1 || echo hidden")
    assert out.splitlines()[:-2] == sorted(os.listdir(rootfs))
    assert out.splitlines()[-1] == "hidden"


def test_nothing_of_the_host_is_mounted_but_six_devices(minibox):
    found = mounts(minibox.inside("cat /proc/self/mountinfo"))
    of_the_host = {place for place, one in found.items() if one.kind in ("devtmpfs", "ext4", "xfs", "btrfs")}
    assert of_the_host <= {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
    assert {one.propagation for one in found.values()} == {""}


def test_three_descriptors_are_open(minibox):
    assert minibox.inside("ls /proc/1/fd; :").split() == ["0", "1", "2"]


def test_a_descriptor_of_the_caller_is_not_inherited(minibox, rootfs, canary):
    fd = os.open(canary, os.O_RDONLY)
    process = minibox.start("run", rootfs, "ls", "/proc/1/fd", pass_fds=[fd])
    os.close(fd)
    assert process.communicate()[0].split() == [b"0", b"1", b"2", b"3"]  # 3 is ls's own


def test_it_has_the_fourteen_capabilities_a_filter_and_no_new_privileges(minibox):
    import prctl

    found = parse_status(minibox.inside("cat /proc/self/status"))
    able = [name for name in FOURTEEN if getattr(prctl.capbset, name.lower())]
    wanted = sum(1 << getattr(prctl, f"CAP_{name}") for name in able)
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == int(found["CapBnd"], 16) == wanted
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0
    assert (found["Seccomp"], found["NoNewPrivs"]) == ("2", "1")


def test_the_host_sees_the_same_protections(minibox):
    found = status(detached(minibox, "one"))
    assert (found["Seccomp"], found["NoNewPrivs"]) == ("2", "1")
    assert int(found["CapInh"], 16) == 0
    assert int(found["CapEff"], 16) & 1 << 21 == 0  # CAP_SYS_ADMIN


def test_sh_is_the_default_command(minibox, rootfs):
    done = minibox("run", rootfs, stdin=b"echo $0 $$\n")
    assert done.stdout == b"sh 1\n"


def test_streams_are_the_callers(minibox, rootfs):
    done = minibox("run", rootfs, "sh", "-c", "cat; echo problem >&2", stdin=b"text")
    assert (done.stdout, done.stderr) == (b"text", b"problem\n")


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 255", 255)])
def test_the_exit_code_is_the_commands(minibox, rootfs, script, code):
    assert minibox("run", rootfs, "sh", "-c", script).returncode == code


def test_a_death_by_signal_is_128_and_its_number(minibox, rootfs):
    done = minibox("run", "--init", rootfs, "sh", "-c", "kill -USR1 $$")
    assert done.returncode == 128 + 10


def test_a_crash_of_pid_one_is_128_and_its_number(minibox, rootfs, tmp_path):
    """What the kernel sends on a fault ends even an init."""
    compile_c("int main(void) { *(volatile int *)0 = 1; }", tmp_path / "crash")
    assert minibox("run", "-v", f"{tmp_path}/crash:/crash", rootfs, "/crash").returncode == 128 + 11


def test_the_command_gets_its_arguments_unchanged(minibox, rootfs):
    words = ["a b", "", "$HOME", "*", "--name", "ü"]
    done = minibox("run", rootfs, "printf", "%s|", *words)
    assert done.stdout.decode() == "|".join(words) + "|"


def test_proc_sys_and_cgroups_are_read_only(minibox):
    found = mounts(minibox.inside("cat /proc/self/mountinfo"))
    for place in ("/proc/sys", "/proc/bus", "/proc/irq", "/sys", "/sys/fs/cgroup"):
        assert "ro" in found[place].options, place
    below = [one for place, one in found.items() if place.startswith("/sys/fs/cgroup/")]
    assert all("ro" in one.options for one in below)


def test_the_machines_settings_are_refused(minibox):
    before = Path("/proc/sys/kernel/panic").read_text()
    out = minibox.inside(
        "echo 77 2>&1 >/proc/sys/kernel/panic || echo refused; "
        "mkdir /sys/fs/cgroup/pids/x 2>&1 || mkdir /sys/fs/cgroup/x 2>&1 || echo refused"
    )
    assert out.count("refused") == 2
    assert "Read-only file system" in out
    assert Path("/proc/sys/kernel/panic").read_text() == before


@pytest.mark.parametrize("path", [
    "/proc/kcore", "/proc/keys", "/proc/kallsyms", "/proc/interrupts", "/proc/timer_list", "/proc/kmsg",
    "/proc/vmallocinfo", "/proc/slabinfo", "/proc/kpagecount",
])  # fmt: skip
def test_a_masked_file_reads_empty_and_takes_nothing(minibox, path):
    if not os.path.exists(path):
        assert minibox.inside(f"test -e {path} || echo absent") == "absent\n"
        return
    out = minibox.inside(f"wc -c <{path}; echo x 2>&1 >{path} || echo refused")
    assert out.split()[0] == "0"
    assert "refused" in out


@pytest.mark.parametrize("path", ["/sys/firmware", "/proc/acpi", "/sys/kernel/debug", "/sys/kernel/tracing"])
def test_a_masked_directory_is_empty(minibox, path):
    out = minibox.inside(f"test -d {path} && ls -A {path} | wc -l || echo absent")
    assert out == ("0\n" if os.path.exists(path) else "absent\n")


def test_dev_has_what_programs_expect_and_no_more(minibox):
    names = minibox.inside("ls /dev").split()
    assert names == sorted(
        [
            "fd",
            "full",
            "mqueue",
            "null",
            "ptmx",
            "pts",
            "random",
            "shm",
            "stderr",
            "stdin",
            "stdout",
            "tty",
            "urandom",
            "zero",
        ]
    )


def test_the_devices_work(minibox):
    out = minibox.inside(
        "head -c 4 /dev/zero | xxd -p; head -c 4 /dev/urandom | wc -c; echo x >/dev/null; "
        "echo x 2>&1 >/dev/full || :; cat /dev/stdin </proc/self/cmdline | wc -c"
    )
    zeros, random, full, *_rest = out.splitlines()
    assert (zeros, random) == ("00000000", "4")
    assert "No space left" in full


def test_no_device_can_be_made(minibox):
    out = minibox.inside("mknod /tmp/mem c 1 1 2>&1 || echo refused")
    assert "refused" in out


def test_shared_memory_is_limited(minibox):
    out = minibox.inside("dd if=/dev/zero of=/dev/shm/big bs=1M count=80 2>&1 || echo full")
    assert out.splitlines()[-1] == "full"


def test_core_files_are_off(minibox):
    assert minibox.inside("ulimit -c; ulimit -Hc").split() == ["0", "0"]


def test_files_have_the_modes_of_umask_022(minibox):
    old = os.umask(0o077)
    try:
        assert minibox.inside("umask; touch /tmp/file; stat -c %a /tmp/file").split() == ["0022", "644"]
    finally:
        os.umask(old)


def test_the_session_is_its_own(minibox):
    pid = detached(minibox, "one")
    assert os.getsid(pid) == pid
    assert status(pid)["NSsid"].split()[-1] == "1"


def test_signals_that_the_caller_ignores_are_not_ignored_inside(minibox, rootfs):
    import signal

    process = minibox.start(
        "run", rootfs, "cat", "/proc/self/status",
        preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN), restore_signals=False,
    )  # fmt: skip
    found = parse_status(process.communicate()[0].decode())
    assert int(found["SigIgn"], 16) == int(found["SigBlk"], 16) == 0


def test_twenty_starts_leave_the_hosts_mounts_alone(minibox, rootfs):
    before = Path("/proc/self/mountinfo").read_bytes()
    for _turn in range(20):
        assert minibox("run", rootfs, "true").returncode == 0
    assert Path("/proc/self/mountinfo").read_bytes() == before
