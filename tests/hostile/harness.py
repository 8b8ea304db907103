"""A container made in this process, with steps left out or changed, and what the host may not lose by it.

Every attack is aimed at a canary that the test itself made; the host's own files are only watched.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minibox.errors import StepError
from minibox.plan.model import Plan
from minibox.runtime.command import Command
from minibox.runtime.container import Container
from minibox.store.state import Store

AT_FDCWD = -100
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass
class Ended:
    """How an attack's payload ended, or the error of the step that stopped the start."""

    code: int
    out: str
    err: str
    error: StepError | None = None
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> str:
        """The step that failed, "" when none did."""
        return self.error.step if self.error else ""


class Attack:
    """Runs payloads in containers of a store of the test's own."""

    def __init__(self, store: Store, rootfs: Path) -> None:
        self.store = store
        self.rootfs = rootfs
        self.count = 0
        self.prefix = f"hostile-{os.getpid()}"

    def groups(self) -> list[str]:
        """What is left of this process's containers' cgroups."""
        return glob.glob(f"/sys/fs/cgroup/**/minibox-{self.prefix}-*", recursive=True)

    def make(
        self,
        argv: Sequence[object],
        *,
        rootfs: Path | None = None,
        leave_out: Sequence[str] = (),
        change: Callable[[Plan], Plan] | None = None,
        **options: Any,
    ) -> Container:
        """A container, not started.  `change` gives another Plan for its Plan."""
        self.count += 1
        made = Container.make(
            self.store,
            f"{self.prefix}-{self.count}",
            os.fspath(rootfs or self.rootfs),
            tuple(map(str, argv)),
            options,
            leave_out=tuple(leave_out),
        )
        if change is not None:
            made.prepared = made.prepared.replace(plan=change(made.prepared.plan))
        return made

    def __call__(self, *argv: object, timeout: float = 20, stdin: int | None = None, **how: Any) -> Ended:
        """Run a payload to its end."""
        container = self.make(argv, **how)
        with _pipes(container.ctx.streams, stdin) as (readers, close_theirs):
            try:
                container.start()
            except StepError as error:
                close_theirs()
                out, err = (_rest(fd) for fd in readers)
                return Ended(error.exit_code, out, err, error)
            close_theirs()
            code, out, err = _attend(container.attendant(timeout=timeout), readers)
            state = container.finish(code[1])
        return Ended(code[0], out, err, None, state)

    def sh(self, script: str, **how: Any) -> Ended:
        """Run a shell script of busybox."""
        return self("sh", "-c", script, **how)

    def exec(self, name: str, *argv: object, timeout: float = 20, **options: Any) -> Ended:
        """One more command in a running container; options `leave_out` and `change` as for `make`."""
        leave_out = options.pop("leave_out", ())
        change = options.pop("change", None)
        command = Command(self.store, name, tuple(map(str, argv)), options)
        if leave_out or change:
            from minibox.plan import edit

            plan = edit.leave_out(command.prepared.plan, tuple(leave_out))
            command.prepared = command.prepared.replace(plan=change(plan) if change else plan)
        with _pipes(command.ctx.streams, None) as (readers, close_theirs):
            try:
                command.start()
            except StepError as error:
                close_theirs()
                out, err = (_rest(fd) for fd in readers)
                return Ended(error.exit_code, out, err, error)
            close_theirs()
            code, out, err = _attend(command.attendant(timeout=timeout), readers)
            command.finish()
        return Ended(code[0], out, err)

    @contextmanager
    def running(self, *argv: object, **how: Any):  # type: ignore[no-untyped-def]
        """A container that is up while the block runs; its first line of output has been read."""
        container = self.make(argv, **how)
        reading, writing = os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        container.ctx.streams.update({0: null, 1: writing, 2: writing})
        try:
            container.start()
            os.close(writing)
            writing = -1
            container.first_line = _line(reading)
            yield container
        finally:
            for fd in (null, writing):
                if fd >= 0:
                    os.close(fd)
            if container.ctx.pidfd >= 0:
                attendant = container.attendant()
                attendant.kill()
                container.finish(attendant.run())
            os.close(reading)


def _rest(fd: int) -> str:
    data = b""
    while part := os.read(fd, 65536):
        data += part
    return data.decode("utf-8", "replace")


def _line(fd: int) -> str:
    data = b""
    while not data.endswith(b"\n") and (part := os.read(fd, 1)):
        data += part
    return data.decode()


