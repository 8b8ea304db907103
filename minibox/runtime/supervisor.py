"""You are in the supervisor: it performs the host's side of a Plan and clones the child.

Which processes and channels there are:

    supervisor ---clone3---> child                      one SOCK_SEQPACKET pair, `channel`
    supervisor ---clone3---> joiner ---clone3--> child  when namespaces are joined: the joiner enters
                                                        them, makes the child (CLONE_PARENT, so that it
                                                        is the supervisor's) and ends

    child -> supervisor   {"trace": n, "us": t}, {"fd": name} with the descriptor, {"pid": n} from a joiner,
                          {"error": {...}}, {"sync": event}
    supervisor -> child   {"sync": event}
    end of file           seen by the child: the supervisor is dead, so end; seen by the supervisor after
                          sync.start: execve succeeded

Any failure on this side kills the child by its pidfd and takes the Plan's undo steps in reverse.
"""

from __future__ import annotations

import os
import select
import time

from minibox import fastjson
from minibox.errors import CANNOT_RUN, KernelError, StepError
from minibox.kernel import calls
from minibox.kernel import consts as c
from minibox.plan import ops
from minibox.plan.context import Context, PeerGone
from minibox.runtime import child, hints

EPIPE, ECONNRESET = 32, 104  # of a send to a peer that is gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from minibox.kernel.host import Host
    from minibox.plan.model import Plan, Step

    #: called with (number, step, microseconds, note) for each step done, on either side
    Tracer = Callable[[int, Step, int, str], None]


