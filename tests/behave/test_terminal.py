"""A person at a terminal: a shell on the host, minibox in it, a shell in the container.

The terminal's attributes are compared whole, before and after; what is shown is read from its master side.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from conftest import Minibox, wait_until
from test_residue import has_ended, leftovers, no_orphans, processes

HOST = "host> "
INSIDE = "/ [#$] "


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    with no_orphans():
        yield


class Session:
    """A terminal of 24 by 80 with an interactive shell of the host in it."""

    def __init__(self, minibox: Minibox) -> None:
        self.minibox = minibox
        environment = {**minibox.environment, "PS1": HOST, "TERM": "xterm", "ENV": ""}
        self.screen = pexpect.spawn(
            "/bin/sh", ["-i"], env=environment, dimensions=(24, 80), encoding="utf-8", timeout=10
        )
        self.screen.delaybeforesend = None
        self.screen.expect_exact(HOST)
        self.attributes = self.read_attributes()

    def read_attributes(self) -> list[object]:
        """struct termios, as tcgetattr(3) gives it."""
        return termios.tcgetattr(self.screen.child_fd)

    def start(self, *words: object, then: str = INSIDE) -> None:
        """Type `minibox WORDS...`, and wait for what it shows."""
        self.screen.sendline(shlex.join([*self.minibox.command, *map(str, words)]))
        self.screen.expect(then)

    def ask(self, line: str, prompt: str = INSIDE) -> str:
        """Type a line, and read what it prints: between two marks, since a shell may show its prompt again at
        any time.  The marks are typed otherwise than they are printed."""
        self.screen.sendline(f"echo '<''<'; {line}; echo '>''>'")
        self.screen.expect(r"<<\r\n(.*?)>>\r\n")
        answer = str(self.screen.match.group(1))
        self.screen.expect(prompt)
        return answer.strip()

    def status(self, prompt: str = INSIDE) -> int:
        """The exit code of the last command."""
        self.screen.sendline("echo code=$?")
        self.screen.expect(r"code=(\d+)\r\n")
        code = int(self.screen.match.group(1))
        self.screen.expect(prompt)
        return code

    def leave(self, line: str = "exit") -> int:
        """Type a line that ends minibox; its exit code."""
        self.screen.sendline(line)
        return self.code()

    def code(self) -> int:
        """The exit code of what has just ended, once the host's shell is back."""
        self.screen.expect_exact(HOST)
        return self.status(HOST)

    def restored(self) -> bool:
        """Whether the terminal is as it was in the beginning."""
        return self.read_attributes() == self.attributes


@pytest.fixture
def session(minibox: Minibox) -> Iterator[Session]:
    found = Session(minibox)
    yield found
    found.screen.close(force=True)


def wait_for_command(minibox: Minibox, name: str, command: str) -> int:
    """The pid of a command in the container, once it runs."""
    found: list[int] = []

    def runs() -> bool:
        for pid in processes(minibox, name):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if words[0] == command.encode() and state == "S":
                found.append(pid)
        return bool(found)

    assert wait_until(runs), f"{command} does not run"
    return found[0]


def type_at(session: Session, command: str, key: str) -> None:
    """Control and a key, typed at a command in the container, which ends of it."""
    pid = wait_for_command(session.minibox, "box", command)
    session.screen.sendcontrol(key)
    assert wait_until(lambda: has_ended(pid)), f"{command} does not end of ^{key}"


# --- the shell in the container ------------------------------------------------------------------------


def test_a_session_from_prompt_to_exit(session, rootfs):
    session.start("run", "--name", "box", rootfs, "sh")
    assert not session.restored(), "keys go to the container one by one"
    assert session.ask("tty") in ("/dev/console", "/dev/pts/0")
    assert session.ask("stty size") == "24 80"
    assert session.ask("echo $TERM") == "xterm"
    assert session.ask("test -t 0 && test -t 1 && test -t 2 && echo all") == "all"
    assert session.ask("cat /proc/self/stat | cut -d' ' -f7") != "0", "it has a controlling terminal"
    assert session.leave() == 0
    assert session.restored()
    assert leftovers(session.minibox) == []


