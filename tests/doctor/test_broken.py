"""Hosts that are broken for real, and what is said of them."""

from __future__ import annotations

import glob
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import CHECKOUT, COMMAND, SOMEBODY, Diagnosis

# --- user namespaces ---------------------------------------------------------------------------------


def test_without_user_namespaces_nothing_works_and_the_sysctl_is_named(doctor):
    found = doctor.after("echo 0 >/proc/sys/user/max_user_namespaces; exec $DOCTOR", ("unshare", "-Ur"))
    assert found.exit_code == 1
    assert not found.data["works"]
    for check in ("userns.max", "userns.create"):
        assert found.status(check) == "missing"
        assert found[check]["needed"]
        assert found[check]["mend"] == "sysctl -w user.max_user_namespaces=15000"
    assert found.status("mount.proc") == "unknown"
    assert "stopped at create" in str(found["mount.proc"]["fact"])


def test_without_user_namespaces_the_text_has_one_line_for_all_that_was_not_tried(doctor):
    done = doctor.run("echo 0 >/proc/sys/user/max_user_namespaces; exec $DOCTOR_TEXT", ("unshare", "-Ur"))
    lines = done.stdout.decode().splitlines()
    assert len([line for line in lines if line.startswith("unknown")]) == 1
    assert "does NOT work here" in lines[-1]
    assert "userns.create" in lines[-1]


def test_root_of_a_user_namespace_is_told_that_its_ids_are_not_there(doctor):
    found = doctor.after("exec $DOCTOR", ("unshare", "-Ur"))
    assert found.exit_code == 1
    assert found.status("ids.pool") == "missing"
    assert "this user namespace does not have these ids" in str(found["ids.pool"]["fact"])
    assert found.status("host.nested") == "limited"
    assert "user namespace" in str(found["host.nested"]["fact"])


def test_a_namespace_that_is_used_up_is_named_with_its_sysctl(doctor):
    found = doctor.after("echo 0 >/proc/sys/user/max_uts_namespaces; exec $DOCTOR", ("unshare", "-Ur"))
    assert found.status("namespace.uts") == "missing"
    assert found["namespace.uts"]["mend"] == "sysctl -w user.max_uts_namespaces=15000"
    assert found.status("namespace.ipc") == "ok"


def test_a_masked_proc_is_named_and_the_container_around_told_how(doctor):
    script = "mount -t tmpfs none /proc/scsi 2>/dev/null || mount -t tmpfs none /proc/fs; exec $DOCTOR"
    found = doctor.after(script, ("unshare", "-Urmpf", "--mount-proc"))
    assert found.status("mount.proc-whole") == "limited"
    assert found.status("mount.proc") == "missing"
    assert "EPERM" in str(found["mount.proc"]["fact"])
    for check in ("mount.proc", "mount.proc-whole"):
        assert "systempaths=unconfined" in str(found[check]["mend"])
    assert found.exit_code == 1


@pytest.mark.root
def test_without_proc_the_one_command_is_named(doctor):
    found = doctor.after("umount -l /proc; exec $DOCTOR", ("unshare", "-m"))
    assert found.exit_code == 1
    assert found.status("mount.proc-whole") == "missing"
    assert found["mount.proc-whole"]["mend"] == "mount -t proc proc /proc"
    assert "/proc is not mounted" in str(found["userns.create"]["fact"])


@pytest.mark.root
def test_a_masked_proc_sends_run_to_the_doctor(minibox, rootfs, store_dirs):
    words = [sys.executable, "-I", "-m", "minibox", "run", "--uidmap", "0:0:1", str(rootfs), "true"]
    script = "mount -t tmpfs none /proc/fs; exec " + shlex.join(words)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env=minibox.environment, stderr=subprocess.PIPE, check=False
    )
    assert done.returncode == 125
    assert b"mount.proc.open failed" in done.stderr
    assert b"minibox doctor" in done.stderr


# --- inside a container of minibox's own -------------------------------------------------------------


@pytest.mark.root
def test_inside_a_container_of_minibox_it_says_so(doctor, minibox, rootfs):
    volumes = [f"-v{path}:{path}:ro" for path in ("/usr", "/lib", "/lib64") if os.path.exists(path)]
    words = ["run", *volumes, f"-v{CHECKOUT}:{CHECKOUT}:ro", rootfs, *shlex.split(COMMAND)]
    done = minibox(*words)
    found = Diagnosis(done)
    assert found.exit_code == 1
    assert found.status("call.clone3") == "missing"  # ENOSYS, by the filter around
    assert "ENOSYS" in str(found["call.clone3"]["fact"])
    assert "seccomp=unconfined" in str(found["call.clone3"]["mend"])
    assert found.status("userns.create") == "missing"
    assert found.status("privs.no-new-privs") == "limited"
    assert found.status("host.nested") == "limited"
    assert "seccomp filter" in str(found["host.nested"]["fact"])
    assert found.status("cgroup.pids") in ("limited", "missing")


