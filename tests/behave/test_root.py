"""The root file system, its private layer, and what is mounted in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from observe import detached, mounts, privately

pytestmark = pytest.mark.root


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Every file of a tree with what a change of it would change."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in (".", *names, *files):
            path = os.path.join(directory, name)
            one = os.lstat(path)
            text = Path(path).read_bytes() if stat.S_ISREG(one.st_mode) else b""
            found[path] = (
                one.st_mode,
                one.st_uid,
                one.st_gid,
                one.st_ino,
                one.st_mtime_ns,
                one.st_ctime_ns,
                text,
            )
    return found


def in_private(minibox, script: str, *arguments: object) -> str:
    """A shell script in a mount namespace of its own, in which `$M` is the command."""
    command = " ".join(minibox.command)
    return privately(script, *arguments, env={**minibox.environment, "M": command})


# --- the layer -----------------------------------------------------------------------------------


def test_changes_go_to_a_private_layer_and_rootfs_stays_untouched(minibox, own_root):
    before = snapshot(own_root)
    out = minibox.inside(
        "echo changed >/etc/passwd; echo new >/new; rm /etc/hosts; mv /etc/profile /etc/old;"
        "chmod 700 /srv;"
        "chown 1000 /opt; mkdir -p /a/b/c; ln -s /etc /link; rm -r /home; touch /mnt;"
        "cat /etc/passwd /new; ls /etc/hosts /home 2>&1 || echo gone", rootfs=own_root,
    )  # fmt: skip
    assert out.split()[:2] == ["changed", "new"]
    assert out.split()[-1] == "gone"
    assert snapshot(own_root) == before


def test_the_next_container_sees_nothing_of_the_layer(minibox, own_root):
    minibox.inside("echo mine >/mine", rootfs=own_root)
    assert minibox.inside("ls /mine 2>&1 || echo absent", rootfs=own_root).endswith("absent\n")


def test_two_containers_over_one_root_do_not_see_each_other(minibox, rootfs):
    detached(minibox, "one")
    minibox("exec", "one", "sh", "-c", "echo one >/who")
    detached(minibox, "two")
    assert minibox("exec", "two", "cat", "/who").returncode == 1
    assert minibox("exec", "one", "cat", "/who").stdout == b"one\n"
    assert not (rootfs / "who").exists()


def test_the_layer_is_closed_to_others_while_it_is_there(minibox):
    detached(minibox, "one")
    layers = list(minibox.data_dir.iterdir())
    assert [layer.name for layer in layers] == ["one"]
    assert stat.S_IMODE(minibox.data_dir.stat().st_mode) == 0o700


def test_a_deep_tree_in_the_layer_is_removed_too(minibox):
    minibox.inside("cd /tmp; for i in $(seq 150); do mkdir d; chmod 700 .; cd d; done; chmod 000 /tmp")
    assert list(minibox.data_dir.iterdir()) == []


def test_writable_changes_rootfs_itself_with_its_own_owners(minibox, own_root):
    minibox.inside("echo kept >/kept; mkdir /dir; chown 1000:1000 /dir", "--writable", rootfs=own_root)
    assert (own_root / "kept").read_text() == "kept\n"
    assert os.stat(own_root / "kept").st_uid == 0
    assert os.stat(own_root / "dir").st_uid == 1000
    assert not minibox.data_dir.exists() or list(minibox.data_dir.iterdir()) == []


def test_read_only_takes_no_write_but_volumes_do(minibox, own_root, tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    out = minibox.inside(
        "touch /new 2>&1 || echo refused; touch /data/new /scratch/new /dev/shm/new && echo kept",
        "--read-only",
        "-v",
        f"{place}:/data:idmap",
        "--tmpfs",
        "/scratch",
        rootfs=own_root,
    )
    assert "Read-only file system" in out
    assert out.split()[-2:] == ["refused", "kept"]
    assert (place / "new").exists()


def test_the_root_is_pivoted_and_nothing_of_the_old_one_is_left(minibox):
    pid = detached(minibox, "one")
    found = mounts(Path(f"/proc/{pid}/mountinfo").read_text())
    assert found["/"].kind == "overlay"
    known = ("/", "/proc", "/sys", "/dev")
    assert all(place.startswith(known) for place in found)
    assert {place.split("/")[1] for place in found} == {"", "proc", "sys", "dev"}
    assert "nosuid" in found["/"].options
    assert "nodev" in found["/"].options


def test_dot_dot_of_the_root_is_the_root(minibox, rootfs):
    out = minibox.inside("cd /; cd ../../../..; ls -di . /; ls /../../..")
    first, second = (line.split()[0] for line in out.splitlines()[:2])
    assert first == second
    assert out.splitlines()[2:] == sorted(os.listdir(rootfs))


# --- volumes -------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    place = tmp_path / "data"
    (place / "below").mkdir(parents=True)
    (place / "file").write_text("text\n")
    return place


def test_a_volume_is_the_same_directory_on_both_sides(minibox, data):
    detached(minibox, "one", "-v", f"{data}:/srv/deep/data")
    (data / "later").write_text("later\n")
    assert (
        minibox("exec", "one", "cat", "/srv/deep/data/file", "/srv/deep/data/later").stdout
        == b"text\nlater\n"
    )


def test_a_volume_may_be_a_file(minibox, data):
    out = minibox.inside("cat /etc/given; stat -c %F /etc/given", "-v", f"{data}/file:/etc/given:ro")
    assert out == "text\nregular file\n"


def test_a_volume_over_a_file_of_the_root_hides_it(minibox, data, rootfs):
    before = (rootfs / "etc" / "hosts").read_bytes()
    assert minibox.inside("cat /etc/hosts", "-v", f"{data}/file:/etc/hosts") == "text\n"
    assert (rootfs / "etc" / "hosts").read_bytes() == before


def test_a_volumes_source_may_be_relative(minibox, data, rootfs):
    done = minibox.start("run", "-v", "./data:/data", rootfs, "cat", "/data/file", cwd=data.parent)
    assert done.communicate()[0] == b"text\n"


def test_a_read_only_volume_takes_no_write(minibox, data):
    out = minibox.inside(
        "echo x 2>&1 >/data/file || rm /data/file 2>&1 || echo refused", "-v", f"{data}:/data:ro,idmap"
    )
    assert out.count("Read-only file system") == 2
    assert (data / "file").read_text() == "text\n"


def test_a_volume_is_nosuid_and_nodev_unless_asked(minibox, data):
    found = mounts(
        minibox.inside("cat /proc/self/mountinfo", "-v", f"{data}:/a", "-v", f"{data}:/b:suid,noexec")
    )
    assert {"nosuid", "nodev"} <= found["/a"].options
    assert "noexec" not in found["/a"].options
    assert "nosuid" not in found["/b"].options
    assert {"nodev", "noexec"} <= found["/b"].options


def test_volumes_may_lie_in_one_another(minibox, data, canary):
    out = minibox.inside("cat /x/file /x/below/file", "-v", f"{canary}:/x/below:ro", "-v", f"{data}:/x:ro")
    assert out == "text\nuntouched\n"


def test_no_mount_of_the_container_is_seen_by_the_host(minibox, data):
    before = Path("/proc/self/mountinfo").read_text()
    detached(minibox, "one", "-v", f"{data}:/data")
    assert Path("/proc/self/mountinfo").read_text() == before


@pytest.mark.parametrize("text", [
    "type=bind,source={0},target=/data,readonly", "type=bind,src={0},dst=/data,ro",
    "source={0},destination=/data,readonly=true", "type=bind,source={0},target=/data,rro",
])  # fmt: skip
def test_mount_is_volume_spelled_out(minibox, data, text):
    out = minibox.inside("cat /data/file; touch /data/new 2>&1 || echo refused", "--mount", text.format(data))
    assert out.splitlines()[0] == "text"
    assert out.splitlines()[-1] == "refused"
    assert not (data / "new").exists()


def test_mount_makes_a_tmpfs(minibox):
    out = minibox.inside(
        "df -k /t | tail -1; stat -c %a /t; cat /proc/self/mountinfo",
        "--mount",
        "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=0750",
    )
    first, mode, *rest = out.splitlines()
    assert first.split()[1] == "1024"
    assert mode == "750"
    assert mounts("\n".join(rest))["/t"].kind == "tmpfs"


def test_tmpfs_is_empty_limited_and_inert(minibox):
    out = minibox.inside(
        "ls -A /etc; dd if=/dev/zero of=/etc/big bs=64k count=32 2>&1 || echo full; cat /proc/self/mountinfo",
        "--tmpfs",
        "/etc:size=1m,mode=0755",
    )
    assert "No space left on device" in out
    assert {"nosuid", "nodev", "noexec"} <= mounts(out[out.index("full\n") + 5 :])["/etc"].options


def test_tmpfs_may_be_made_executable(minibox):
    assert minibox.inside("cp /bin/busybox /t/echo; /t/echo works", "--tmpfs", "/t:exec") == "works\n"


def test_a_relative_symlink_in_the_root_is_followed_inside_it(minibox, own_root, data):
    (own_root / "srv" / "link").symlink_to("/opt")
    out = minibox.inside("cat /opt/sub/file", "-v", f"{data}:/srv/link/sub", rootfs=own_root)
    assert out == "text\n"
    assert not Path("/opt/sub").exists()


# --- mounts below, and propagation -------------------------------------------------------------------


def test_read_only_holds_for_mounts_below_the_source(minibox, data, rootfs):
    out = in_private(minibox, """
        mount -t tmpfs -o mode=777 tmpfs $1/below; echo deep >$1/below/deep
        $M run -v $1:/data:ro $2 sh -c 'cat /data/below/deep; touch /data/below/new 2>&1 || echo refused'
        ls $1/below
    """, data, rootfs)  # fmt: skip
    assert out.splitlines()[0] == "deep"
    assert out.splitlines()[-2:] == ["refused", "deep"]


def test_a_writable_volume_brings_the_mounts_below_it(minibox, data, rootfs):
    out = in_private(minibox, """
        mount -t tmpfs -o mode=777 tmpfs $1/below
        $M run -v $1:/data $2 touch /data/below/new
        ls $1/below
    """, data, rootfs)  # fmt: skip
    assert out == "new\n"


def test_a_plain_bind_leaves_the_mounts_below_out(minibox, data, rootfs):
    out = in_private(minibox, """
        mount -t tmpfs -o mode=777 tmpfs $1/below; touch $1/below/new
        $M run -v $1:/data:bind $2 ls -A /data/below | wc -l
    """, data, rootfs)  # fmt: skip
    assert out == "0\n"


@pytest.mark.parametrize(("option", "seen"), [("rprivate", "0"), ("rslave", "1"), ("rw", "0")])
def test_a_later_mount_of_the_host_arrives_only_with_slave(minibox, data, rootfs, option, seen):
    out = in_private(minibox, """
        mount --bind $1 $1; mount --make-shared $1
        $M run -d --name one -v $1:/data:$3 $2 sleep 60 >/dev/null
        mount -t tmpfs tmpfs $1/below; touch $1/below/new
        $M exec one ls /data/below | wc -l
        $M rm -f one >/dev/null
    """, data, rootfs, option)  # fmt: skip
    assert out == seen + "\n"


def test_mounts_of_the_container_do_not_reach_a_shared_tree_of_the_host(minibox, data, rootfs):
    out = in_private(minibox, """
        mount --make-rshared /
        mount --bind $1 $1
        cat /proc/self/mountinfo >$1/before
        $M run --privileged --cap-add SYS_ADMIN --seccomp unconfined -v $1:/data:rslave $2 \
            sh -c 'mount -t tmpfs tmpfs /data/below && touch /data/below/new && ls /data/below'
        cat /proc/self/mountinfo >$1/after
        cmp $1/before $1/after; ls -A $1/below | wc -l
    """, data, rootfs)  # fmt: skip
    assert out == "new\n0\n"


# --- where there is no idmapped mount ------------------------------------------------------------------


COPIES = {
    "overlay": "mkdir $1/u $1/w; mount -t overlay -o lowerdir=$2,upperdir=$1/u,workdir=$1/w overlay $1/root",
    "ramfs": "mount -t ramfs ramfs $1/root; cp -a $2/. $1/root",
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_root_that_cannot_be_idmapped_is_copied_and_the_plan_says_so(minibox, tmp_path, rootfs, kind):
    (tmp_path / "root").mkdir()
    out = in_private(minibox, COPIES[kind] + """
        $M plan $1/root >$1/plan
        $M run $1/root sh -c 'stat -c %u:%g /bin/sh; touch /new; echo changed >/etc/passwd; cat /etc/passwd'
        cmp $1/root/etc/passwd $2/etc/passwd; stat -c %u $1/root/etc/passwd
        ls $1/root/new 2>&1 || echo absent
    """, tmp_path, rootfs)  # fmt: skip
    assert out.splitlines()[:3] == ["0:0", "changed", "0"]
    assert out.splitlines()[-1] == "absent"
    plan = (tmp_path / "plan").read_text()
    assert f"note: {tmp_path}/root is copied" in plan
    assert "root.copy" in plan
    assert "root.overlay" not in plan


def test_writable_is_refused_where_a_copy_would_be_needed(minibox, tmp_path, rootfs):
    (tmp_path / "root").mkdir()
    out = in_private(minibox, COPIES["ramfs"] + """
        $M run --writable $1/root true 2>&1 || echo code $?
    """, tmp_path, rootfs)  # fmt: skip
    assert "--writable" in out
    assert out.endswith("code 125\n")


def test_without_a_user_namespace_nothing_needs_to_be_shifted(minibox, tmp_path, rootfs):
    (tmp_path / "root").mkdir()
    out = in_private(minibox, COPIES["ramfs"] + """
        $M run --userns host $1/root sh -c 'echo x >/new; stat -c %u /new'; ls $1/root/new 2>&1 || echo absent
    """, tmp_path, rootfs)  # fmt: skip
    assert out.splitlines()[0] == "0"
    assert out.splitlines()[-1] == "absent"


def test_a_copy_keeps_modes_links_times_and_attributes(minibox, tmp_path, own_root):
    (own_root / "one").write_text("text")
    os.link(own_root / "one", own_root / "two")
    os.utime(own_root / "one", ns=(1_000_000_000, 1_234_567_890_123_456_789))
    (own_root / "one").chmod(0o4711)
    (own_root / "odd name\n").write_text("")
    os.chown(own_root / "odd name\n", 1000, 5)
    in_private(minibox, """
        mkdir $1/u $1/w $1/merged
        mount -t overlay -o lowerdir=$2,upperdir=$1/u,workdir=$1/w overlay $1/merged
        $M run $1/merged sh -c '
            stat -c "%a %Y %h" /one /two; [ /one -ef /two ] && echo same; stat -c %u:%g /odd*' >$1/out
    """, tmp_path, own_root)  # fmt: skip
    assert (tmp_path / "out").read_text().splitlines() == [
        "4711 1234567890 2", "4711 1234567890 2", "same", "1000:5",
    ]  # fmt: skip
