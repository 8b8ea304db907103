"""Which ids an ordinary user's container has: its single own one, or that and a range out of /etc/subuid."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from rootless.helpers import GID, UID, range_of

pytestmark = pytest.mark.rootless

ONE = f"0 {UID} 1"


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def status(pid: int, key: str) -> list[str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(line.split()[1:] for line in text.splitlines() if line.startswith(key + ":"))


def test_the_two_users_of_scripts_test_are_what_they_should_be(subuids):
    expected = {"minibox-plain": False, "minibox-sub": True}
    name = pwd.getpwuid(UID).pw_name
    assert expected.get(name, subuids is not None) == (subuids is not None)


def test_root_inside_is_the_user_outside(inside, up):
    assert inside("id -u; id -g").split() == ["0", "0"]
    pid = up("one")
    assert status(pid, "Uid") == [str(UID)] * 4
    assert status(pid, "Gid") == [str(GID)] * 4


def test_the_maps_are_the_own_id_and_the_range(inside, subuids):
    out = lines(inside("cat /proc/self/uid_map; echo; cat /proc/self/gid_map"))
    gids = range_of("/etc/subgid")
    if subuids and gids:
        uid_range, gid_range = (f"1 {first} {count}" for first, count in (subuids, gids))
        assert out == [ONE, uid_range, "", f"0 {GID} 1", gid_range]
    else:
        assert out == [ONE, "", f"0 {GID} 1"]


def test_groups_can_be_dropped_only_with_a_range(inside, subuids):
    assert inside("cat /proc/self/setgroups").strip() == ("allow" if subuids else "deny")


def test_setgroups_fails_where_it_is_denied(inside, subuids):
    out = inside("su user -c 'id -G' 2>&1 || true")
    assert ("1000" in out.split()) == bool(subuids), out


def test_a_file_can_be_given_only_to_an_id_that_is_mapped(inside, subuids):
    out = inside("touch /tmp/f; chown 5:6 /tmp/f 2>&1; stat -c '%u %g' /tmp/f")
    if subuids:
        assert out.strip() == "5 6"
    else:
        assert "Invalid argument" in out
        assert out.splitlines()[-1] == "0 0"


def test_files_of_other_ids_lie_in_the_layer_under_ids_of_the_range_and_are_removed(
    minibox, up, rootfs, subuids
):
    up("one")
    script = "mkdir -m 700 /srv/d && touch /srv/d/f; chown -R 33:33 /srv/d"
    made = minibox("exec", "one", "sh", "-c", script)
    assert (made.returncode == 0) == bool(subuids), made.stderr
    there = minibox.data_dir / "one" / "upper" / "srv" / "d"
    assert there.stat().st_uid == (subuids[0] + 32 if subuids else UID)
    assert minibox("rm", "-f", "one").returncode == 0
    assert list(minibox.data_dir.iterdir()) == []


def test_keep_id_has_the_users_own_id_inside(inside, subuids):
    out = lines(inside("id -u; id -g; cat /proc/self/uid_map", "--userns", "keep-id"))
    assert out[:2] == [str(UID), str(GID)]
    if subuids:
        first, count = subuids
        assert out[2:] == [f"0 {first} {UID}", f"{UID} {UID} 1", f"{UID + 1} {first + UID} {count - UID}"]
    else:
        assert out[2:] == [f"{UID} {UID} 1"]


def test_keep_id_makes_files_outside_that_belong_to_the_user(inside, tmp_path):
    inside("touch /v/f /tmp/f", "--userns", "keep-id", "-v", f"{tmp_path}:/v")
    assert (tmp_path / "f").stat().st_uid == UID


def test_keep_id_has_another_root_only_with_a_range(minibox, rootfs, refused, subuids):
    flags = ("--userns", "keep-id", "--user", "0")
    if subuids:
        assert minibox("run", *flags, rootfs, "id", "-u").stdout == b"0\n"
    else:
        assert "not mapped" in refused(*flags)


def test_keep_id_is_no_root(inside):
    caps = inside("grep CapEff /proc/self/status", "--userns", "keep-id").split()[1]
    assert int(caps, 16) == 0


def test_a_user_of_the_range_can_run_the_command(minibox, rootfs, refused, subuids):
    if subuids:
        assert minibox("run", "--user", "user", rootfs, "id", "-u").stdout == b"1000\n"
    else:
        error = refused("--user", "user")
        assert "user.ids" in error
        assert "try: the id is not mapped" in error


def test_a_user_beyond_the_range_is_refused(refused, subuids):
    error = refused("--user", subuids[1] + 1 if subuids else 1)
    assert "EINVAL" in error
    assert "/etc/subuid" in error


def test_another_group_needs_a_range(minibox, rootfs, refused, subuids):
    if subuids:
        done = minibox("run", "--group-add", "5", rootfs, "id", "-G")
        assert done.stdout.split() == [b"0", b"5"]
    else:
        error = refused("--group-add", "5")
        assert "setgroups(5) = EPERM" in error
        assert "try: supplementary groups need a range in /etc/subgid" in error


def test_a_map_of_ones_own_takes_ids_of_the_range(minibox, rootfs, refused, subuids):
    first = subuids[0] if subuids else 100_000
    flags = ("--uidmap", f"0:{UID}:1", "--uidmap", f"1:{first}:10", "--gidmap", f"0:{GID}:1")
    if subuids:
        done = minibox("run", *flags, rootfs, "cat", "/proc/self/uid_map")
        assert lines(done.stdout.decode()) == [f"0 {UID} 1", f"1 {first} 10"], done.stderr
    else:
        assert "user.map-uids" in refused(*flags)


def test_a_map_of_other_peoples_ids_is_refused(refused):
    error = refused("--uidmap", f"0:{UID}:1", "--uidmap", "1:1:1")
    assert "user.map-uids" in error
    assert "try: " in error


def test_a_map_without_the_own_id_is_refused(refused):
    assert f"IN:{UID}:1" in refused("--uidmap", "0:100000:10")


def test_the_hosts_user_namespace_is_refused(refused):
    assert "--userns: host is for root" in refused("--userns", "host")


def test_a_range_without_newuidmap_leaves_the_single_id_and_a_note(minibox, rootfs, subuids):
    plan = minibox("plan", rootfs, PATH="/nowhere").stdout.decode()
    assert ("newuidmap is missing" in plan) == bool(subuids)
    done = minibox("run", rootfs, "cat", "/proc/self/uid_map", PATH="/nowhere")
    assert lines(done.stdout.decode()) == [ONE]
