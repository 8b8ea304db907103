"""stats, top and events: what the kernel counts, as a person and as a program reads it."""

from __future__ import annotations

import json
import os
import pty

from conftest import ROOTFS, wait_until

SPIN = "while :; do :; done"


def stats(minibox, *words: object) -> dict[str, object]:
    done = minibox("stats", "--no-stream", "--json", *words)
    assert done.returncode == 0, done.stderr.decode()
    return {one["id"]: one for one in map(json.loads, done.stdout.splitlines())}


def test_a_busy_container_is_told_from_an_idle_one(minibox, up):
    up("busy", "--cpus", "0.5", "-m", "64m", "--pids-limit", "7", script=SPIN)
    up("idle", script="sleep 100 & wait")
    found = stats(minibox)
    busy, idle = found["busy"], found["idle"]
    assert 20 < busy["cpu_percent"] < 80
    assert idle["cpu_percent"] < 5
    assert (busy["memory_limit"], busy["pids"], busy["pids_limit"]) == (64 << 20, 1, 7)
    assert (idle["memory_limit"], idle["pids"]) == (None, 2)
    assert 0 < busy["memory"] < 64 << 20
    assert wait_until(lambda: stats(minibox, "busy")["busy"]["throttled"] > 0)


def test_it_counts_what_is_written_to_disk(minibox, up, tmp_path):
    up(
        "one",
        "-v",
        f"{tmp_path}:/v:idmap",
        script="dd if=/dev/zero of=/v/f bs=1M count=3 oflag=direct; sleep 100",
    )
    assert wait_until(lambda: (stats(minibox)["one"]["io_written"] or 0) >= 3 << 20)


def test_a_person_gets_a_table_that_is_drawn_in_place(minibox, up):
    up("one")
    table = minibox("stats", "--no-stream").stdout.decode().splitlines()
    assert table[0].startswith("ID   CPU")
    assert table[1].split()[0] == "one"
    master, slave = pty.openpty()
    with minibox.start("stats", stdout=slave) as shown:
        os.close(slave)
        text = b""
        while text.count(b"\x1b[H") < 2:
            text += os.read(master, 4096)
        shown.send_signal(2)
        assert shown.wait(10) == 0
    os.close(master)
    assert b"one" in text


def test_stats_of_nobody_and_of_one_that_has_ended(minibox, up):
    assert stats(minibox) == {}
    up("one", script="true")
    minibox("wait", "one")
    assert b"not running" in minibox("stats", "--no-stream", "one").stderr


def test_top_has_both_numbers_of_each_process(minibox, up):
    one = up("one", script="sleep 77 & sleep 100 & wait")
    rows = [line.split() for line in minibox("top", "one").stdout.decode().splitlines()]
    assert rows[0][:2] == ["PID", "INSIDE"]
    found = {row[1]: row for row in rows[1:]}
    assert found["1"][0] == str(one.pid)
    assert {" ".join(row[7:]) for row in found.values()} >= {"sleep 77", "sleep 100"}
    assert minibox("exec", "one", "cat", f"/proc/{found['2'][1]}/comm").returncode == 0


def test_top_with_arguments_is_the_hosts_ps(minibox, up):
    one = up("one")
    lines = minibox("top", "one", "-eo", "pid,comm").stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["PID", str(one.pid)]
    assert b"no column PID" in minibox("top", "one", "-eo", "comm").stderr


def test_events_tell_the_life_of_a_container(minibox, up):
    up("one")
    minibox("exec", "one", "true")
    minibox("pause", "one")
    minibox("unpause", "one")
    minibox("update", "--cpus", "1", "one")
    minibox("kill", "one")
    minibox("wait", "one")
    minibox("rm", "one")
    lines = minibox("events", "--no-follow", "--json", "one").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    names = ["create", "start", "exec", "pause", "unpause", "update", "exit", "remove"]
    assert [one["event"] for one in events] == names
    assert all(one["id"] == "one" for one in events)
    assert events[2]["command"] == ["true"]
    assert events[5]["changes"] == ["cpus"]
    assert events[6]["exit_code"] == 137


def test_events_are_followed_as_they_happen(minibox):
    with minibox.start("events", "--json") as following:
        minibox("run", "--name", "early", ROOTFS, "true")
        # It may not have been listening yet: another until the first is told of.
        assert wait_until(lambda: _one_more(minibox, following))
        following.send_signal(2)
        out = following.communicate(timeout=10)[0]
    assert following.returncode == 0
    assert json.loads(out.splitlines()[0] if out else b"{}") is not None


def _one_more(minibox, following) -> bool:
    import select

    minibox("run", ROOTFS, "true")
    return bool(select.select([following.stdout], [], [], 0.5)[0])


def test_the_journal_has_a_bound(minibox, monkeypatch, tmp_path):
    from minibox.store import journal

    monkeypatch.setattr(journal, "LIMIT", 1000)
    for number in range(100):
        journal.record(str(tmp_path), "one", "start", pid=number)
    assert sum(os.path.getsize(tmp_path / name) for name in os.listdir(tmp_path)) < 2300
    assert journal.past(str(tmp_path))[-1]["pid"] == 99
