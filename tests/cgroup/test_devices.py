"""Device nodes: few can be opened, whoever makes them; --device shows one, with an owner in the container."""

from __future__ import annotations

import os

import pytest
from conftest import ROOTFS

TRY = (
    "for n in b\\ 254\\ 0 b\\ 7\\ 0 c\\ 1\\ 1 c\\ 10\\ 237; do rm -f /v/n; mknod /v/n $n && echo made; "
    "(: </v/n) 2>&1; done; true"
)


def test_without_a_user_namespace_nodes_can_be_made_and_not_opened(minibox, tmp_path):
    """In a volume that lets devices be, so that only the rules refuse (EPERM; nodev says EACCES)."""
    out = minibox.inside(TRY, "--userns", "host", "-v", f"{tmp_path}:/v:dev")
    assert out.count("made") == 4
    assert out.count("Operation not permitted") == 4


def test_it_is_the_rules_that_refuse(minibox, tmp_path):
    flags = ("--userns", "host", "-v", f"{tmp_path}:/v:dev", "--device-cgroup-rule", "b 7:0 rm")
    out = minibox.inside("mknod /v/n b 7 0; (: </v/n) && echo opened", *flags)
    assert out == "opened\n"


def test_what_is_granted_is_read_and_not_written(minibox, tmp_path):
    script = "mknod /v/n b 7 0; (: </v/n) && echo read; (: 2>/dev/null >/v/n) || echo refused"
    out = minibox.inside(
        script, "--userns", "host", "-v", f"{tmp_path}:/v:dev", "--device-cgroup-rule", "b 7:0 r"
    )
    assert out == "read\nrefused\n"


def test_the_harmless_ones_work_everywhere(minibox):
    script = "cat /dev/null; echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c"
    for flags in ((), ("--userns", "host")):
        assert minibox.inside(script, *flags) == "3\n3\n"


def test_a_terminal_works_under_the_rules(minibox):
    assert b"/dev/pts/" in minibox("run", "-t", "--userns", "host", ROOTFS, "tty").stdout


def test_the_list_is_dockers(minibox, up):
    one = up("one", "--device-cgroup-rule", "c 10:* rw")
    assert one.read("devices.list").splitlines() == [
        "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm",
        "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", "c 10:* rw",
    ]  # fmt: skip
    assert minibox("verify", "one").returncode == 0
    directory = next(group for group in one.state["cgroups"] if "/devices/" in group)
    with open(f"{directory}/devices.allow", "w") as file:
        file.write("b 254:0 rwm")
    done = minibox("verify", "one")
    assert done.returncode == 1
    assert b"allowed beyond the rules: b 254:0 rwm" in done.stdout


def test_privileged_has_no_rules(up):
    with pytest.raises(AssertionError, match=r"has devices\.list"):
        up("one", "--privileged").read("devices.list")


@pytest.mark.parametrize("flags", [(), ("--userns", "host")])
def test_a_device_belongs_to_the_containers_root_and_obeys_its_access(minibox, flags):
    script = "stat -c '%F %u %g %a' /dev/x; (: </dev/x) && echo read; (: >/dev/x) 2>&1 || true"
    out = minibox.inside(script, "--device", "/dev/loop0:/dev/x:r", *flags)
    first, read, write = out.splitlines()
    assert first == f"block special file 0 0 {os.stat('/dev/loop0').st_mode & 0o777:o}"
    assert read == "read"
    assert write.endswith("Operation not permitted")


def test_the_hosts_node_keeps_its_owner(minibox, up):
    before = os.stat("/dev/loop0")
    up("one", "--device", "/dev/loop0")
    after = os.stat("/dev/loop0")
    assert (before.st_uid, before.st_mode) == (after.st_uid, after.st_mode)
    assert minibox("verify", "one").returncode == 0


def test_exec_is_under_the_same_rules(minibox, up, tmp_path):
    up("one", "--userns", "host", "-v", f"{tmp_path}:/v:dev")
    done = minibox("exec", "one", "sh", "-c", TRY)
    assert done.stdout.count(b"Operation not permitted") == 4