def test_the_exit_code_is_the_shells(session, rootfs):
    session.start("run", rootfs, "sh")
    assert session.leave("exit 3") == 3
    assert session.restored()


def test_end_of_file_at_the_prompt_ends_it(session, rootfs):
    session.start("run", rootfs, "sh")
    session.screen.sendeof()
    assert session.code() == 0
    assert session.restored()


def test_a_resized_window_is_passed_on(session, rootfs):
    session.start("run", rootfs, "sh")
    assert session.ask("stty size") == "24 80"
    session.screen.setwinsize(50, 132)
    assert wait_until(lambda: session.ask("stty size") == "50 132")
    assert session.leave() == 0


def test_a_window_that_has_a_size_already(session, rootfs):
    session.screen.setwinsize(61, 99)
    session.start("run", rootfs, "sh")
    assert session.ask("stty size") == "61 99"
    assert session.leave() == 0


def test_vi_redraws_when_the_window_is_resized(session, rootfs):
    session.start("run", rootfs, "sh")
    session.screen.sendline("vi /etc/passwd")
    session.screen.expect_exact("\x1b[24;1H")  # the status line, at the bottom
    session.screen.setwinsize(40, 100)
    session.screen.expect_exact("\x1b[40;1H")
    session.screen.send(":q!\r")
    session.screen.expect(INSIDE)
    assert session.ask("echo alive") == "alive"
    assert session.leave() == 0
    assert session.restored()


def test_an_interrupt_ends_the_command_and_not_the_shell(session, rootfs):
    session.start("run", "--name", "box", rootfs, "sh")
    session.screen.sendline("sleep 1000")
    type_at(session, "sleep", "c")
    assert session.status() == 130
    assert session.leave("exit 0") == 0


def test_job_control(session, rootfs):
    session.start("run", "--name", "box", rootfs, "sh")
    session.screen.sendline("sleep 1000")
    sleeper = wait_for_command(session.minibox, "box", "sleep")
    session.screen.sendcontrol("z")
    session.screen.expect("Stopped")
    session.screen.expect(INSIDE)
    assert Path(f"/proc/{sleeper}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    assert "sleep 1000" in session.ask("jobs")
    session.screen.sendline("fg")
    session.screen.expect("sleep 1000")
    type_at(session, "sleep", "c")
    assert session.ask("jobs") == ""
    assert session.leave("exit 0") == 0
    assert session.restored()


def test_quit_and_stop_characters_are_the_containers(session, rootfs):
    """^\\ ends the payload's command, and minibox itself never stops at ^Z."""
    session.start("run", "--name", "box", rootfs, "sh")
    session.screen.sendline("cat")
    type_at(session, "cat", "\\")
    assert session.status() == 131
    assert session.leave("exit 0") == 0


# --- the terminal afterwards ---------------------------------------------------------------------------


def test_a_killed_minibox_leaves_the_terminal_as_it_was(session, rootfs):
    """The guard puts it back; the container ends, and the next command clears away."""
    session.start("run", "--name", "box", rootfs, "sh")
    state = session.minibox.state("box")
    assert not session.restored()
    os.kill(int(state["supervisor"]), signal.SIGKILL)  # type: ignore[call-overload]
    assert wait_until(session.restored)
    session.screen.expect_exact(HOST)
    assert wait_until(lambda: has_ended(int(state["pid"])))  # type: ignore[call-overload]
    assert session.ask("echo still here", HOST) == "still here"
    assert b"box had lost its supervisor" in session.minibox("run", rootfs, "true").stderr
    assert leftovers(session.minibox) == []


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name
)
def test_a_signal_from_elsewhere_leaves_the_terminal_as_it_was(session, rootfs, number):
    session.start("run", "--name", "box", rootfs, "tail", "-f", "/etc/passwd", then="root:")
    os.kill(int(session.minibox.state("box")["supervisor"]), number)  # type: ignore[call-overload]
    assert session.code() == 128 + number
    assert session.restored()
    assert leftovers(session.minibox) == []