class Supervisor:
    """One run of a Plan.  `start` performs it; `ctx` then has the child's pid and descriptors."""

    def __init__(self, plan: Plan, ctx: Context, host: Host, tracer: Tracer | None = None) -> None:
        self.plan = plan
        self.ctx = ctx
        self.host = host
        self.tracer = tracer
        self.steps = list(enumerate(plan.steps, 1))
        self.on_clone: Callable[[], None] | None = None
        self.on_start: Callable[[], None] | None = None
        self.on_stop: Callable[[], None] | None = None  # the payload stands still at its execve
        self.error: StepError | None = None
        self._theirs = -1

    def start(self) -> None:
        """Perform the Plan until the payload runs.  Raises StepError, with everything undone but what
        `undo` takes away."""
        self.ctx.on_message = self._message
        self.ctx.channel, self._theirs = calls.socketpair()
        try:
            self._perform_all()
            if any(isinstance(step.op, ops.TraceMe) for step in self.plan):
                self._hold_at_exec()
            self._wait_for_exec()
        except BaseException:
            self._kill()
            if "terminal" in self.ctx.fds:
                os.close(self.ctx.fds.pop("terminal"))
            raise
        finally:
            self._close()

    def _perform_all(self) -> None:
        for number, step in self.steps:
            if step.id == "sync.start" and self.on_start is not None:
                self.on_start()
            if step.side == "supervisor":
                self._perform(number, step)
            elif step.side == "joiner" and self.ctx.pid < 0:
                self._join(number)
            if self.on_clone is not None and self.ctx.pid > 0:
                callback, self.on_clone = self.on_clone, None
                callback()

    def _perform(self, number: int, step: Step) -> None:
        start = time.monotonic_ns()
        try:
            note = step.op.perform(self.ctx)
            if self.ctx.pid == 0:
                self._become_child()
            if isinstance(step.op, ops.Clone):
                self._release_their_end()
        except PeerGone:
            raise self._child_failed(number, step) from None
        except (OSError, StepError, ValueError) as error:
            if self.ctx.pid == 0:
                os._exit(125)
            gone = isinstance(error, KernelError) and error.errno in (EPIPE, ECONNRESET)
            if gone and isinstance(step.op, ops.Release):  # it ended, and may have said why
                raise self._child_failed(number, step) from None
            own = child.failed(number, step, len(self.plan), error)
            raise self._explained(self._childs_error() or own) from None
        if self.tracer is not None:
            self.tracer(number, step, (time.monotonic_ns() - start) // 1000, note or "")

    def _childs_error(self) -> StepError | None:
        """What the child has said before something failed here: that it ended is the cause then."""
        if self.ctx.pidfd < 0:
            return None
        calls.pidfd_send_signal(self.ctx.pidfd, c.SIGNALS["KILL"])
        self._drain()
        return self.error

    # --- the clone -------------------------------------------------------------------------------

    def _become_child(self) -> None:
        """The child's side of the clone: it goes its own way from here."""
        os.close(self.ctx.channel)
        self.ctx.channel = self._theirs
        self.ctx.on_message = None
        steps = [(number, step) for number, step in self.steps if step.side == "child"]
        child.run(steps, len(self.plan), self.ctx, self.tracer is not None)

    def _join(self, number: int) -> None:
        """The joiner: a process that enters namespaces and makes the child in them.

        It is cloned into the v2 group itself: once it is in another user namespace, it has no right to.
        """
        place, clone = next((place, step.op) for place, step in self.steps if isinstance(step.op, ops.Clone))
        try:
            pid, pidfd = calls.clone3(0, self.ctx.fd(clone.cgroup) if clone.cgroup else -1)
        except KernelError as error:
            failed = child.failed(place, self.plan.steps[place - 1], len(self.plan), error)
            raise self._explained(failed) from None
        if pid == 0:
            self._be_joiner()
        self._release_their_end()
        try:
            while self.ctx.pid < 0:  # the child may be quicker than its joiner's word of it
                data, fd = calls.recv(self.ctx.channel)
                if not data:
                    raise self._child_failed(number, self.plan.steps[number - 1])
                message = fastjson.loads(data.decode())
                if "pid" in message:
                    self.ctx.pid = message["pid"]
                else:
                    self.ctx.take(message, fd)
            self.ctx.pidfd = calls.pidfd_open(self.ctx.pid)
        finally:
            os.waitpid(pid, 0)
            os.close(pidfd)

    def _be_joiner(self) -> None:
        child.disarm()  # it is about to enter the container's mount namespace
        ctx = self.ctx
        supervisors, ctx.channel, ctx.pid = ctx.channel, self._theirs, 0
        for number, step in self.steps:
            if step.side != "joiner":
                continue
            start = time.monotonic_ns()
            try:
                note = step.op.perform(ctx)
                if isinstance(step.op, ops.Clone):
                    if ctx.pid == 0:
                        ctx.channel = supervisors
                        self._become_child()
                    ctx.send({"pid": ctx.pid})
                if self.tracer is not None:
                    micros = (time.monotonic_ns() - start) // 1000
                    ctx.send({"trace": number, "us": micros, "note": note or ""})
            except BaseException as error:
                ctx.send({"error": child.failed(number, step, len(self.plan), error).to_json()})
                os._exit(125)
        os._exit(0)

    # --- messages --------------------------------------------------------------------------------

    def _message(self, message: Mapping[str, Any], fd: int) -> None:
        if "error" in message:
            self.error = StepError.from_json(message["error"])
        elif message.get("fd") == "seccomp.listener":
            self.ctx.listener.take(fd, self.ctx.pid)
        elif "fd" in message:
            self.ctx.fds[message["fd"]] = fd
        elif "trace" in message and self.tracer is not None:
            number = message["trace"]
            self.tracer(number, self.plan.steps[number - 1], message["us"], message["note"])

    def _hold_at_exec(self) -> None:
        """Until the payload stops at its execve, which it does for its tracer; then `on_stop`, and let go.

        Where minibox-init becomes the payload there are two of them, and the first still has the channel.
        A child that ends before has said why: `_wait_for_exec` reads it.
        """
        inits = [step.op.init for step in self.plan if isinstance(step.op, ops.PrepareProgram)]
        stops = 2 if "exec" in inits else 1
        channel = select.poll()
        channel.register(self.ctx.channel, select.POLLIN)
        flags = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        while stops:
            found = os.waitid(os.P_PID, self.ctx.pid, flags)
            if found is None:
                if channel.poll(2) and not self._take_message():
                    channel.unregister(self.ctx.channel)  # closed by the execve: the stop is next
                continue
            if found.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
                return
            os.waitpid(self.ctx.pid, os.WUNTRACED)
            stops -= 1
            if stops:
                calls.ptrace(c.PTRACE_CONT, self.ctx.pid)
        if self.on_stop is not None:
            self.on_stop()
        calls.ptrace(c.PTRACE_DETACH, self.ctx.pid)

    def _take_message(self) -> bool:
        """The next message of the child; False when there is none any more."""
        data, fd = calls.recv(self.ctx.channel)
        if data[:1] == b"{":
            self._message(fastjson.loads(data.decode()), fd)
        elif data:  # minibox-init's "ERRNO CODE PATH"
            self._init_failed(data)
        return bool(data)

    def _wait_for_exec(self) -> None:
        """Until the channel closes: by execve, or with an error before it."""
        while self._take_message():
            pass
        if self.error is not None:
            raise self._explained(self.error)

    def _init_failed(self, data: bytes) -> None:
        number, code, path = data.decode("utf-8", "replace").split(" ", 2)
        step = self.plan.steps[-1]
        error = child.failed(
            len(self.plan), step, len(self.plan), KernelError(int(number), "execve", (path,))
        )
        error.exit_code = int(code)
        if error.errno == 2 and error.exit_code == CANNOT_RUN:
            error.hint = (
                "the file is there; the interpreter of the script, or the loader of the program, is not"
            )
        self.error = error

    def _child_failed(self, number: int, step: Step) -> StepError:
        """The child has ended: its own error when it sent one, else what its end tells."""
        self._drain()
        if self.error is not None:
            return self._explained(self.error)
        return StepError(
            step.id,
            "the new process ended without a word",
            index=number,
            total=len(self.plan),
            why=step.why,
            hint="was it killed (out of memory, a signal)? see dmesg",
        )

    def _drain(self) -> None:
        """Everything that the child has sent, up to its end."""
        try:
            while True:
                data, fd = calls.recv(self.ctx.channel)
                if not data:
                    break
                self._message(fastjson.loads(data.decode()), fd)
        except OSError:
            pass

    def _explained(self, error: StepError) -> StepError:
        if not error.hint:
            step = next((one for one in self.plan if one.id == error.step), None)
            error.hint = hints.find(error, step, self.host)
        return error

    # --- the end -----------------------------------------------------------------------------------

    def _release_their_end(self) -> None:
        if self._theirs >= 0:
            os.close(self._theirs)
            self._theirs = -1

    def _kill(self) -> None:
        if self.ctx.pidfd >= 0:
            try:
                calls.pidfd_send_signal(self.ctx.pidfd, c.SIGNALS["KILL"])
            except KernelError:
                pass  # it has ended already
            try:
                os.waitpid(self.ctx.pid, 0)
            except ChildProcessError:
                pass
            os.close(self.ctx.pidfd)
            self.ctx.pidfd = -1

    def _close(self) -> None:
        """Descriptors that only the start needed; the terminal's master is the caller's to keep."""
        self._release_their_end()
        for name, fd in list(self.ctx.fds.items()):
            if name != "terminal":
                os.close(fd)
                del self.ctx.fds[name]
        if self.ctx.channel >= 0:
            os.close(self.ctx.channel)
            self.ctx.channel = -1