# --- places ------------------------------------------------------------------------------------------

OVERLAY = """
cd "$PLACE"; mkdir lower m; mount -t tmpfs none m; mkdir m/u m/w m/all
mount -t overlay -o lowerdir=lower,upperdir=m/u,workdir=m/w overlay m/all
"""


@pytest.mark.root
def test_layers_on_a_file_system_without_overlay_support_are_copied(doctor, tmp_path, rootfs):
    script = f'{OVERLAY}\ncp -a {rootfs} m/all/root; exec $DOCTOR "$PLACE/m/all/root"'
    data = tmp_path / "m" / "all" / "data"
    found = doctor.after(script, ("unshare", "-m"), data=data, PLACE=str(tmp_path))
    assert found.exit_code == 0  # a container of it works, being a copy
    assert found.status("run.default") == "ok"
    for check in ("mount.overlay", "mount.idmapped", "root.layer"):
        assert found.status(check) == "limited", found[check]
    assert "--data-root DIR" in str(found["mount.overlay"]["mend"])
    assert "copied for each container" in str(found["root.layer"]["fact"])


@pytest.mark.root
def test_a_data_directory_that_is_read_only_is_named(doctor, tmp_path):
    script = 'mount -t tmpfs -o ro none "$PLACE"; exec $DOCTOR'
    found = doctor.after(script, ("unshare", "-m"), data=tmp_path / "data", PLACE=str(tmp_path))
    assert found.exit_code == 1
    assert found.status("store.data") == "missing"
    assert "EROFS" in str(found["store.data"]["fact"])
    assert "--data-root DIR" in str(found["store.data"]["mend"])
    assert found.status("mount.overlay") == "unknown"


@pytest.mark.root
def test_a_data_directory_that_is_full_is_named(doctor, tmp_path):
    script = 'mount -t tmpfs -o size=16k none "$PLACE"; head -c 12k /dev/zero >"$PLACE/f"; exec $DOCTOR'
    found = doctor.after(script, ("unshare", "-m"), data=tmp_path / "data", PLACE=str(tmp_path))
    assert found.exit_code == 1
    assert found.status("store.data") == "missing"
    assert "ENOSPC" in str(found["store.data"]["fact"])
    assert found.status("store.data-space") == "limited"


@pytest.mark.root
def test_an_ordinary_user_with_a_data_directory_of_root_is_told(doctor, as_somebody, tmp_path):
    found = doctor.after(f"MINIBOX_DATA=/var/{tmp_path.name} exec $DOCTOR", as_somebody)
    assert found.exit_code == 1
    assert found.status("store.data") == "missing"
    assert "EACCES" in str(found["store.data"]["fact"])


def test_a_run_directory_that_others_may_enter_is_refused_and_chmod_named(doctor, store_dirs):
    store_dirs[0].mkdir(mode=0o755)
    found = doctor()
    assert found.exit_code == 1
    assert found.status("store.run") == "missing"
    assert found["store.run"]["mend"] == f"chmod 700 {store_dirs[0]}"
    store_dirs[0].chmod(0o700)
    assert doctor().status("store.run") == "ok"


# --- limits, tools, devices --------------------------------------------------------------------------


def test_few_files_are_a_limit(doctor):
    found = doctor.after("ulimit -n 100; exec $DOCTOR")
    assert found.status("host.limits") == "limited"
    assert "nofile 100/100" in str(found["host.limits"]["fact"])
    assert "--nofile=256:256" in str(found["host.limits"]["mend"])
    soft = doctor.after("ulimit -Sn 100; exec $DOCTOR")
    assert soft["host.limits"]["mend"] == "ulimit -Sn 256"


def test_too_few_files_stop_the_run_and_say_at_which_step(doctor):
    found = doctor.after("ulimit -n 20; exec $DOCTOR")
    assert found.exit_code == 1
    assert "EMFILE" in str(found["run.default"]["fact"])