@pytest.mark.parametrize(
    ("words", "code"),
    [(("no-such-command",), 127), (("/etc/passwd",), 126), (("sh", "-c", "stty raw -echo; kill -9 $$"), 137)],
    ids=["not found", "not executable", "raw mode and killed"],
)
def test_a_failure_leaves_the_terminal_as_it_was(session, rootfs, words, code):
    flags = ("--init",) if code == 137 else ()
    session.screen.sendline(shlex.join([*session.minibox.command, "run", *flags, str(rootfs), *words]))
    assert session.code() == code
    assert session.restored()


def test_a_deadline_leaves_the_terminal_as_it_was(session, rootfs):
    session.start("run", "--timeout", "0.5", rootfs, "sh")
    session.screen.expect("killed after --timeout")
    assert session.code() == 137
    assert session.restored()


def test_a_stopped_minibox_comes_back_in_raw_mode(session, rootfs):
    session.start("run", "--name", "box", rootfs, "sh")
    supervisor = int(session.minibox.state("box")["supervisor"])  # type: ignore[call-overload]
    assert not is_cooked(session)
    os.kill(supervisor, signal.SIGSTOP)
    session.screen.expect_exact(HOST)
    session.screen.sendline("stty sane")
    session.screen.expect_exact(HOST)
    assert is_cooked(session)
    session.screen.sendline("fg")
    assert wait_until(lambda: not is_cooked(session))
    session.screen.sendline("echo back")
    session.screen.expect("back\r\n")
    session.screen.expect(INSIDE)
    assert session.leave() == 0


def is_cooked(session: Session) -> bool:
    """Whether the terminal edits lines, echoes, and makes signals of ^C and ^Z."""
    local = session.read_attributes()[3]
    assert isinstance(local, int)
    return local & (termios.ICANON | termios.ECHO | termios.ISIG) != 0


def test_a_closed_terminal_ends_the_container(minibox, rootfs):
    master, process = on_a_terminal(minibox, "run", "--name", "box", rootfs, "sh")
    assert b"# " in read_until(master, lambda shown: b"# " in shown)
    pid = int(minibox.state("box")["pid"])
    os.close(master)
    assert process.wait(10) == 128 + signal.SIGHUP
    assert wait_until(lambda: has_ended(pid))
    assert leftovers(minibox) == []


def test_a_closed_terminal_leaves_a_detached_container(minibox, rootfs):
    master, process = on_a_terminal(minibox, "run", "-d", "--name", "box", rootfs, "sleep", "1000")
    assert process.wait(10) == 0
    os.close(master)
    assert minibox.state("box")["status"] == "running"


# --- streams of which some are terminals ---------------------------------------------------------------


@pytest.mark.parametrize("text", [b"one\ntwo\n", b"", b"no newline"], ids=["lines", "empty", "no newline"])
def test_a_terminal_whose_keys_come_from_a_pipe(minibox, rootfs, text):
    """The end of the pipe is a ^D, so that what reads the terminal sees an end of file."""
    done = minibox(
        "run", "-t", rootfs, "sh", "-c", "stty -echo; echo go; cat; echo end", stdin=text, timeout=10
    )
    assert done.returncode == 0
    assert done.stdout.replace(b"\r\n", b"\n").split(b"go\n", 1)[1] == text + b"end\n"


def test_a_terminal_for_nobody(minibox, rootfs):
    done = minibox("run", "-t", rootfs, "tty")
    assert (done.returncode, done.stdout) in ((0, b"/dev/console\r\n"), (0, b"/dev/pts/0\r\n"))


def test_keys_from_a_terminal_and_output_into_a_pipe(session, rootfs):
    script = (
        "tty; test -t 1 && echo out is a terminal || echo out is a pipe; test -t 2 && echo err is a terminal"
    )
    line = shlex.join([*session.minibox.command, "run", str(rootfs), "sh", "-c", script])
    shown = session.ask(f"{line} | cat", HOST)
    assert "/dev/console" in shown or "/dev/pts/0" in shown
    assert "out is a pipe" in shown
    assert "err is a terminal" in shown
    assert session.restored()


def test_output_into_a_pipe_is_not_changed_by_the_terminal(session, rootfs):
    line = shlex.join([*session.minibox.command, "run", str(rootfs), "seq", "3"])
    assert session.ask(f"{line} 2>/dev/null | od -An -c", HOST).split() == [
        "1",
        r"\n",
        "2",
        r"\n",
        "3",
        r"\n",
    ]


