"""One more command in a running container: `exec`."""

from __future__ import annotations

import os

from minibox.kernel import consts as c
from minibox.plan.context import Context
from minibox.runtime import live, prepare
from minibox.runtime.attend import Attendant
from minibox.runtime.container import init_image
from minibox.runtime.supervisor import Supervisor
from minibox.spec import from_flags
from minibox.spec.model import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.runtime.supervisor import Tracer
    from minibox.spec.from_flags import Options
    from minibox.store.state import Store


class Command:
    """A process that is to run in a container made before.  Raises MiniboxError."""

    def __init__(
        self, store: Store, name: str, argv: tuple[str, ...], options: Options, *, outlive: bool = False
    ) -> None:
        state = store.read(name)
        pid = live.running_pid(state)
        spec = from_flags.with_command(Spec.from_json(state["spec"]), argv, options)
        groups = tuple(live.group_of(state))
        self.prepared = prepare.command(store, spec, pid, groups)
        if outlive:
            from minibox.plan import edit

            plan = edit.leave_out(self.prepared.plan, ("process.death-signal",))
            self.prepared = self.prepared.replace(plan=plan)
        self.ctx = Context()
        prepare.load_filter(self.prepared, self.ctx)

    def start(self, tracer: Tracer | None = None) -> None:
        """Enter the container and run the command.  Raises StepError."""
        self.ctx.init_image = init_image(self.prepared)
        Supervisor(self.prepared.plan, self.ctx, self.prepared.host, tracer).start()

    def attendant(self, *, timeout: float | None = None) -> Attendant:
        """The loop that stays with the command."""
        return Attendant(self.ctx.pid, self.ctx.pidfd, timeout=timeout)

    def finish(self) -> None:
        """After its end."""
        os.close(self.ctx.pidfd)


def namespaces_of(pid: int) -> dict[str, str]:
    """kind -> "pid:[4026531836]" for a process: what its links in /proc/PID/ns say."""
    found = {}
    for kind, (_flag, file) in c.NAMESPACES.items():
        try:
            found[kind] = os.readlink(f"/proc/{pid}/ns/{file}")
        except OSError:
            continue
    return found
