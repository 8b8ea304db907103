"""One more command in a running container: `exec`."""

from __future__ import annotations

import os

from minibox.cgroup import freeze
from minibox.errors import StateError
from minibox.kernel import consts as c
from minibox.plan.context import Context
from minibox.runtime import live, prepare
from minibox.runtime.attend import Attendant
from minibox.runtime.container import init_image
from minibox.runtime.supervisor import Supervisor
from minibox.spec import from_flags
from minibox.spec.model import Spec
from minibox.store import journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minibox.runtime.supervisor import Tracer
    from minibox.seccomp.notify import Handler
    from minibox.spec.from_flags import Options
    from minibox.store.state import Store


class Command:
    """A process that is to run in a container made before.  Raises MiniboxError."""

    def __init__(
        self,
        store: Store,
        name: str,
        argv: tuple[str, ...],
        options: Options,
        *,
        outlive: bool = False,
        handler: Handler | None = None,
    ) -> None:
        state = store.read(name)
        pid = live.running_pid(state)
        groups = tuple(live.group_of(state))
        if not options.get("ignore_paused") and freeze.is_frozen(list(groups)):
            raise StateError(
                f"container {name} is paused: minibox unpause {name}, or exec --ignore-paused to wait"
            )
        spec = from_flags.with_command(Spec.from_json(state["spec"]), argv, options)
        if outlive:  # nobody stays to tell
            spec = spec.replace(show_denials="")
        self.prepared = prepare.command(store, spec, pid, groups)
        if outlive:
            from minibox.plan import edit

            plan = edit.leave_out(self.prepared.plan, ("process.death-signal",))
            self.prepared = self.prepared.replace(plan=plan)
        self.store = store
        self.ctx = Context()
        if spec.seccomp_notify:
            from minibox.runtime import listener

            handler = listener.handler_for(spec, handler)
        prepare.load_filter(self.prepared, self.ctx, handler)
        if self.ctx.listener is not None:
            self.ctx.listener.container_pid = pid
            if outlive and self.ctx.listener.agent is None:
                raise StateError(
                    f"container {name} has a handler of notifications: exec --detach has nobody to run it"
                )

    def start(self, tracer: Tracer | None = None, on_start: Callable[[], None] | None = None) -> None:
        """Enter the container and run the command; `on_start` is called just before it may begin.  Raises
        StepError."""
        self.ctx.init_image = init_image(self.prepared)
        supervisor = Supervisor(self.prepared.plan, self.ctx, self.prepared.host, tracer)
        supervisor.on_start = on_start
        try:
            supervisor.start()
            command = list(self.prepared.spec.process.argv)
            journal.record(self.store.run, self.prepared.spec.id, "exec", pid=self.ctx.pid, command=command)
        except BaseException:
            if self.ctx.listener is not None:
                self.ctx.listener.finish()
            raise

    def attendant(self, *, timeout: float | None = None) -> Attendant:
        """The loop that stays with the command."""
        return Attendant(self.ctx.pid, self.ctx.pidfd, timeout=timeout)

    def finish(self) -> None:
        """After its end."""
        os.close(self.ctx.pidfd)
        if self.ctx.listener is not None:
            self.ctx.listener.finish()


def namespaces_of(pid: int) -> dict[str, str]:
    """kind -> "pid:[4026531836]" for a process: what its links in /proc/PID/ns say."""
    found = {}
    for kind, (_flag, file) in c.NAMESPACES.items():
        try:
            found[kind] = os.readlink(f"/proc/{pid}/ns/{file}")
        except OSError:
            continue
    return found
