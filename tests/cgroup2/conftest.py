"""Hosts on which all controllers are in the one hierarchy of cgroup v2: guests, in continuous integration.

A guest's root file system is an overlay, and the rest is memory, which old kernels do not show through an id
map: roots are copied there.  So the tests have a small one of their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import IS_ROOT, Minibox, wait_until

from cgroup2.helpers import TOP, Group, as_user
from minibox.kernel import tree

APPLETS = (
    "cat chown dd echo grep head id ls mkdir mknod mount ps readlink rm sh sleep stat tail touch true wc"
)
USER = 61234  # an ordinary user without an account, and so without a range


@pytest.fixture(autouse=True)
def _as_root() -> None:
    assert IS_ROOT, "these are for root: they make groups and change users"


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with little in it, since guests copy it for each container; not to be changed."""
    place = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "dev", "etc", "home", "proc", "sys", "tmp"):
        (place / name).mkdir()
    (place / "tmp").chmod(0o1777)
    (place / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
    shutil.copy("/bin/busybox", place / "bin" / "busybox")
    for name in APPLETS.split():
        (place / "bin" / name).symlink_to("busybox")
    _open_to_all(place)
    return place


def _open_to_all(place: Path) -> None:
    """Ordinary users must be able to look up a path below pytest's private directories."""
    while place != place.parent:
        if os.stat(place).st_mode & 0o055 != 0o055:
            place.chmod(os.stat(place).st_mode | 0o055)
        place = place.parent


@pytest.fixture
def own_root(rootfs: Path, tmp_path: Path) -> Path:
    """A copy for a test to spoil."""
    target = tmp_path / "root"
    subprocess.run(["cp", "-a", rootfs, target], check=True)
    return target


@pytest.fixture
def inside(minibox: Minibox, rootfs: Path) -> Callable[..., str]:
    """What a shell script prints in a new container; the test fails when the script does."""

    def run(script: str, *flags: object) -> str:
        return minibox.inside(script, *flags, rootfs=rootfs)

    return run


@pytest.fixture
def up(minibox: Minibox, rootfs: Path) -> Callable[..., Group]:
    """A container in the background, under a name; its group."""

    def start(name: str, *flags: object, script: str = "sleep 300") -> Group:
        done = minibox("run", "-d", "--name", name, *flags, rootfs, "sh", "-c", script)
        assert done.returncode == 0, done.stderr.decode()
        return Group(TOP / f"minibox-{name}")

    return start


# --- an ordinary user -------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the ordinary user's."""
    found = tmp_path_factory.mktemp("user")
    _open_to_all(found.parent)
    os.chown(found, USER, USER)
    return found


@pytest.fixture
def delegated() -> Iterator[Group]:
    """A group that is the ordinary user's, as cgroups(7) has it under "Delegation"."""
    group = Group(TOP / "delegated")
    enabled = (TOP / "cgroup.subtree_control").read_text()
    group.path.mkdir()
    (TOP / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    for name in (".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(group.path / name, USER, USER)
    yield group
    wait_until(lambda: not group.pids())
    left = sorted(one.name for one in group.path.iterdir() if one.is_dir())
    tree.remove_cgroup(str(group.path))
    for name in ("memory", "pids", "cpu"):
        if name not in enabled:
            (TOP / "cgroup.subtree_control").write_text(f"-{name}")
    assert left in ([], ["leaf"])


@pytest.fixture
def theirs(place: Path, rootfs: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`minibox WORDS...` as the ordinary user, in a group; `root` is given as {root}."""
    store = Minibox(place / "run", place / "data")
    root = place / "root"
    subprocess.run(["cp", "-a", rootfs, root], check=True)
    subprocess.run(["chown", "-Rh", f"{USER}:{USER}", root], check=True)

    def run(group: Path, *words: object) -> subprocess.CompletedProcess[str]:
        command = [*store.command, *(str(word).replace("{root}", str(root)) for word in words)]
        return as_user(USER, group, command, {**store.environment, "HOME": str(place)})

    yield run
    names = run(TOP, "ps", "-q").stdout.split()
    if names:
        run(TOP, "rm", "-f", *names)
    for one in (store.run_dir / "containers", store.data_dir):
        assert not one.exists() or list(one.iterdir()) == []
