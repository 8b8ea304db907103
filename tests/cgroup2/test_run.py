"""The main job on such a host, whose file systems show nothing through an id map: root's roots are copied."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import wait_until

from cgroup2.helpers import TOP
from minibox.kernel import host

pytestmark = pytest.mark.cgroup2


def test_a_container_is_root_alone_and_nobody_outside(minibox, inside, up):
    assert inside("id -u; echo $$; ps >/tmp/ps; wc -l </tmp/ps").split() == [
        "0",
        "1",
        "3",
    ]  # a heading, sh, ps
    up("one")
    assert os.stat(f"/proc/{minibox.state('one')['pid']}").st_uid > 65536


def test_the_fallback_is_said_and_shifts_owners(minibox, inside, rootfs):
    facts = host.probe(str(rootfs), str(minibox.data_dir))
    copied = not (facts.can_idmap(facts.root_type) and facts.can_overlay and facts.release >= (5, 19))
    plan = minibox("plan", rootfs).stdout.decode()
    assert ("is copied" in plan) == ("root.copy" in plan) == copied
    script = (
        "stat -c '%u %g' /bin/busybox /bin/sh /etc; echo x >>/etc/passwd; rm -r /home; mkdir /home /home/d"
    )
    assert inside(script).splitlines() == ["0 0"] * 3
    assert "x" not in (rootfs / "etc" / "passwd").read_text().splitlines()
    assert os.stat(rootfs / "etc" / "passwd").st_uid == 0


def test_an_overlay_is_laid_only_where_it_works(minibox, tmp_path, rootfs):
    disk, image = tmp_path / "disk", tmp_path / "image"
    disk.mkdir()
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["modprobe", "-qa", "loop", "ext4"], check=False)  # not where they are built in
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    try:
        subprocess.run(["cp", "-a", rootfs, disk / "root"], check=True)
        for data in (disk / "data", tmp_path / "data"):  # ext4; a tmpfs, perhaps without user.* attributes
            script = "rm -r /home && mkdir /home && mkdir /home/d && stat -c %u /bin/sh"
            done = minibox("run", disk / "root", "sh", "-c", script, MINIBOX_DATA=str(data))
            assert (done.returncode, done.stdout) == (0, b"0\n"), done.stderr
        plan = minibox("plan", disk / "root", MINIBOX_DATA=str(disk / "data")).stdout
        assert (b"root.idmap" in plan) == (host.probe().release >= (5, 19))
        assert (b"root.copy" in plan) == (host.probe().release < (5, 19))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_writable_needs_idmapped_mounts(minibox, own_root, rootfs):
    facts = host.probe(str(own_root), str(minibox.data_dir))
    done = minibox("run", "--writable", own_root, "touch", "/new")
    if facts.can_idmap(facts.root_type):
        assert done.returncode == 0, done.stderr
        assert (own_root / "new").stat().st_uid == 0
    else:
        assert done.returncode == 125
        assert b"has no idmapped mounts" in done.stderr
        assert b"leave --writable out" in done.stderr


def test_an_idmapped_volume_that_cannot_be_is_an_error_that_names_the_step(minibox, rootfs, tmp_path):
    facts = host.probe(str(tmp_path), str(minibox.data_dir))
    done = minibox("run", "-v", f"{tmp_path}:/v:idmap", rootfs, "touch", "/v/f")
    if facts.can_idmap(facts.root_type):
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "f").stat().st_uid == 0
    else:
        assert done.returncode == 125
        assert b"mount.v.idmap" in done.stderr
        assert b"try: this file system, or this kernel, shows no mount through an id map" in done.stderr


def test_the_userns_of_the_host_works_without_a_copy(minibox, rootfs):
    files = ("/proc/self/uid_map", "/proc/self/cgroup")
    done = minibox("run", "--userns", "host", "-m", "64m", rootfs, "cat", *files)
    assert done.stdout.split() == [b"0", b"0", b"4294967295", b"0::/"], done.stderr
    assert b"root.copy" not in minibox("plan", "--userns", "host", rootfs).stdout


def test_a_detached_container_is_listed_stopped_and_removed(minibox, up):
    group = up("one", script="trap 'exit 3' TERM; echo hello; sleep 300 & wait")
    assert wait_until(lambda: minibox("logs", "one").stdout == b"hello\n")
    assert b"running" in minibox("ps").stdout
    assert minibox("stop", "one").returncode == 0
    assert b"exited (3)" in minibox("ps").stdout
    assert not group.path.exists()
    assert minibox("rm", "one").returncode == 0


def test_killing_minibox_leaves_nothing_after_the_next_command(minibox, rootfs):
    running = minibox.start("run", "--name", "one", "-m", "64m", rootfs, "sh", "-c", "echo up; sleep 300")
    assert running.stdout
    assert running.stdout.readline() == b"up\n"
    pid = minibox.state("one")["pid"]
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert (TOP / "minibox-one").exists()
    assert b"one had lost its supervisor: removed" in minibox("run", rootfs, "true").stderr
    assert not (TOP / "minibox-one").exists()


def test_a_shared_pid_namespace_ends_with_the_groups_processes(minibox, up, rootfs):
    up("one")
    done = minibox("run", "--name", "two", "--pid", "container:one", rootfs, "sh", "-c", "sleep 222 & true")
    assert done.returncode == 0, done.stderr
    assert not (TOP / "minibox-two").exists()
    assert b"sleep 222" not in minibox("exec", "one", "ps").stdout
