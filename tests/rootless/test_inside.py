"""What an ordinary user's container sees: as much, and as little, as root's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.helpers import UID, namespace, tree_of

pytestmark = pytest.mark.rootless

DEFAULT_CAPS = 0xA80425FB  # the fourteen


def own(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith(key + ":")), 16)


def facts(text: str) -> dict[str, str]:
    return dict(line.split(":\t") for line in text.splitlines())


# --- namespaces -------------------------------------------------------------------------------------


def test_it_is_alone(inside):
    assert inside("echo $$; ps -o pid= >/tmp/ps; wc -l </tmp/ps").split() == ["1", "2"]  # sh and ps


def test_every_namespace_is_its_own(up):
    pid = up("one")
    for kind in ("user", "pid", "net", "mnt", "uts", "ipc", "cgroup"):
        assert namespace(pid, kind) != namespace("self", kind)


def test_its_host_name_is_its_name(inside):
    assert inside("hostname", "--name", "mine").strip() == "mine"
    assert os.uname().nodename != "mine"


def test_lo_is_up_and_alone(inside):
    out = inside(
        "ls /sys/class/net; cat /sys/class/net/lo/flags; ping -c 1 -w 2 127.0.0.1 >/dev/null && echo answered"
    )
    name, flags, answered = out.split()
    assert name == "lo"
    assert int(flags, 16) & 1  # IFF_UP
    assert answered == "answered"


def test_proc_is_of_its_own_pid_namespace(inside):
    out = inside("grep ' /proc ' /proc/mounts; readlink /proc/self; ls -d /proc/[0-9]* | wc -l")
    mount, number, count = out.splitlines()
    assert mount.startswith("proc /proc proc rw,nosuid,nodev,noexec")
    assert int(number) < 10
    assert int(count) < 6


@pytest.mark.parametrize(
    ("flag", "kind"), [("--net", "net"), ("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts")]
)
def test_a_namespace_of_the_host_can_be_shared(inside, flag, kind):
    assert inside(f"readlink /proc/self/ns/{kind}", flag, "host").strip() == namespace("self", kind)


def test_a_shared_network_can_be_seen_and_not_changed(inside):
    out = inside(
        "ls /sys/class/net; ip link set lo down 2>&1 || true", "--net", "host", "--cap-add", "NET_ADMIN"
    )
    assert set(os.listdir("/sys/class/net")) <= set(out.split())
    assert "Operation not permitted" in out


# --- the root ---------------------------------------------------------------------------------------


def test_changes_go_to_a_layer_and_rootfs_stays_as_it_is(minibox, up, rootfs):
    before = tree_of(rootfs)
    up("one")
    script = """echo new >/etc/new; rm /etc/passwd; chmod 700 /etc/group
        rm -r /home; mkdir /home; mv /srv /srv2; ls /home"""
    done = minibox("exec", "one", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    layer = minibox.data_dir / "one"
    assert (layer / "upper" / "etc" / "new").read_text() == "new\n"
    assert layer.stat().st_uid == UID
    minibox("rm", "-f", "one")
    assert not layer.exists()
    assert tree_of(rootfs) == before


def test_the_layer_lies_in_the_users_data_directory_by_default(minibox, rootfs, tmp_path):
    name, home = f"rootless-{os.getpid()}", tmp_path / "home"
    home.mkdir()
    environment = {"MINIBOX_DATA": "", "XDG_DATA_HOME": str(home)}
    assert minibox("run", "-d", "--name", name, rootfs, "sleep", "100", **environment).returncode == 0
    assert (home / "minibox" / name / "upper").is_dir()
    assert minibox("rm", "-f", name, **environment).returncode == 0
    assert list((home / "minibox").iterdir()) == []


def test_the_root_is_an_overlay_without_devices_and_set_uid_programs(inside):
    line = inside("grep ' / ' /proc/mounts")
    assert line.startswith("overlay / overlay rw,nosuid,nodev")


def test_writable_changes_the_users_own_root(minibox, own_root):
    assert minibox("run", "--writable", own_root, "touch", "/new").returncode == 0
    assert (own_root / "new").stat().st_uid == UID


def test_a_read_only_root_cannot_be_written_to_and_a_tmpfs_in_it_can(inside):
    out = inside(
        "touch /x 2>&1 || true; touch /t/x && grep ' /t ' /proc/mounts",
        "--read-only",
        "--tmpfs",
        "/t:size=1m",
    )
    assert "Read-only file system" in out
    assert "size=1024k" in out


# --- volumes ----------------------------------------------------------------------------------------


def test_a_directory_of_the_users_own_is_written_to_as_the_user(inside, tmp_path):
    inside("echo hello >/v/f", "-v", f"{tmp_path}:/v")
    assert (tmp_path / "f").read_text() == "hello\n"
    assert (tmp_path / "f").stat().st_uid == UID


def test_a_read_only_volume_is_not_written_to(inside, canary):
    assert "Read-only" in inside("rm /v/file 2>&1 || true", "-v", f"{canary}:/v:ro")
    assert (canary / "file").read_text() == "untouched\n"


def test_a_directory_of_somebody_else_is_not_written_to(minibox, inside):
    assert "denied" in inside("touch /v/x 2>&1 || true", "-v", "/usr/share:/v")


def test_what_the_user_cannot_read_stays_closed_to_the_containers_root(inside):
    assert os.stat("/etc/shadow").st_uid == 0
    assert "denied" in inside("cat /v/shadow 2>&1 || true", "-v", "/etc:/v")


def test_idmap_is_refused_with_its_reason(refused, tmp_path):
    error = refused("-v", f"{tmp_path}:/v:idmap")
    assert "idmap on /v needs root" in error
    assert "belong to the container's root already" in error


# --- what it may not do -----------------------------------------------------------------------------


def test_capabilities_filter_and_no_new_privs_are_as_for_root(inside):
    found = facts(inside("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"))
    expected = DEFAULT_CAPS & own("CapBnd")
    assert {key: int(found[key], 16) for key in ("CapPrm", "CapEff", "CapBnd")} == dict.fromkeys(
        ("CapPrm", "CapEff", "CapBnd"), expected
    )
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_new_privileges_can_be_allowed_and_the_filter_stays(inside):
    found = facts(inside("grep -E '^(NoNewPrivs|Seccomp:)' /proc/self/status", "--allow-new-privs"))
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("0", "2")


def test_privileged_is_no_more_than_the_callers_bounding_set(inside):
    out = inside(
        "grep -E '^(CapEff|Seccomp:)' /proc/self/status; grep -c timer_list /proc/mounts; true",
        "--privileged",
    )
    caps, seccomp, masks = out.splitlines()
    assert int(caps.split()[1], 16) == own("CapBnd")
    assert seccomp.split()[1] == masks == "0"


def test_privileged_has_no_rights_over_the_host(inside):
    script = """(echo 1 >/proc/sys/vm/drop_caches) 2>&1; mknod /tmp/d b 8 0 2>&1
        unshare -U true && date -s 2000-01-01 2>&1; true"""
    out = inside(script, "--privileged")
    assert "drop_caches: Permission denied" in out
    assert out.count("Operation not permitted") == 2  # mknod and date


def test_masked_paths_show_nothing(inside):
    script = """for file in /proc/kcore /proc/keys /proc/timer_list /proc/kallsyms /proc/interrupts; do
        [ ! -e $file ] || wc -c <$file; done; for dir in /proc/acpi /proc/scsi /sys/firmware; do
        [ ! -e $dir ] || ls -A $dir | wc -l; done"""
    assert set(inside(script).split()) == {"0"}


def test_system_paths_are_read_only(inside):
    script = """for file in /proc/sys/kernel/hostname /proc/sys/vm/drop_caches /proc/sys/net/ipv4/ip_forward
        do (echo 1 >$file) 2>&1 && echo "wrote $file"; done; mkdir /sys/fs/cgroup/x 2>&1; true"""
    out = inside(script)
    assert out.count("Read-only file system") == 4, out


@pytest.mark.parametrize("flags", [(), ("--seccomp", "unconfined", "--cap-add", "SYS_ADMIN")])
def test_no_user_namespace_can_be_made_inside(inside, flags):
    assert "unshare:" in inside("unshare -U echo made 2>&1 || true", *flags)
    assert inside("cat /proc/sys/user/max_user_namespaces", *flags).strip() == "0"


def test_three_descriptors_and_nothing_else(inside):
    assert inside("ls /proc/$$/fd | wc -l").strip() in ("3", "4")  # and 10, with which ash keeps a script
    assert "/proc" not in inside("for fd in 0 1 2; do readlink /proc/$$/fd/$fd; done")


def test_a_sysctl_of_its_own_network_can_be_set(inside):
    out = inside("cat /proc/sys/net/ipv4/ip_forward", "--sysctl", "net.ipv4.ip_forward=1")
    assert out.strip() == "1"


def test_devices_are_the_harmless_ones(inside):
    out = inside("ls /dev; echo x >/dev/null; head -c 4 /dev/urandom | wc -c")
    assert {"null", "zero", "full", "random", "urandom", "tty", "pts", "shm"} <= set(out.split())
    assert not {"kmsg", "mem", "vda", "sda"} & set(out.split())
    assert out.split()[-1] == "4"
