"""Who the container's users are outside: the pool of ids, maps, and the owners of files on both sides."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from observe import detached, host_uid, namespace

pytestmark = pytest.mark.root


def first_id(minibox, *flags):
    """The host's uid of the container's root, as a container of that moment says."""
    line = minibox.inside("cat /proc/self/uid_map", *flags).split()
    assert (line[0], line[2]) == ("0", "65536")
    return int(line[1])


@pytest.fixture
def shared(tmp_path):
    """A directory of the host that everybody may write to."""
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o777)
    return place


# --- the pool ------------------------------------------------------------------------------------


def test_two_containers_have_no_id_in_common(minibox):
    first, second = (host_uid(detached(minibox, name)) for name in ("one", "two"))
    assert abs(first - second) >= 65536


def test_the_map_outside_is_the_one_inside(minibox):
    pid = detached(minibox, "one")
    maps = Path(f"/proc/{pid}/uid_map").read_text().split()
    assert maps == Path(f"/proc/{pid}/gid_map").read_text().split()
    assert minibox("exec", "one", "cat", "/proc/self/uid_map").stdout.decode().split() == maps
    assert int(maps[1]) == host_uid(pid)


def test_no_account_of_the_host_has_an_id_of_the_container(minibox):
    first = first_id(minibox)
    accounts = [
        int(line.split(":")[2]) for line in Path("/etc/passwd").read_text().splitlines() if ":" in line
    ]
    assert not [uid for uid in accounts if first <= uid < first + 65536]


def test_a_range_is_given_back_at_the_end(minibox):
    detached(minibox, "one")
    slots = [name for name in os.listdir(minibox.run_dir / "ids") if name.isdigit()]
    assert len(slots) == 1
    assert (minibox.run_dir / "ids" / slots[0]).read_text() == "one"
    minibox("rm", "-f", "one")
    assert not [name for name in os.listdir(minibox.run_dir / "ids") if name.isdigit()]


def test_a_range_is_used_again_late(minibox):
    seen = [first_id(minibox) for _turn in range(4)]
    assert len(set(seen)) == 4


def test_after_the_last_range_comes_the_first_free_one(minibox, monkeypatch):
    from minibox.store import ids

    first, count = ids.pool()
    slots = count // 65536
    assert host_uid(detached(minibox, "holder")) == first
    (minibox.run_dir / "ids" / "next").write_text(str(slots - 1))
    assert first_id(minibox) == first + (slots - 1) * 65536
    assert first_id(minibox) == first + 65536  # 0 is the holder's


def test_a_stopped_container_that_is_kept_keeps_its_range(minibox, rootfs):
    """Its layer still has files of these ids."""
    minibox("run", "--keep", "--name", "kept", rootfs, "true")
    held = [name for name in os.listdir(minibox.run_dir / "ids") if name.isdigit()]
    assert len(held) == 1
    assert minibox("rm", "kept").returncode == 0
    assert not [name for name in os.listdir(minibox.run_dir / "ids") if name.isdigit()]


def test_an_exhausted_pool_is_an_error(library, rootfs, monkeypatch):
    from minibox.store import ids

    monkeypatch.setattr(ids, "pool", lambda: (0x7000_0000, 65536))
    with library.Sandbox(rootfs), pytest.raises(library.StateError, match="all 1 id ranges are in use"):
        library.run(rootfs, ["true"])
    assert library.run(rootfs, ["true"]).exit_code == 0


def test_a_pool_with_an_account_in_it_is_refused(library, rootfs, monkeypatch):
    from minibox.kernel import idmap

    monkeypatch.setattr(idmap, "account_ids", lambda: (0, 0x7000_0005))
    with pytest.raises(library.StateError, match="account id 1879048197 lies in the pool"):
        library.run(rootfs, ["true"])


# --- files ---------------------------------------------------------------------------------------


def test_files_of_the_root_belong_to_the_containers_root(minibox, rootfs):
    assert minibox.inside("stat -c %u:%g /bin/busybox /etc/passwd").split() == ["0:0", "0:0"]
    assert os.stat(rootfs / "etc" / "passwd").st_uid == 0


def test_a_file_made_in_a_volume_belongs_to_the_mapped_uid(minibox, shared):
    first = int(
        minibox.inside("touch /data/file; cat /proc/self/uid_map", "-v", f"{shared}:/data").split()[1]
    )
    status = os.stat(shared / "file")
    assert (status.st_uid, status.st_gid) == (first, first)


def test_a_file_of_an_inner_user_belongs_to_that_users_mapped_uid(minibox, shared):
    flags = ("-v", f"{shared}:/data", "--user", "1000:5")
    first = int(minibox.inside("touch /data/file; cat /proc/self/uid_map", *flags).split()[1])
    status = os.stat(shared / "file")
    assert (status.st_uid, status.st_gid) == (first + 1000, first + 5)


def test_a_volume_of_the_hosts_root_is_nobodys_and_cannot_be_written(minibox, canary):
    out = minibox.inside(
        "stat -c %u /data; cat /data/file; echo x 2>&1 >/data/file || echo refused", "-v", f"{canary}:/data"
    )
    assert out.splitlines()[0] == "65534"
    assert "untouched" in out
    assert "refused" in out
    assert (canary / "file").read_text() == "untouched\n"


def test_the_plan_says_which_volume_will_refuse_writes_and_what_helps(minibox, rootfs, canary):
    out = minibox("plan", "-v", f"{canary}:/data", rootfs).stdout.decode()
    note = next(line for line in out.splitlines() if line.startswith("note:"))
    assert f"-v {canary}:/data:idmap" in note
    assert "note:" not in minibox("plan", "-v", f"{canary}:/data:idmap", rootfs).stdout.decode()
    assert "note:" not in minibox("plan", "-v", f"{canary}:/data:ro", rootfs).stdout.decode()


@pytest.mark.parametrize(("uid", "gid"), [(0, 0), (1000, 1000), (1000, 5), (1, 1), (70000, 0)])
def test_an_idmapped_volume_is_read_and_written_as_its_owner(minibox, tmp_path, uid, gid):
    place = tmp_path / "own"
    place.mkdir(mode=0o700)
    (place / "old").write_text("text\n")
    for path in (place, place / "old"):
        os.chown(path, uid, gid)
    out = minibox.inside(
        "stat -c %u:%g /data /data/old; cat /data/old; echo new >/data/new; echo more >>/data/old",
        "-v",
        f"{place}:/data:idmap",
    )
    assert out.split() == ["0:0", "0:0", "text"]
    status = os.stat(place / "new")
    assert (status.st_uid, status.st_gid) == (uid, gid)
    assert (place / "old").read_text() == "text\nmore\n"
    assert os.stat(place / "old").st_uid == uid


def test_in_an_idmapped_volume_others_keep_their_numbers(minibox, tmp_path):
    place = tmp_path / "own"
    place.mkdir(mode=0o777)
    for name, uid in (("root", 0), ("five", 5), ("two-thousand", 2000)):
        (place / name).touch()
        os.chown(place / name, uid, uid)
    os.chown(place, 1000, 1000)
    out = minibox.inside("cd /data; stat -c %u root five two-thousand", "-v", f"{place}:/data:idmap")
    assert out.split() == ["65534", "5", "2000"]  # who is root on disk has no place in here


def test_an_idmapped_volume_makes_no_file_of_the_hosts_root(minibox, tmp_path):
    """Of a source that belongs to 1000, an inner user cannot become 0 on disk by any chown."""
    place = tmp_path / "own"
    place.mkdir()
    os.chown(place, 1000, 1000)
    minibox.inside(
        "cd /data; for id in 0 1 5 1000 2000; do touch $id; chown $id:$id $id 2>/dev/null || :; done",
        "-v",
        f"{place}:/data:idmap",
    )
    owners = {entry.name: entry.stat().st_uid for entry in os.scandir(place)}
    assert owners["0"] == 1000
    assert owners["5"] == 5
    assert 0 not in owners.values()


def test_an_idmapped_single_file_is_written_as_its_owner(minibox, tmp_path):
    file = tmp_path / "file"
    file.write_text("old\n")
    file.chmod(0o600)
    minibox.inside("echo new >/etc/file", "-v", f"{file}:/etc/file:idmap")
    assert file.read_text() == "new\n"
    assert os.stat(file).st_uid == 0


# --- maps of the user's own ------------------------------------------------------------------------


def test_a_uid_map_is_the_one_asked_for_and_the_gid_map_follows_it(minibox):
    pid = detached(minibox, "one", "--uidmap", "0:200000:1000")
    assert host_uid(pid) == 200000
    for kind in ("uid", "gid"):
        assert Path(f"/proc/{pid}/{kind}_map").read_text().split() == ["0", "200000", "1000"]


def test_uid_and_gid_maps_may_differ(minibox, shared):
    flags = ("--uidmap", "0:200000:1000", "--gidmap", "0:300000:1000", "-v", f"{shared}:/data")
    minibox.inside("touch /data/file", *flags)
    status = os.stat(shared / "file")
    assert (status.st_uid, status.st_gid) == (200000, 300000)


def test_a_map_may_have_several_lines(minibox):
    out = minibox.inside("cat /proc/self/uid_map", "--uidmap", "0:200000:10", "--uidmap", "10:300000:1")
    assert out.split() == ["0", "200000", "10", "10", "300000", "1"]


def test_an_explicit_map_takes_no_range_of_the_pool(minibox):
    detached(minibox, "one", "--uidmap", "0:200000:1000")
    assert not [name for name in os.listdir(minibox.run_dir / "ids") if name.isdigit()]


def test_an_id_outside_the_map_cannot_be_taken(minibox, rootfs):
    done = minibox("run", "--uidmap", "0:200000:1000", "--user", "1000", rootfs, "id")
    assert done.returncode == 125
    assert b"user.ids" in done.stderr


def test_a_map_without_root_runs_as_the_user_that_is_mapped(minibox):
    out = minibox.inside("id -u", "--uidmap", "1000:200000:1", "--user", "1000:1000", "--cap-drop", "ALL")
    assert out == "1000\n"


def test_with_the_hosts_user_namespace_root_is_root_and_the_plan_says_so(minibox, rootfs):
    plan = minibox("plan", "--userns", "host", rootfs).stdout.decode()
    assert plan.startswith("note: NO USER NAMESPACE: root of the container is root of this machine")
    pid = detached(minibox, "one", "--userns", "host")
    assert host_uid(pid) == 0
    assert namespace(pid, "user") == namespace("self", "user")


def test_the_default_plan_has_no_note_of_a_missing_protection(minibox, rootfs):
    assert "NO USER NAMESPACE" not in minibox("plan", rootfs).stdout.decode()


def test_keep_id_is_refused_to_root(minibox, rootfs):
    done = minibox("run", "--userns", "keep-id", rootfs, "id")
    assert done.returncode == 125
    assert b"keep-id would give the container root's own id" in done.stderr
