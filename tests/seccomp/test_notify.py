"""Notifications: a handler answers for a process that waits, and an agent gets the listener."""

from __future__ import annotations

import array
import json
import os
import socket
import threading

import pytest
from conftest import wait_until

from minibox.seccomp import Request, Response, Supervisor
from seccomp.programs import profile, written

GETPPID = 110

HANDLER = """
import errno, os
from minibox.seccomp import Response

SYSCALLS = {"getppid", "mkdir", "openat", "sethostname", "swapoff"}

def handle(request):
    if request.name == "getppid":
        return Response(value=4242)
    if request.name == "mkdir":
        assert request.valid()
        print("mkdir", request.read_string(request.args[0]), flush=True)
        return Response(errno=errno.ENOSPC)
    if request.name == "openat":
        if request.read_string(request.args[1]) != "/made-up":
            return Response.continue_()
        reading, writing = os.pipe()
        os.write(writing, b"from the handler\\n")
        os.close(writing)
        return Response.add_fd(reading)
    if request.name == "swapoff":
        raise RuntimeError("no answer")
    return None
"""


@pytest.fixture
def handler(tmp_path):
    path = tmp_path / "handler.py"
    path.write_text(HANDLER)
    return path


def test_a_value_an_errno_a_descriptor_and_go_on(minibox, caller, handler):
    script = "/caller 110; mkdir /x; cat /made-up; hostname foo; echo done"
    done = minibox("run", "--seccomp-notify", handler, caller, "sh", "-c", script)
    assert done.stdout.decode().splitlines() == ["4242 0", "mkdir /x", "from the handler", "done"]
    errors = done.stderr.decode()
    assert "No space left" in errors
    assert "sethostname: Operation not permitted" in errors  # it went on, to the kernel's own answer
    assert not (caller / "x").exists()


def test_a_handler_that_fails_is_told_and_the_call_fails(minibox, caller, handler):
    done = minibox("run", "--seccomp-notify", handler, caller, "/caller", "168", "39")
    assert done.stdout == b"-1 1\n1 0\n"
    assert b"RuntimeError: no answer" in done.stderr


@pytest.mark.parametrize("name", ["sendmsg", "execve", "exit_group", "futex", "mmap"])
def test_calls_that_the_runtime_itself_makes_can_be_notified(minibox, caller, tmp_path, name):
    path = tmp_path / "handler.py"
    path.write_text(f"SYSCALLS = ['{name}', 'getppid']\ndef handle(request): return None\n")
    for more in ([], ["--allow-new-privs"], ["--init"]):
        done = minibox("run", *more, "--seccomp-notify", path, caller, "/caller", GETPPID, timeout=20)
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", ["sendmsg", "write"])
def test_a_profile_that_refuses_what_hands_the_listener_over(minibox, caller, tmp_path, name):
    document = profile("SCMP_ACT_ERRNO", name)
    path = tmp_path / "handler.py"
    path.write_text(
        "from minibox.seccomp import Response\nSYSCALLS = ['getppid']\n"
        "def handle(request): print('asked', flush=True); return Response(value=7)\n"
    )
    done = minibox(
        "run",
        "--seccomp",
        written(tmp_path, document),
        "--seccomp-notify",
        path,
        caller,
        "/caller",
        GETPPID,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"asked" in done.stdout


def test_unconfined_can_be_notified_of_too(minibox, caller, handler):
    done = minibox("run", "--seccomp", "unconfined", "--seccomp-notify", handler, caller, "/caller", GETPPID)
    assert done.stdout == b"4242 0\n"


def test_exec_has_the_handler_too(minibox, caller, handler):
    minibox("run", "-d", "--name", "one", "--seccomp-notify", handler, caller, "sleep", "60")
    assert minibox("exec", "one", "/caller", GETPPID).stdout == b"4242 0\n"
    done = minibox("exec", "-d", "one", "/caller", GETPPID)
    assert done.returncode == 125
    assert b"exec --detach" in done.stderr


def test_a_detached_container_has_its_handler_in_the_monitor(minibox, caller, handler):
    minibox("run", "-d", "--name", "one", "--seccomp-notify", handler, caller, "/caller", GETPPID)
    minibox("wait", "one")
    assert minibox("logs", "one").stdout == b"4242 0\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SYSCALLS = ['getppid']", "function handle"),
        ("def handle(r): pass", "SYSCALLS is wanted"),
        ("SYSCALLS = ['monut']\ndef handle(r): pass", "'monut' is not a system call"),
        ("def handle(r):\n  pass\n1/0", "handler.py:3: ZeroDivisionError"),
        ("def handle(", "SyntaxError"),
    ],
)
def test_a_file_that_is_no_handler(minibox, rootfs, tmp_path, text, expected):
    path = tmp_path / "handler.py"
    path.write_text(text)
    done = minibox("run", "--seccomp-notify", path, rootfs, "true")
    assert done.returncode == 125
    assert expected in done.stderr.decode()


def test_a_file_that_is_not_there(minibox, rootfs, tmp_path):
    done = minibox("run", "--seccomp-notify", tmp_path / "none.py", rootfs, "true")
    assert done.returncode == 125
    assert b"No such file" in done.stderr


def test_the_library_takes_a_function(library, caller):
    class Answers:
        SYSCALLS = ("getppid",)
        asked: list[Request] = []  # noqa: RUF012

        @staticmethod
        def handle(request: Request) -> Response:
            Answers.asked.append(request)
            return Response(value=99)

    result = library.run(caller, ["/caller", "110,1,2,3,4,5,6"], seccomp_notify=Answers)
    assert result.stdout == b"99 0\n"
    assert Answers.asked[0].args == (1, 2, 3, 4, 5, 6)
    with library.Sandbox(caller, seccomp_notify=Answers) as box:
        assert box.exec(["/caller", "110"]).stdout == b"99 0\n"


