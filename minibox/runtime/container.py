"""The life of a container, for whoever keeps it: the command line, a monitor, the library.

    make     name, lock and id range taken; the Plan compiled; first state written, with all undo steps
    start    the Plan performed; state "created" after the clone, "running" once the payload runs
    finish   after the payload's end: leftovers killed, cgroups read and removed; then the rest is removed,
             or kept as "stopped" until `rm`

The lock is held all the time; whoever finds it free cleans up (sweep.py).
"""

from __future__ import annotations

import os
import time

from minibox.cgroup import freeze
from minibox.errors import KernelError, StateError
from minibox.kernel import calls
from minibox.kernel import consts as c
from minibox.plan import ops
from minibox.plan.context import Context
from minibox.runtime import live, prepare, sweep
from minibox.runtime.attend import Attendant, Exit
from minibox.runtime.supervisor import Supervisor
from minibox.spec import from_flags, validate, values
from minibox.store import ids, journal
from minibox.store.state import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minibox.runtime.prepare import Prepared
    from minibox.runtime.supervisor import Tracer
    from minibox.runtime.verify import Finding
    from minibox.spec.from_flags import Options
    from minibox.store.state import Store

STOP_WITHIN = 10.0  # seconds from SIGTERM to SIGKILL
KILLED_WITHIN = 10.0  # seconds from SIGKILL until everything of a container has to be gone
#: a file in a container's directory: the state on disk has a Spec that its keeper does not know
UPDATED = "updated"
INIT_IMAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "minibox-init")