def test_without_newuidmap_in_path_the_package_is_named(doctor, as_user):
    found = doctor.after("PATH=/nowhere; export PATH; exec $DOCTOR", as_user)
    assert found.status("ids.newuidmap") == "missing"
    assert "uidmap" in str(found["ids.newuidmap"]["mend"]) or "shadow" in str(found["ids.newuidmap"]["mend"])
    assert found.exit_code == 0  # one id is enough to run


def test_newuidmap_without_rights_is_not_taken_for_one(doctor, as_user, home):
    for name in ("newuidmap", "newgidmap"):
        (home / name).write_text("#!/bin/sh\nexit 1\n")
        (home / name).chmod(0o755)
    found = doctor.after(f"PATH={home}:/usr/bin:/bin; export PATH; exec $DOCTOR", as_user)
    assert found.status("ids.newuidmap") == "limited"
    assert found["ids.newuidmap"]["mend"] == f"sudo chmod u+s {home}/newuidmap"


@pytest.mark.root
def test_a_device_that_is_none_is_named_with_mknod(doctor):
    script = "mount -t tmpfs none /dev/shm; : >/dev/shm/f; mount --bind /dev/shm/f /dev/full; exec $DOCTOR"
    found = doctor.after(script, ("unshare", "-m"))
    assert found.exit_code == 1
    assert found.status("host.devices") == "missing"
    assert "mknod -m 666 /dev/full c 1 7" in str(found["host.devices"]["mend"])


# --- cgroups, for an ordinary user -------------------------------------------------------------------


@pytest.mark.root
def test_the_command_that_delegates_really_does(doctor, as_somebody):
    before = doctor.after("exec $DOCTOR", as_somebody)
    checks = ("cgroup.memory", "cgroup.pids", "cgroup.cpu")
    refused = [check for check in checks if before.status(check) == "limited"]
    assert refused
    command = str(before[refused[0]]["mend"])
    assert command.startswith("sudo sh -c ")
    try:
        # The shell of root's stands in for the user's: $$ stays the same process.
        script = f"{command.removeprefix('sudo ')}; exec {shlex.join(as_somebody)} $DOCTOR"
        after = doctor.after(script)
    finally:
        for group in glob.glob(f"/sys/fs/cgroup/**/{SOMEBODY}", recursive=True):
            subprocess.run(["find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"], check=True)
    for check in refused:
        assert after.status(check) == "ok", after[check]
    assert after.exit_code == 0


# --- ROOTFS ------------------------------------------------------------------------------------------


def test_a_directory_that_is_no_root_is_named(doctor, tmp_path):
    found = doctor(tmp_path)
    assert found.exit_code == 1
    assert found.status("root.directory") == "missing"
    assert "build-rootfs" in str(found["root.directory"]["mend"])


def test_a_directory_that_is_not_there_is_named(doctor, tmp_path):
    found = doctor(tmp_path / "none")
    assert found.exit_code == 1
    assert "does not exist" in str(found["root.directory"]["fact"])


def test_a_shell_of_another_machine_is_named(doctor, tmp_path):
    (tmp_path / "bin").mkdir()
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x02"
    header[18:20] = (22).to_bytes(2, "big")  # s390x, big-endian
    (tmp_path / "bin" / "sh").write_bytes(header)
    found = doctor(tmp_path)
    assert found.exit_code == 1
    assert found.status("root.shell") == "missing"
    assert "s390x" in str(found["root.shell"]["fact"])


def test_a_shell_whose_loader_is_not_there_is_named(doctor, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").write_bytes(Path("/bin/sh").read_bytes())
    found = doctor(tmp_path)
    assert found.exit_code == 1
    assert found.status("root.shell") == "missing"
    assert "/ld-" in str(found["root.shell"]["fact"])


def test_a_shell_that_is_a_link_out_of_the_root_is_looked_up_inside(doctor, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to("/../../../../../../bin/ls")
    found = doctor(tmp_path)
    assert found.status("root.shell") == "limited"
    assert "ENOENT" in str(found["root.shell"]["fact"])


@pytest.mark.root
def test_owners_without_an_id_and_set_uid_files_are_counted(doctor, own_root):
    os.chown(own_root / "etc" / "passwd", 400_000, 400_000)
    (own_root / "bin" / "su2").write_text("")
    (own_root / "bin" / "su2").chmod(0o4755)
    found = doctor(own_root)
    assert found.status("root.owners") == "limited"
    assert "400000" in str(found["root.owners"]["fact"])
    assert "1 set-uid" in str(found["root.special"]["fact"])