def test_no_terminal_on_request(session, rootfs):
    line = shlex.join(
        [*session.minibox.command, "run", "-T", str(rootfs), "sh", "-c", "stty size; ls /dev/pts"]
    )
    shown = session.ask(line, HOST)
    assert "24 80" in shown, "the caller's own, as it is"
    assert "0" not in shown.splitlines()[-1].split()


def test_input_from_a_file_and_output_on_a_terminal(session, rootfs):
    line = shlex.join(
        [*session.minibox.command, "run", str(rootfs), "sh", "-c", "cat; test -t 1 && echo yes"]
    )
    shown = session.ask(f"echo data | {line} 2>/dev/null", HOST)
    assert shown.split() == ["data", "yes"]
    assert session.restored()


def test_a_shell_by_exec(session, rootfs):
    session.minibox("run", "-d", "--name", "box", rootfs, "sleep", "1000")
    session.start("exec", "-it", "box", "sh")
    assert session.ask("tty") == "/dev/pts/0"
    assert session.ask("stty size") == "24 80"
    session.screen.setwinsize(30, 90)
    assert wait_until(lambda: session.ask("stty size") == "30 90")
    session.screen.sendline("cat")
    assert wait_until(lambda: len(processes(session.minibox, "box")) == 3)
    type_at(session, "cat", "c")
    assert session.leave("exit 4") == 4
    assert session.restored()
    assert session.minibox.state("box")["status"] == "running"


def test_two_shells_have_two_terminals(session, rootfs):
    session.minibox("run", "-d", "--name", "box", rootfs, "sleep", "1000")
    other = Session(session.minibox)
    session.start("exec", "-it", "box", "sh")
    other.start("exec", "-it", "box", "sh")
    assert {session.ask("tty"), other.ask("tty")} == {"/dev/pts/0", "/dev/pts/1"}
    assert (session.leave(), other.leave()) == (0, 0)
    other.screen.close(force=True)


# --- much of it ----------------------------------------------------------------------------------------


def test_a_large_paste_arrives_whole(session, rootfs):
    lines = [f"{number:04} {'paste ' * 10}"[:63] for number in range(1024)]
    text = "".join(f"{line}\n" for line in lines)
    assert len(text) == 65536
    session.start("run", "--name", "box", rootfs, "sh")
    session.screen.sendline("stty -echo; cat | md5sum")
    wait_for_command(session.minibox, "box", "cat")
    session.screen.send(text)
    session.screen.sendeof()
    session.screen.expect(r"([0-9a-f]{32})  -")
    assert session.screen.match.group(1) == hashlib.md5(text.encode()).hexdigest()
    assert session.leave() == 0
    assert session.restored()


def test_a_large_output_arrives_whole(minibox, rootfs):
    """5 MB, byte for byte; the pty inside is told not to make \\r\\n of \\n."""
    count = 740_000
    expected = b"".join(b"%d\n" % number for number in range(1, count + 1))
    assert len(expected) > 5_000_000
    master, process = on_a_terminal(
        minibox, "run", rootfs, "sh", "-c", f"stty -onlcr; seq {count}", stderr=subprocess.DEVNULL
    )
    shown = read_until(master, lambda _shown: False)
    assert process.wait(10) == 0
    os.close(master)
    assert shown == expected


def on_a_terminal(minibox: Minibox, *words: object, **options: object) -> tuple[int, subprocess.Popen[bytes]]:
    """(master, process): the command as the leader of a session with a terminal of its own."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = minibox.start(
        *words,
        **{"stdin": slave, "stdout": slave, "stderr": slave, **options},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    return master, process


def read_until(master: int, enough: Callable[[bytearray], bool]) -> bytes:
    """What is shown, until it is enough or nobody has the terminal any more."""
    shown = bytearray()
    while not enough(shown):
        try:
            data = os.read(master, 65536)
        except OSError:  # EIO: the last who had it open is gone
            break
        if not data:
            break
        shown += data
    return bytes(shown)
