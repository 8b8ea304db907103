"""The cache: what makes an entry another one, what is never trusted, and what a hit costs."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minibox.seccomp import cache
from minibox.seccomp.cache import CacheError, Filter
from minibox.seccomp.profile import ProfileError

PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}],
}
CHECKOUT = Path(__file__).parents[2]

# What architecture.md keeps off the hot verbs, and what only a miss may load.
FORBIDDEN = [
    "argparse",
    "dataclasses",
    "typing",
    "pathlib",
    "subprocess",
    "logging",
    "re",
    "json",
    "hashlib",
    "struct",
    "ctypes",
    "pyseccomp",
    "pyroute2",
    "minibox.seccomp.profile",
    "minibox.seccomp.compile",
    "minibox.seccomp.default",
    "minibox.seccomp.decode",
    "minibox.seccomp.syscalls",
]


def load(directory: Path | None, profile: Any = PROFILE, **changes: Any) -> Filter:
    facts: dict[str, Any] = {
        "capabilities": 0,
        "arch": os.uname().machine,
        "release": "6.1.0",
        "strict": False,
    }
    return cache.load(profile, cache_dir=str(directory) if directory else None, **{**facts, **changes})


def entry_of(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "a" / "seccomp"


@pytest.fixture
def no_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Filter:
        raise AssertionError("compiled, where a hit is wanted")

    monkeypatch.setattr(cache, "_compile", refuse)


def same(one: Filter, two: Filter) -> bool:
    return all(getattr(one, name) == getattr(two, name) for name in Filter.__slots__)


def test_what_is_read_back_is_what_was_compiled(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = copy.deepcopy(PROFILE)
    profile["flags"] = ["SECCOMP_FILTER_FLAG_LOG"]
    profile["syscalls"] += [
        {"names": ["mount"], "action": "SCMP_ACT_NOTIFY"},
        {"names": ["no_such_call", "nor_this"], "action": "SCMP_ACT_ALLOW"},
    ]
    profile |= {"listenerPath": "/run/ü.sock", "listenerMetadata": "a\nb"}
    first = load(directory, profile)
    monkeypatch.setattr(cache, "_compile", None)
    second = load(directory, profile)
    assert same(first, second)
    assert second.flags == 1 << 1 | 1 << 3
    assert len(second.warnings) == 2
    assert second.listener == {"path": "/run/ü.sock", "metadata": "a\nb"}
    assert len(second.bpf) % 8 == 0
    assert len(bytes.fromhex(second.digest)) == 20


def test_a_profile_without_a_listener_has_none(directory: Path) -> None:
    assert load(directory).listener is None
    assert load(directory).warnings == ()


def test_the_directory_and_the_entry_are_private(directory: Path) -> None:
    old = os.umask(0)
    try:
        load(directory)
    finally:
        os.umask(old)
    assert directory.stat().st_mode & 0o7777 == 0o700
    assert entry_of(directory).stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize(
    "changes",
    [
        {"profile": {**PROFILE, "defaultErrnoRet": 1}},
        {"profile": {**PROFILE, "defaultErrnoRet": 2}},
        {"profile": "default"},
        {"capabilities": 1},
        {"arch": "aarch64"},
        {"release": "6.2.0"},
        {"strict": True},
    ],
)
def test_another_question_has_another_entry(directory: Path, changes: dict[str, Any]) -> None:
    load(directory)
    load(directory, **changes)
    assert len(list(directory.iterdir())) == 2


def test_a_kernel_of_the_same_version_shares_the_entry(directory: Path, no_compiling: None) -> None:
    assert cache._key(PROFILE, 0, "x86_64", "6.1.0-9", False) == cache._key(
        PROFILE, 0, "x86_64", "6.1.99", False
    )


def test_a_changed_source_or_library_makes_old_entries_unused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cache._key(PROFILE, 0, "x86_64", "6.1", False)
    monkeypatch.setattr(cache, "_sources", lambda: iter([b"another text"]))
    assert cache._key(PROFILE, 0, "x86_64", "6.1", False) != before
    monkeypatch.undo()
    assert cache._key(PROFILE, 0, "x86_64", "6.1", False) == before
    monkeypatch.setattr(cache, "_libraries", lambda _: iter([("/usr/lib/libseccomp.so.2", 1, 2, 3)]))
    assert cache._key(PROFILE, 0, "x86_64", "6.1", False) != before


def test_the_library_that_is_loaded_is_one_that_the_key_knows() -> None:
    import pyseccomp

    with open("/proc/self/maps") as maps:
        loaded = {line.split()[-1] for line in maps if "libseccomp" in line}
    assert pyseccomp.system_arch()
    known = {os.path.realpath(path) for path, *_ in cache._libraries(os.uname().machine)}
    assert loaded
    assert {os.path.realpath(path) for path in loaded} <= known


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_a_directory_that_others_may_write_is_refused(directory: Path, mode: int) -> None:
    load(directory)
    directory.chmod(mode)
    with pytest.raises(CacheError, match=f"{mode:04o}"):
        load(directory)


def test_a_directory_by_symbolic_link_is_refused(directory: Path, tmp_path: Path) -> None:
    load(directory)
    link = tmp_path / "link"
    link.symlink_to(directory)
    with pytest.raises(CacheError):
        load(link)


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(0o600)
    with pytest.raises(CacheError):
        load(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory away")
def test_a_directory_of_somebody_else_is_refused(directory: Path) -> None:
    load(directory)
    os.chown(directory, 1234, -1)
    with pytest.raises(CacheError, match="1234"):
        load(directory)


def spoil_group_writable(path: Path) -> None:
    path.chmod(0o620)


def spoil_world_writable(path: Path) -> None:
    path.chmod(0o602)


def spoil_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def spoil_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def spoil_empty(path: Path) -> None:
    path.write_bytes(b"")


def spoil_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def spoil_longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 8)


def spoil_one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def spoil_magic(path: Path) -> None:
    path.write_bytes(b"X" + path.read_bytes()[1:])


def spoil_length(path: Path) -> None:
    """An entry with a right hash and a program of 12 bytes."""
    path.write_bytes(cache._encode(Filter(b"\x06\0\0\0\0\0\xff\x7f\0\0\0\0", 0), path.name))


def spoil_too_long(path: Path) -> None:
    path.write_bytes(cache._encode(Filter(b"\x06\0\0\0\0\0\xff\x7f" * 4097, 0), path.name))


def spoil_other_entry(path: Path) -> None:
    """The whole entry of another profile, under this one's name."""
    path.write_bytes(cache._encode(Filter(b"\x06\0\0\0\0\0\xff\x7f", 0), "0" * 40))