@contextmanager
def _pipes(streams: dict[int, int], stdin: int | None):  # type: ignore[no-untyped-def]
    """stdout and stderr of a payload as pipes, kept above 2; (our ends, close theirs)."""
    out, err = os.pipe(), os.pipe()
    source = os.open("/dev/null", os.O_RDONLY) if stdin is None else os.dup(stdin)
    streams.update({0: source, 1: out[1], 2: err[1]})
    theirs = [source, out[1], err[1]]

    def close_theirs() -> None:
        while theirs:
            os.close(theirs.pop())

    readers = {out[0]: [], err[0]: []}
    try:
        yield readers, close_theirs
    finally:
        close_theirs()
        for fd in (out[0], err[0]):
            if fd in readers:
                os.close(fd)


def _attend(attendant: Any, readers: dict[int, list[bytes]]) -> tuple[Any, str, str]:
    parts = list(readers.values())
    for fd, part in readers.items():
        attendant.read(fd, part.append)
    readers.clear()
    ended = attendant.run()
    out, err = (b"".join(one).decode("utf-8", "replace") for one in parts)
    return (ended.code, ended), out, err


# --- Plans changed ---------------------------------------------------------------------------------


def changed(step_id: str, **operands: Any) -> Callable[[Plan], Plan]:
    """A change of a Plan: other operands for the operation of one step."""

    def change(plan: Plan) -> Plan:
        assert step_id in plan, f"no step {step_id}"
        steps = tuple(
            step.replace(op=step.op.replace(**operands)) if step.id == step_id else step for step in plan
        )
        return plan.replace(steps=steps)

    return change


def without_attribute(step_id: str, name: str) -> Callable[[Plan], Plan]:
    """A change of a Plan: one mount attribute less."""

    def change(plan: Plan) -> Plan:
        left = tuple(one for one in plan[step_id].op.attributes if one != name)
        assert left != plan[step_id].op.attributes, f"{step_id} has no {name}"
        return changed(step_id, attributes=left)(plan)

    return change


# --- what the host may not lose ----------------------------------------------------------------------


def facts_of(path: str | Path, *, content: bool = True) -> tuple[Any, ...]:
    """Inode, mode, owner, size, times and bytes of a file, a directory with all below it."""
    path = Path(path)
    status = path.lstat()
    found: tuple[Any, ...] = (
        str(path),
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_rdev,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    if path.is_symlink():
        return (*found, os.readlink(path))
    if path.is_dir():
        return (*found, tuple(facts_of(one) for one in sorted(path.iterdir())))
    if content and path.is_file():
        return (*found, hashlib.sha256(path.read_bytes()).digest())
    return found


def runtime_files() -> list[str]:
    """The host's python and the libraries that this process has loaded from the system."""
    paths = {os.path.realpath(sys.executable)}
    for line in Path("/proc/self/maps").read_text().splitlines():
        name = line.rpartition(" ")[2]
        if name.startswith(("/lib", "/usr/lib")) and ".so" in name and os.path.exists(name):
            paths.add(name)
    return sorted(paths)


RUNTIME_FILES = runtime_files()


def host_same() -> dict[str, Any]:
    """Everything of the host that an attack might change; a file that is written to has another ctime."""
    settings = ("kernel/core_pattern", "kernel/modprobe", "vm/panic_on_oom", "user/max_user_namespaces")
    return {
        "files": [facts_of(path, content=False) for path in RUNTIME_FILES],
        "devices": [facts_of(f"/dev/{name}")[:6] for name in ("null", "zero", "full", "random", "tty")],
        "settings": [path.read_text() for name in settings if (path := Path("/proc/sys", name)).exists()],
        "mounts": Path("/proc/self/mountinfo").read_text(),
    }


# --- helpers for the host's side -----------------------------------------------------------------------


def script(
    source: str, *words: object, python: str = sys.executable, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own that has minibox and this module at hand."""
    head = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    env = {**os.environ, **options.pop("env", {})}
    return subprocess.run(
        [python, "-I", "-c", head + source, *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        env=env,
        check=False,
        **options,
    )


def stores(store: Store) -> Mapping[str, str]:
    """The environment that makes another minibox use a store."""
    return {"MINIBOX_ROOT": store.run, "MINIBOX_DATA": store.data}


def syscall(number: int, *operands: Any) -> int:
    """A system call; -errno when it fails."""
    result = int(LIBC.syscall(number, *operands))
    return -ctypes.get_errno() if result < 0 else result


def name_of(number: int) -> str:
    """EPERM for 1."""
    return errno.errorcode.get(number, str(number))