# --- an agent -------------------------------------------------------------------------------------------


class Agent(threading.Thread):
    """Listens at a socket, takes one listener, answers 77 to everything."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(path))
        self.socket.listen()
        self.message = b""
        self.requests = []

    def run(self):
        connection, _ = self.socket.accept()
        with connection:
            data, ancillary, _flags, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
            fds = array.array("i")
            fds.frombytes(ancillary[0][2][:4])
            while more := connection.recv(65536):
                data += more
        self.message = json.loads(data)
        with Supervisor(fds[0], self.answer) as supervisor:
            supervisor.serve()
        self.socket.close()

    def answer(self, request):
        self.requests.append(request.name)
        return Response(value=77)


def test_an_agent_gets_the_listener_and_the_state(minibox, caller, tmp_path):
    agent = Agent(tmp_path / "agent")
    agent.start()
    document = profile(
        "SCMP_ACT_NOTIFY", "getppid", listenerPath=str(tmp_path / "agent"), listenerMetadata="of ours"
    )
    path = written(tmp_path, document)
    done = minibox(
        "run", "--name", "one", "--annotation", "a=b", "--seccomp", path, caller, "/caller", GETPPID
    )
    assert done.stdout == b"77 0\n", done.stderr.decode()
    agent.join(10)
    assert not agent.is_alive()
    told = agent.message
    assert told["fds"] == ["seccompFd"]
    assert told["metadata"] == "of ours"
    assert told["pid"] == told["state"]["pid"] > 0
    assert {key: told["state"][key] for key in ("id", "status", "annotations")} == {
        "id": "one",
        "status": "creating",
        "annotations": {"a": "b"},
    }
    assert told["ociVersion"] == told["state"]["ociVersion"]
    assert agent.requests == ["getppid"]


def test_an_agent_that_is_not_there_is_an_error(minibox, caller, tmp_path):
    document = profile("SCMP_ACT_NOTIFY", "getppid", listenerPath=str(tmp_path / "agent"))
    done = minibox("run", "--seccomp", written(tmp_path, document), caller, "/caller", GETPPID)
    assert done.returncode == 125
    assert b"listenerPath" in done.stderr


# --- the supervisor by itself ----------------------------------------------------------------------------


def notifying_child(numbers, body):
    """A forked child with a filter that notifies of some calls, which sends its listener first."""
    from minibox.kernel import calls
    from minibox.seccomp import decode

    program = [decode.Instruction(0x20, 0, 0, 0)]
    for left, number in enumerate(reversed(numbers)):
        program.insert(1, decode.Instruction(0x15, left + 1, 0, number))
    program += [
        decode.Instruction(0x06, 0, 0, decode.SECCOMP_RET_ALLOW),
        decode.Instruction(0x06, 0, 0, decode.SECCOMP_RET_USER_NOTIF),
    ]
    ours, theirs = calls.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            calls.set_no_new_privs()
            calls.seccomp_listener(0, decode.pack(program), theirs, b"listener", by_thread=46 in numbers)
            os.closerange(3, 1024)  # its own copy of the listener, which execve would close
            body()
        finally:
            os._exit(3)
    os.close(theirs)
    _data, fd = calls.recv(ours)
    os.close(ours)
    return pid, fd


def test_a_caller_that_was_killed_is_noticed_before_its_memory_is_believed():
    pid, fd = notifying_child([GETPPID], lambda: os._exit(os.getppid() & 0x7F))
    supervisor = Supervisor(fd, lambda request: None)
    request = supervisor.receive()
    assert request.valid()
    assert request.read_memory(request.instruction_pointer, 8)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert wait_until(lambda: not request.valid())
    from minibox.seccomp import Gone

    with pytest.raises(Gone):
        request.read_memory(request.instruction_pointer, 8)
    with pytest.raises(Gone):
        request.answer(Response())
    supervisor.close()


def test_a_descriptor_is_put_where_it_is_wanted():
    def body():
        if os.getppid() == 5:
            os._exit(os.stat("/proc/self/fd/50").st_size)

    pid, fd = notifying_child([GETPPID], body)
    memory = os.memfd_create("given")
    os.write(memory, b"x" * 33)

    def answer(request):
        assert request.add_fd(memory, number=50) == 50
        return Response(value=5)

    with Supervisor(fd, answer) as supervisor:
        supervisor.serve()
    os.close(memory)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 33


def test_a_listener_is_handed_over_by_a_filter_that_notifies_of_sendmsg():
    pid, fd = notifying_child([46, GETPPID], lambda: os._exit(os.getppid()))
    with Supervisor(fd, lambda request: Response(value=9)) as supervisor:
        supervisor.start()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def test_after_the_supervisor_has_gone_the_call_fails_with_enosys():
    def body():
        import ctypes

        result = ctypes.CDLL(None, use_errno=True).syscall(GETPPID)
        os._exit(ctypes.get_errno() if result < 0 else 1)

    pid, fd = notifying_child([GETPPID], body)
    Supervisor(fd, lambda request: None).close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 38


@pytest.mark.parametrize("wrong", [{"errno": -1}, {"errno": 4096}, {"errno": 1, "value": 1}])
def test_an_answer_that_makes_no_sense(wrong):
    with pytest.raises(ValueError):
        Response(**wrong)
