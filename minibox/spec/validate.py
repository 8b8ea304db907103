"""What no container can be made from, wherever the Spec came from.  Errors are SpecErrors."""

from __future__ import annotations

from minibox.errors import SpecError
from minibox.kernel import idmap
from minibox.spec.model import Spec

ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-.")
ID_LENGTH = 128
#: sysctls that belong to a namespace, by prefix -> the namespace; all others are the whole machine's
SYSCTL_NAMESPACES = {
    "kernel.msg": "ipc",
    "kernel.sem": "ipc",
    "kernel.shm": "ipc",
    "fs.mqueue.": "ipc",
    "net.": "net",
    "kernel.hostname": "uts",
    "kernel.domainname": "uts",
    "user.": "user",
}


def container_id(name: str, pointer: str = "--name") -> str:
    """An id that is safe as a file name and a cgroup name."""
    if not name:
        raise SpecError(pointer, "a container ID cannot be empty")
    for character in name:
        if character not in ID_CHARACTERS:
            raise SpecError(pointer, f'container ID "{name}" has an invalid character: {character!r}')
    if name in (".", "..") or name[0] in "+-." or len(name) > ID_LENGTH:
        raise SpecError(
            pointer, f'container ID "{name}" must begin with a letter, digit or _ (at most {ID_LENGTH})'
        )
    return name


def check(spec: Spec) -> Spec:
    """The Spec itself, when it can be compiled.  Raises SpecError."""
    container_id(spec.id)
    _check_process(spec)
    _check_names(spec)
    for maps, pointer in ((spec.uid_maps, "--uidmap"), (spec.gid_maps, "--gidmap")):
        idmap.check(maps, pointer)
    for name, value in spec.sysctls:
        _check_sysctl(spec, name, value)
    if spec.time_offsets and not spec.is_new("time"):
        raise SpecError("--time-offset", "needs a time namespace of the container's own")
    return spec


def _check_process(spec: Spec) -> None:
    process = spec.process
    if not process.argv or not process.argv[0]:
        raise SpecError("/process/args", "the command is empty")
    for text in (*process.argv, *process.env, process.cwd, spec.root.path):
        if "\0" in text:
            raise SpecError("/process", f"{text!r} has a NUL character in it")
    if not process.cwd.startswith("/"):
        raise SpecError("--workdir", f'"{process.cwd}" is not an absolute path')


def _check_names(spec: Spec) -> None:
    for name, flag, kind in (
        (spec.hostname, "--hostname", "uts"),
        (spec.domainname, "--domainname", "uts"),
    ):
        if not name:
            continue
        if not spec.is_new(kind):
            raise SpecError(flag, "needs a UTS namespace of the container's own")
        labels = name.split(".")
        plain = name.isascii() and all(
            label.replace("-", "a").replace("_", "a").isalnum() for label in labels
        )
        if len(name) > 64 or not plain:
            raise SpecError(flag, f'"{name}" is no host name (64 letters, digits, "-" and "." at most)')


def _check_sysctl(spec: Spec, name: str, value: str) -> None:
    """Only what belongs to a namespace of the container's own (CVE-2022-0811 wrote core_pattern)."""
    dotted = name.replace("/", ".")
    good = all(part and part.replace("_", "a").replace("-", "a").isalnum() for part in dotted.split("."))
    if not good or "\n" in value or "\0" in value:
        raise SpecError("--sysctl", f'"{name}={value}" is malformed')
    kind = next((kind for prefix, kind in SYSCTL_NAMESPACES.items() if dotted.startswith(prefix)), None)
    if kind is None:
        raise SpecError("--sysctl", f"{name} belongs to no namespace: it would change the whole machine")
    if not spec.is_new(kind):
        raise SpecError("--sysctl", f"{name} needs a {kind} namespace of the container's own")