class Container:
    """One container that this process keeps.  Use `make`."""

    def __init__(self, store: Store, prepared: Prepared, lock: Lock, *, keep: bool) -> None:
        self.store = store
        self.prepared = prepared
        self.lock = lock
        self.keep = keep
        self.ctx = Context()
        self.orphans = False
        self.findings: list[Finding] = []
        self.state: dict[str, Any] = self._first_state()

    @classmethod
    def make(
        cls,
        store: Store,
        container_id: str,
        rootfs: str,
        argv: tuple[str, ...],
        options: Options,
        *,
        keep: bool = False,
        leave_out: tuple[str, ...] = (),
    ) -> Container:
        """Take the name and an id range, and compile.  `keep` leaves state and layer after the end;
        `leave_out` names steps for experiments.  Raises MiniboxError, with nothing left behind."""
        validate.container_id(container_id)
        check_preserved(from_flags.preserved(options))  # before anything of ours can have the numbers
        prepare.check_root(rootfs, argv)
        if options.get("seccomp_notify"):
            from minibox.runtime import listener

            options = listener.with_handler(options)
        store.prepare()
        with store.lock():
            sweep.sweep(store)
            directory = store.directory(container_id)
            try:
                os.mkdir(directory, 0o700)
            except FileExistsError:
                raise StateError(
                    f'the name "{container_id}" is in use: minibox rm {container_id} frees it'
                ) from None
            lock = None
            try:
                lock = Lock(f"{directory}/lock", create=True)
                lock.acquire()
                prepared = prepare.container(store, container_id, rootfs, argv, options, reserve=True)
                if leave_out:
                    from minibox.plan import edit

                    prepared = prepared.replace(plan=edit.leave_out(prepared.plan, leave_out))
                made = cls(store, prepared, lock, keep=keep)
                made.state["left_out"] = list(leave_out)
                if "stop_timeout" in options:
                    made.state["stop_timeout"] = values.seconds(options["stop_timeout"], "--stop-timeout")
                made.state["notes"] += prepare.load_filter(prepared, made.ctx, options.get("seccomp_notify"))
                made.write()
                journal.record(store.run, container_id, "create")
            except BaseException:
                if lock is not None:
                    lock.close()
                ids.release(store.run, container_id)
                store.forget(container_id)
                raise
        return made

    def _first_state(self) -> dict[str, Any]:
        spec = self.prepared.spec
        return {
            "id": spec.id,
            "status": "creating",
            "pid": 0,
            "start_time": 0,
            "supervisor": os.getpid(),
            "created": time.time(),
            "keep": self.keep,
            "slot": self.prepared.slot,
            "command": list(spec.process.argv),
            "undo": [ops.to_json(step.undo) for step in self.prepared.plan if step.undo is not None],
            "notes": list(self.prepared.plan.notes),
            "spec": spec.to_json(),
            "host": self.prepared.host.to_json(),
            "left_out": [],
        }

    def write(self, **changes: Any) -> None:
        """Change the state, on disk too."""
        self.state.update(changes)
        self.store.write(self.state["id"], self.state)

    @property
    def groups(self) -> list[str]:
        """The container's cgroup directories."""
        return live.group_of(self.state)

    # --- start -------------------------------------------------------------------------------------

    def start(self, tracer: Tracer | None = None, on_start: Callable[[], None] | None = None) -> None:
        """Perform the Plan; `on_start` is called just before the payload may begin.  Raises StepError and
        removes the container when a step fails."""
        self.ctx.init_image = init_image(self.prepared)
        supervisor = Supervisor(self.prepared.plan, self.ctx, self.prepared.host, tracer)
        supervisor.on_start = on_start
        supervisor.on_stop = self._look_at_it
        supervisor.on_clone = lambda: self.write(
            status="created", pid=self.ctx.pid, start_time=live.start_time(self.ctx.pid)
        )
        try:
            supervisor.start()
            self.write(status="running", started=time.time())
            journal.record(self.store.run, self.state["id"], "start", pid=self.ctx.pid)
        except BaseException:
            self.discard()
            raise

    def _look_at_it(self) -> None:
        """`--verify`: the payload stands still before its first instruction; is all as planned?

        Raises StateError when a step of the Plan is missing.
        """
        from minibox.runtime import verify

        self.findings = verify.verify(self.state)
        if any(one.verdict == verify.MISSING for one in self.findings):
            text = "\n".join(verify.lines(self.findings, everything=False))
            raise StateError(f"verify: not started, since the kernel reports otherwise:\n{text}")

    def attendant(self, *, timeout: float | None = None, grace: float | None = None) -> Attendant:
        """The loop that stays with the payload; its `kill` ends every process of the container."""
        attendant = Attendant(self.ctx.pid, self.ctx.pidfd, timeout=timeout, grace=grace)
        attendant.on_kill = lambda: freeze.thaw(self.groups)  # v1: who is frozen does not die
        return attendant

    def adopt_orphans(self) -> None:
        """Where the container has neither a pid namespace nor a group of its own, find the processes that
        outlive its first one: as children of this process, which has to have no others."""
        self.orphans = not self.prepared.spec.is_new("pid") and not self.groups
        if self.orphans:
            calls.set_child_subreaper(True)

    # --- end ---------------------------------------------------------------------------------------

    def finish(self, ended: Exit) -> dict[str, Any]:
        """Everything after the payload's end; the last state, which has `oom_killed`, `memory_peak` and
        `left_behind` too."""
        if self.ctx.pidfd >= 0:
            os.close(self.ctx.pidfd)
            self.ctx.pidfd = -1
        self._take_update()
        sweep.kill_groups(self.groups)
        if self.orphans:
            sweep.kill_children()
        self.end_listener()
        peak = live.memory_peak(self.groups)
        changes = {
            "status": sweep.STOPPED,
            "exit_code": ended.code,
            "finished": time.time(),
            "oom_killed": live.oom_killed(self.groups),
            "timed_out": ended.timed_out,
            "memory_peak": ended.max_rss if peak is None else peak,
        }
        if changes["oom_killed"]:
            journal.record(self.store.run, self.state["id"], "oom")
        journal.record(self.store.run, self.state["id"], "exit", exit_code=ended.code)
        failures = sweep.undo(self.state, groups_only=self.keep)
        self.state.update(changes, left_behind=failures)
        if not self.keep:
            sweep.forget(self.store, self.state)
        else:
            try:
                self.write()
            except KernelError as error:  # a full disk: the sweep will find it stopped, without its exit code
                failures.append(f"its last state: {error}")
        self.lock.close()
        return self.state

    def _take_update(self) -> None:
        """What `update` has changed in the state on disk while the container ran."""
        if os.path.exists(f"{self.store.directory(self.state['id'])}/{UPDATED}"):
            self.state["spec"] = self.store.read(self.state["id"])["spec"]

    def end_listener(self) -> None:
        """Nobody is left whose calls could be answered."""
        if self.ctx.listener is not None:
            self.ctx.listener.finish()

    def discard(self) -> None:
        """Take away a container that did not start, or that nobody is to stay with.  A second call does
        nothing."""
        if self.lock.fd < 0:
            return
        if self.ctx.pidfd >= 0:
            calls.pidfd_send_signal(self.ctx.pidfd, c.SIGNALS["KILL"])
            os.waitpid(self.ctx.pid, 0)
            os.close(self.ctx.pidfd)
            self.ctx.pidfd = -1
        sweep.kill_groups(self.groups)
        self.end_listener()
        sweep.undo(self.state, groups_only=False)
        sweep.forget(self.store, self.state)
        self.lock.close()