@pytest.mark.parametrize(
    "spoil", [value for name, value in sorted(globals().items()) if name.startswith("spoil_")]
)
def test_an_entry_that_cannot_be_trusted_is_compiled_again(directory: Path, spoil: Any) -> None:
    first = load(directory)
    path = entry_of(directory)
    good = path.read_bytes()
    spoil(path)
    assert same(load(directory), first)
    assert entry_of(directory).read_bytes() == good
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o7777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_an_entry_of_somebody_else_is_compiled_again(directory: Path) -> None:
    first = load(directory)
    path = entry_of(directory)
    path.write_bytes(cache._encode(Filter(b"\x06\0\0\0\0\0\xff\x7f", 0), path.name))
    os.chown(path, 1234, -1)
    assert same(load(directory), first)
    assert path.stat().st_uid == os.geteuid()


def test_a_trusted_entry_is_what_is_loaded(directory: Path, no_compiling: None) -> None:
    """The counterpart of the tests above: with the same bytes, but right owner and mode, the entry
    is taken."""
    directory.mkdir(0o700, parents=True)
    key = cache._key(PROFILE, 0, os.uname().machine, "6.1.0", False)
    (directory / key).write_bytes(cache._encode(Filter(b"\x06\0\0\0\0\0\xff\x7f", 0), key))
    (directory / key).chmod(0o600)
    assert load(directory).bpf == b"\x06\0\0\0\0\0\xff\x7f"


def test_no_directory_keeps_nothing(tmp_path: Path) -> None:
    assert load(None).bpf
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing_and_warns(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    found = load(directory)
    assert found.bpf
    assert "No space left" in found.warnings[-1]
    assert not list(directory.iterdir())


def test_errors_of_the_profile_are_not_kept(directory: Path) -> None:
    with pytest.raises(ProfileError):
        load(directory, {"defaultAction": "nothing"})
    with pytest.raises(ValueError, match="unconfined"):
        load(directory, "unconfined")
    assert not list(directory.iterdir())


HIT = """
import sys
sys.path.insert(0, {checkout!r})
import time
before = set(sys.modules)
start = time.perf_counter_ns()
from minibox.seccomp import cache
imported = time.perf_counter_ns()
def once():
    begin = time.perf_counter_ns()
    facts = dict(capabilities=0xa80425fb, arch={arch!r}, release="6.1.0", cache_dir={directory!r})
    found = cache.load("default", **facts)
    return time.perf_counter_ns() - begin, found
first, found = once()
best = min([first, *(once()[0] for _ in range(20))])
print(first, best, imported - start, *sorted(set(sys.modules) - before))
"""


def test_a_hit_is_cheap_and_imports_nothing(directory: Path) -> None:
    load(directory, "default", capabilities=0xA80425FB)
    script = HIT.format(checkout=str(CHECKOUT), arch=os.uname().machine, directory=str(directory))
    run = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    first, best, imported, *modules = run.stdout.split()
    assert set(modules) & set(FORBIDDEN) == set()
    assert set(modules) <= {
        "minibox", "minibox.errors", "minibox.seccomp", "minibox.seccomp.cache", "_blake2", "errno", "os",
        "__future__",
    }  # fmt: skip
    for what, took in (("first hit", first), ("best hit", best), ("import", imported)):
        print(f"{what}: {int(took) / 1e6:.3f} ms")
    assert int(best) < 500_000
