"""Compiled filters, kept: a container that starts loads BPF from a file and compiles nothing.

Facts. To compile a profile takes 40 ms, most of it imports; a container should start in a few. What
is in the file is loaded into the kernel as the container's filter, so who can write the file decides
what the container may do. Imports are the cost of everything here: this module has none but built-in
ones, and reaches for `profile`, `default` and `compile` only on a miss.

What this means for us. An entry's name is a hash of all that its content depends on: the profile (for
our own, the source text of this package), capabilities, architecture, kernel version and libseccomp's
files. The directory and the entry must belong to the caller and be writable by nobody else. A
directory that is not so is an error, since somebody should know; an entry that is not so, or is not
whole, is compiled again and replaced.

An entry: 8 bytes of magic and version, a 20-byte hash of the entry's name and all that follows, then
five 32-bit little-endian numbers (flags, and the lengths of the parts), then the parts: BPF, warnings
(one a line), the listener's path and metadata.
"""

from __future__ import annotations

import os
import sys
from errno import ENOENT

from minibox.errors import MiniboxError

try:
    from _blake2 import blake2b
except ImportError:  # a Python built without it; hashlib then says what it has instead
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MAGIC = b"MBXBPF\x01\n"
_HASH_SIZE = 20
_HEADER_SIZE = len(_MAGIC) + _HASH_SIZE + 5 * 4
_MAX_BPF = 4096 * 8
_MAX_ENTRY = _MAX_BPF + (1 << 20)

# What decides how a document is compiled; cache.py for the format of an entry.
_SOURCES = ("cache.py", "compile.py", "profile.py", "default.py", "syscalls.py", "decode.py")

_GROUP_OR_OTHERS_WRITE = 0o022
_TYPE_MASK, _REGULAR = 0o170000, 0o100000
_OPEN_ENTRY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class CacheError(MiniboxError):
    """A cache directory that others could write, so that nothing in it can be trusted."""


class Filter:
    """A filter as seccomp(2) takes it.

    `bpf`: an array of struct sock_filter, 8 bytes each. `flags`: SECCOMP_FILTER_FLAG_*; with
    NEW_LISTENER the call returns a descriptor. `digest`: 40 hexadecimal digits that identify `bpf`.
    `warnings`: what the profile asks for and the filter lacks. `listener`: None, or for a profile with a
    `listenerPath` a dict of `path` and `metadata` (OCI config-linux.md, "Seccomp").
    """

    __slots__ = ("bpf", "digest", "flags", "listener", "warnings")

    def __init__(
        self, bpf: bytes, flags: int, warnings: tuple[str, ...] = (), listener: dict[str, str] | None = None
    ) -> None:
        self.bpf = bpf
        self.flags = flags
        self.digest = _hash(bpf).hex()
        self.warnings = warnings
        self.listener = listener


def load(
    profile: str | Mapping[str, object],
    *,
    capabilities: int,
    arch: str,
    release: str,
    cache_dir: str | None,
    strict: bool = False,
) -> Filter:
    """Return the filter of a profile for one container, from the cache or compiled.

    *profile* is `"default"` or parsed JSON in Docker's or OCI's format; *capabilities* the
    container's bounding set as a mask; *arch* and *release* as uname(2) gives them; *cache_dir* is
    made if it does not exist, with None nothing is kept; with *strict* a warning is an error. A
    filter that cannot be kept is returned all the same, with a warning. Raises ProfileError (a bad
    profile), CompileError (no libseccomp), CacheError (a directory that others may write).
    """
    key = _key(profile, capabilities, arch, release, strict)
    directory = _open_directory(cache_dir) if cache_dir is not None and key else -1
    if directory < 0:
        return _compile(profile, capabilities, arch, release, strict)
    try:
        found = _read(directory, key)
        if found is None:
            found = _compile(profile, capabilities, arch, release, strict)
            try:
                _write(directory, key, found)
            except OSError as error:
                found.warnings += (f"the seccomp filter was not kept in {cache_dir}: {error.strerror}",)
        return found
    finally:
        os.close(directory)


def _compile(
    profile: str | Mapping[str, object], capabilities: int, arch: str, release: str, strict: bool
) -> Filter:
    from minibox.seccomp.compile import compile_profile
    from minibox.seccomp.profile import resolve

    if isinstance(profile, str):
        if profile != "default":
            raise ValueError(f"{profile!r} is not a seccomp profile: 'default' or parsed JSON")
        from minibox.seccomp.default import document

        profile = document()
    resolved = resolve(profile, capabilities=capabilities, arch=arch, release=release)
    compiled = compile_profile(resolved, strict=strict)
    listener = None
    if resolved.listener_path:
        listener = {"path": resolved.listener_path, "metadata": resolved.listener_metadata}
    return Filter(compiled.bpf, compiled.flags, compiled.warnings, listener)


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=_HASH_SIZE).digest()


