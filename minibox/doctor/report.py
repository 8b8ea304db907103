"""What an examination finds, and what follows from it: Finding, Check, Report."""

from __future__ import annotations

import os
import traceback

from minibox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from minibox.doctor.case import Case

OK, LIMITED, MISSING, UNNEEDED, UNKNOWN = "ok", "limited", "missing", "not needed", "unknown"
NOT_TRIED = "not tried:"
STATUSES = (OK, LIMITED, MISSING, UNNEEDED, UNKNOWN)


class Finding(Record):
    """One line: `fact` is what was found, `consequence` what follows for containers, `mend` the command
    that changes it (or a sentence, where there is none).  `needed`: by `minibox run` with defaults."""

    id: str = ""
    status: str
    fact: str
    consequence: str = ""
    mend: str = ""
    needed: bool = False

    @property
    def stops_run(self) -> bool:
        """Whether `minibox run` with defaults fails because of this."""
        return self.needed and self.status in (MISSING, UNKNOWN)


def ok(fact: str) -> Finding:
    """As it should be."""
    return Finding(status=OK, fact=fact)


def unneeded(fact: str) -> Finding:
    """Not there or not asked for, and nothing follows from that."""
    return Finding(status=UNNEEDED, fact=fact)


def limited(fact: str, consequence: str, mend: str = "") -> Finding:
    """There, with less than there could be: containers run."""
    return Finding(status=LIMITED, fact=fact, consequence=consequence, mend=mend)


def missing(fact: str, consequence: str, mend: str = "", *, needed: bool = False) -> Finding:
    """Not there at all; with `needed`, no container runs."""
    return Finding(status=MISSING, fact=fact, consequence=consequence, mend=mend, needed=needed)


class Check:
    """A row of the table of checks: the id that the finding will have, and who finds it."""

    __slots__ = ("find", "id", "needed")

    def __init__(self, check_id: str, find: Callable[[Case], Finding], *, needed: bool = False) -> None:
        self.id = check_id
        self.find = find
        self.needed = needed  # when the check itself fails, the verdict is no

    def __call__(self, case: Case) -> Finding:
        """The finding; a check that raises is one too."""
        try:
            return self.find(case).replace(id=self.id)
        except Exception as error:
            if isinstance(error, OSError) and not os.path.exists("/proc/self"):
                fact = f"{NOT_TRIED} /proc is not mounted"
                return Finding(id=self.id, status=UNKNOWN, fact=fact, needed=self.needed)
            place = traceback.extract_tb(error.__traceback__)[-1]
            return Finding(
                id=self.id,
                status=UNKNOWN,
                fact=f"the check failed: {type(error).__name__}: {error}",
                consequence=f"nothing is known of this ({place.name}, line {place.lineno})",
                needed=self.needed,
            )


class Report(Record):
    """All findings, in the order of the table."""

    user: str
    rootfs: str
    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether `minibox run` with defaults would work."""
        return not any(one.stops_run for one in self.findings)

    def counts(self) -> dict[str, int]:
        """How many findings there are of each status."""
        return {status: sum(one.status == status for one in self.findings) for status in STATUSES}

    def summary(self) -> str:
        """The last line."""
        counts = ", ".join(f"{number} {status}" for status, number in self.counts().items() if number)
        if self.works:
            return f"minibox run works here, with defaults, for {self.user} ({counts})"
        reasons = " ".join(one.id for one in self.findings if one.stops_run)
        return f"minibox run does NOT work here for {self.user}: {reasons} ({counts})"

    def lines(self) -> Iterable[str]:
        """The report as a person reads it: what could not be tried for one reason is one line, and a command
        that mends several things is printed once."""
        named: dict[str, str] = {}
        told: set[str] = set()
        for one in self.findings:
            if one.fact.startswith(NOT_TRIED):
                same = [other.id for other in self.findings if other.fact == one.fact]
                if one.fact not in told:
                    count = f"{len(same)} check{'s' if len(same) > 1 else ''}"
                    yield f"{one.status:10}  {count:20}  {one.fact}: {' '.join(same)}"
                told.add(one.fact)
                continue
            yield f"{one.status:10}  {one.id:20}  {one.fact}"
            if one.consequence:
                yield f"{'':34}so: {one.consequence}"
            if one.mend:
                first = named.setdefault(one.mend, one.id)
                again = first != one.id and len(one.mend) > 80
                yield f"{'':34}try: {f'as for {first}' if again else one.mend}"
        yield self.summary()

    def to_json(self) -> dict[str, Any]:
        """The same for programs.  Keys are only ever added while `version` is 1."""
        return {
            "version": 1,
            "works": self.works,
            "user": self.user,
            "rootfs": self.rootfs,
            "counts": self.counts(),
            "checks": [one.to_json() for one in self.findings],
        }


def examine(case: Case, checks: Iterable[Check]) -> Report:
    """Every check in turn."""
    return Report(user=case.who, rootfs=case.rootfs, findings=tuple(check(case) for check in checks))
