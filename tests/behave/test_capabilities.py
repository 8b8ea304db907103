"""What root of the container may do: the five sets, by the kernel's own account."""

from __future__ import annotations

import subprocess
from pathlib import Path

import prctl
import pytest
from observe import FOURTEEN, detached, parse_status, status

pytestmark = pytest.mark.root


def bit(name: str) -> int:
    return 1 << getattr(prctl, f"CAP_{name}")


def mine(*names: str) -> int:
    """The mask of some capabilities, as far as the caller itself has them to give."""
    return sum(bit(name) for name in names if prctl.capbset_read(getattr(prctl, f"CAP_{name}")))


def sets(minibox, *flags: object) -> dict[str, int]:
    """The five sets of a container's process."""
    found = parse_status(minibox.inside("cat /proc/self/status", *flags))
    return {key[3:]: int(value, 16) for key, value in found.items() if key.startswith("Cap")}


def test_the_default_is_the_fourteen(minibox):
    wanted = mine(*FOURTEEN)
    assert sets(minibox) == {"Inh": 0, "Prm": wanted, "Eff": wanted, "Bnd": wanted, "Amb": 0}


def test_the_host_sees_the_same_sets(minibox):
    found = status(detached(minibox, "one", "--cap-drop", "MKNOD"))
    wanted = mine(*(name for name in FOURTEEN if name != "MKNOD"))
    assert {key: int(found[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        "CapInh": 0, "CapPrm": wanted, "CapEff": wanted, "CapBnd": wanted, "CapAmb": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["NET_ADMIN", "CAP_NET_ADMIN", "net_admin", "cap_net_admin", "Cap_Net_Admin"]
)
def test_one_is_added_however_it_is_written(minibox, name):
    found = sets(minibox, "--cap-add", name)
    assert found["Eff"] == found["Prm"] == found["Bnd"] == mine(*FOURTEEN, "NET_ADMIN")
    assert found["Inh"] == found["Amb"] == 0


@pytest.mark.parametrize("name", ["KILL", "CAP_KILL", "kill", "cap_kill"])
def test_one_is_dropped_however_it_is_written(minibox, name):
    found = sets(minibox, "--cap-drop", name)
    assert found["Eff"] == found["Bnd"] == mine(*FOURTEEN) & ~bit("KILL")


@pytest.mark.parametrize("word", ["ALL", "all", "All"])
def test_all_are_dropped(minibox, word):
    assert set(sets(minibox, "--cap-drop", word).values()) == {0}


def test_all_but_one_are_dropped_in_any_order(minibox):
    for flags in (("--cap-drop", "ALL", "--cap-add", "CHOWN"), ("--cap-add", "CHOWN", "--cap-drop", "ALL")):
        found = sets(minibox, *flags)
        assert found["Eff"] == found["Prm"] == found["Bnd"] == bit("CHOWN")


def test_drop_wins_over_add(minibox):
    assert sets(minibox, "--cap-add", "NET_ADMIN", "--cap-drop", "NET_ADMIN")["Bnd"] == mine(*FOURTEEN)


def test_a_flag_may_be_given_several_times(minibox):
    found = sets(
        minibox,
        "--cap-add",
        "NET_ADMIN",
        "--cap-add",
        "SYS_NICE",
        "--cap-drop",
        "KILL",
        "--cap-drop",
        "CHOWN",
    )
    assert found["Bnd"] == mine(*FOURTEEN, "NET_ADMIN", "SYS_NICE") & ~bit("KILL") & ~bit("CHOWN")


def all_of_the_caller() -> int:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    return sum(1 << number for number in range(last + 1) if prctl.capbset_read(number))


def test_privileged_has_what_the_caller_has(minibox):
    found = sets(minibox, "--privileged")
    assert found["Eff"] == found["Bnd"] == all_of_the_caller()
    assert found["Inh"] == found["Amb"] == 0


def test_a_capability_that_the_caller_lacks_cannot_be_added(minibox, rootfs):
    lacking = [name for name in ("SYS_RESOURCE", "SYS_TIME", "MAC_ADMIN") if not mine(name)]
    if not lacking:  # take one away
        done = minibox_without(minibox, "sys_time", "run", "--cap-add", "SYS_TIME", rootfs, "true")
    else:
        done = minibox("run", "--cap-add", lacking[0], rootfs, "true")
    assert done.returncode == 125
    assert b"not in the caller's own bounding set" in done.stderr


def minibox_without(minibox, name: str, *words: object):
    return subprocess.run(
        ["capsh", f"--drop=cap_{name}", "--", "-c", 'exec "$@"', "sh", *minibox.command, *map(str, words)],
        capture_output=True, env=minibox.environment, check=False,
    )  # fmt: skip


def test_a_default_that_the_caller_lacks_is_left_out_and_said(minibox, rootfs):
    done = minibox_without(minibox, "audit_write", "run", rootfs, "cat", "/proc/self/status")
    assert int(parse_status(done.stdout.decode())["CapBnd"], 16) == mine(*FOURTEEN) & ~bit("AUDIT_WRITE")
    done = minibox_without(minibox, "audit_write", "plan", rootfs)
    assert (
        b"note: not in the caller's own bounding set, so not in the container's: CAP_AUDIT_WRITE"
        in done.stdout
    )


def test_an_ordinary_user_inside_has_none_but_the_bounding_set_stays(minibox):
    found = sets(minibox, "--user", "1000")
    assert found == {"Inh": 0, "Prm": 0, "Eff": 0, "Bnd": mine(*FOURTEEN), "Amb": 0}


def test_ambient_capabilities_reach_a_program_of_an_ordinary_user(minibox):
    flags = ("--user", "1000", "--cap-ambient", "net_bind_service", "--cap-ambient", "CAP_KILL")
    wanted = bit("NET_BIND_SERVICE") | bit("KILL")
    found = sets(minibox, *flags)
    assert found["Eff"] == found["Prm"] == found["Amb"] == found["Inh"] == wanted
    assert found["Bnd"] == mine(*FOURTEEN)


def test_an_ambient_capability_works(minibox):
    script = "(timeout 1 nc -l -p 80 </dev/null 2>&1; echo done) | grep -c ermission || :"
    assert (
        minibox.inside(script, "--user", "1000", "--sysctl", "net.ipv4.ip_unprivileged_port_start=1024")
        == "1\n"
    )
    flags = ("--cap-ambient", "NET_BIND_SERVICE", "--sysctl", "net.ipv4.ip_unprivileged_port_start=1024")
    assert minibox.inside(script, "--user", "1000", *flags) == "0\n"


def test_an_ambient_capability_has_to_be_permitted(minibox, rootfs):
    done = minibox("run", "--user", "1000", "--cap-ambient", "SYS_ADMIN", rootfs, "true")
    assert done.returncode == 125
    assert b"--cap-ambient" in done.stderr


def test_a_missing_capability_is_missed(minibox):
    assert "ok" in minibox.inside("chown 5 /etc/passwd && echo ok")
    assert "refused" in minibox.inside("chown 5 /etc/passwd 2>&1 || echo refused", "--cap-drop", "CHOWN")


def test_chroot_works_by_default_and_not_without_its_capability(minibox):
    prepare = "mkdir -p /r/bin && cp /bin/busybox /r/bin/"
    script = f"{prepare}; chroot /r /bin/busybox echo inside 2>&1 || echo refused"
    assert minibox.inside(script) == "inside\n"
    assert minibox.inside(script, "--cap-drop", "SYS_CHROOT").endswith("refused\n")


def test_without_a_user_namespace_the_capabilities_are_the_same(minibox):
    """A device node can be made there; that it cannot be opened is in tests/cgroup/test_devices.py."""
    wanted = mine(*FOURTEEN)
    assert sets(minibox, "--userns", "host") == {
        "Inh": 0,
        "Prm": wanted,
        "Eff": wanted,
        "Bnd": wanted,
        "Amb": 0,
    }