def init_image(prepared: Prepared) -> bytes:
    """The static minibox-init, when the Plan runs it.  Raises KernelError when it was not built."""
    operations = (step.op for step in prepared.plan)
    if any(isinstance(op, ops.PrepareProgram) and op.init for op in operations):
        with open(INIT_IMAGE, "rb") as file:
            return file.read()
    return b""


def check_preserved(count: int) -> None:
    """The descriptors to be handed on must be open.  Raises StateError."""
    for fd in range(3, 3 + count):
        try:
            os.fstat(fd)
        except OSError:
            raise StateError(f"--preserve-fds {count}: descriptor {fd} is not open") from None


# --- containers that another process keeps ------------------------------------------------------------


def signal_container(state: dict[str, Any], number: int) -> None:
    """Send a signal to a container's PID 1.  Raises StateError when it does not run."""
    pid = live.running_pid(state)
    pidfd = calls.pidfd_open(pid)
    try:
        live.running_pid(state)  # the descriptor is of the process that was meant
        calls.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)
    if number == c.SIGNALS["KILL"]:
        freeze.thaw(live.group_of(state))


def wait_until_stopped(store: Store, name: str, deadline: float | None = None) -> dict[str, Any] | None:
    """The last state of a container, once its supervisor has let go of it; None past the deadline.

    A container that is removed at its end has no last state: an empty one is returned.
    """
    while True:
        try:
            lock = Lock(f"{store.directory(name)}/lock")
        except KernelError as error:
            if error.errno == 2:
                return {}
            raise
        try:
            if lock.acquire(wait=deadline is None, shared=True):
                return store.read(name) if store.exists(name) else {}
        finally:
            lock.close()
        if deadline is not None and time.monotonic() > deadline:
            return None
        time.sleep(0.01)


def stop(store: Store, name: str, grace: float | None) -> None:
    """Ask a container to end, and end it after `grace` seconds (None: as it was made to, or ten), or at
    once when it would not notice."""
    state = store.read(name)
    if grace is None:
        grace = float(state.get("stop_timeout", STOP_WITHIN))
    pid = live.running_pid(state)
    if live.handles(pid, c.SIGNALS["TERM"]):
        signal_container(state, c.SIGNALS["TERM"])
        freeze.thaw(live.group_of(state))  # so that it can do what it is asked
        if wait_until_stopped(store, name, time.monotonic() + grace) is not None:
            return
    try:
        signal_container(state, c.SIGNALS["KILL"])
        sweep.kill_groups(live.group_of(state))
    except (StateError, KernelError):
        pass  # it has ended by itself
    if wait_until_stopped(store, name, time.monotonic() + KILLED_WITHIN) is None:
        raise StateError(
            f"container {name} was killed, but not all of it is gone after {KILLED_WITHIN:.0f} seconds"
        )


def remove(store: Store, name: str, *, force: bool) -> None:
    """Remove a container that has ended; `force` ends it first.  Raises StateError."""
    state = store.read(name)
    if state["status"] != sweep.STOPPED and live.is_alive(state):
        if not force:
            raise StateError(f"container {name} is running: minibox stop {name}, or rm --force")
        stop(store, name, 0)
        if not store.exists(name):
            return
    with store.lock():
        if not store.exists(name):
            return
        lock = Lock(f"{store.directory(name)}/lock")
        try:
            if not lock.acquire(wait=False):
                raise StateError(f"container {name} is still held by its supervisor: try again")
            state = store.read(name)
            sweep.kill(state)
            failures = sweep.undo(state, groups_only=False)
            sweep.forget(store, state)
        finally:
            lock.close()
    if failures:
        raise StateError(f"left behind of {name}: {'; '.join(failures)}")