def _key(
    profile: str | Mapping[str, object], capabilities: int, arch: str, release: str, strict: bool
) -> str:
    """The name of an entry: a hash of all that it depends on. Empty where this package's sources
    cannot be read."""
    state = blake2b(digest_size=_HASH_SIZE)
    try:
        for source in _sources():
            state.update(source)
    except OSError:
        return ""
    # repr tells apart all that JSON can hold (True and 1, "1" and 1), and is fast.
    version = ".".join(release.split(".")[:2])
    facts = (profile, capabilities, arch, version, strict, sys.byteorder, *_libraries(arch))
    state.update(repr(facts).encode("utf-8", "surrogatepass"))
    return state.hexdigest()


def _sources() -> Iterator[bytes]:
    """The length and text of each source file: times and sizes would take a new one for the old."""
    here = os.path.dirname(__file__)
    for name in _SOURCES:
        text = _slurp(os.open(f"{here}/{name}", os.O_RDONLY | os.O_CLOEXEC))
        yield len(text).to_bytes(8, "little")
        yield text


def _slurp(descriptor: int) -> bytes:
    try:
        data = os.read(descriptor, os.fstat(descriptor).st_size + 1)
        while more := os.read(descriptor, 1 << 16):
            data += more
        return data
    finally:
        os.close(descriptor)


def _libraries(arch: str) -> Iterator[tuple[str, int, int, int]]:
    """Identify the libseccomp that pyseccomp would load, without finding out which it is: all that
    it could be."""
    directories = [f"/usr/lib/{arch}-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"]
    directories += filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    # ldconfig writes its cache anew when a library is installed in a place that is not in the list.
    for path in ("/etc/ld.so.cache", *(f"{directory}/libseccomp.so.2" for directory in directories)):
        try:
            status = os.stat(path)
        except OSError:
            continue
        yield path, status.st_ino, status.st_size, status.st_mtime_ns


def _open_directory(path: str) -> int:
    """Open the directory, made if need be, and see that only the caller can write it; -1 where it
    cannot be made."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno != ENOENT:
            raise CacheError(f"the seccomp cache {path} cannot be used: {error.strerror}") from error
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            descriptor = os.open(path, flags)
        except OSError:
            return -1
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & _GROUP_OR_OTHERS_WRITE:
        os.close(descriptor)
        mode = f"{status.st_mode & 0o7777:04o}"
        raise CacheError(
            f"the seccomp cache {path} belongs to uid {status.st_uid} with mode {mode}: it must be "
            f"writable by uid {os.geteuid()} alone, who loads filters from it. "
            "Remove it, or chown and chmod 0700 it"
        )
    return descriptor


def _read(directory: int, key: str) -> Filter | None:
    """Return the entry, or None where there is none that can be trusted and is whole."""
    try:
        # Not to block on a FIFO that somebody put here.
        descriptor = os.open(key, _OPEN_ENTRY | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if (
            status.st_mode & _TYPE_MASK != _REGULAR
            or status.st_uid != os.geteuid()
            or status.st_mode & _GROUP_OR_OTHERS_WRITE
            or not _HEADER_SIZE < status.st_size <= _MAX_ENTRY
        ):
            return None
        return _decode(os.read(descriptor, _MAX_ENTRY), key)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _write(directory: int, key: str, found: Filter) -> None:
    """Replace the entry at once: a reader sees the old one or the new one."""
    temporary = f".{key}.{os.getpid()}.{os.urandom(4).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        data = _encode(found, key)
        while data:
            data = data[os.write(descriptor, data) :]
        os.replace(temporary, key, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(temporary, dir_fd=directory)
        raise
    finally:
        os.close(descriptor)


def _encode(found: Filter, key: str) -> bytes:
    listener = found.listener
    parts = (
        found.bpf,
        "\n".join(found.warnings).encode("utf-8", "surrogatepass"),
        listener["path"].encode("utf-8", "surrogatepass") if listener else b"",
        listener["metadata"].encode("utf-8", "surrogatepass") if listener else b"",
    )
    numbers = (found.flags, *(len(part) for part in parts))
    body = b"".join((*(number.to_bytes(4, "little") for number in numbers), *parts))
    return _MAGIC + _hash(key.encode() + body) + body


def _decode(data: bytes, key: str) -> Filter | None:
    head = len(_MAGIC) + _HASH_SIZE
    body = data[head:]
    if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC) : head] != _hash(key.encode() + body):
        return None
    flags, *lengths = (int.from_bytes(body[at : at + 4], "little") for at in range(0, 20, 4))
    if len(body) != 20 + sum(lengths) or lengths[0] % 8 or not 0 < lengths[0] <= _MAX_BPF:
        return None
    parts, at = [], 20
    for length in lengths:
        parts.append(body[at : at + length])
        at += length
    warnings, path, metadata = (part.decode("utf-8", "surrogatepass") for part in parts[1:])
    listener = {"path": path, "metadata": metadata} if path else None
    return Filter(parts[0], flags, tuple(warnings.split("\n")) if warnings else (), listener)
