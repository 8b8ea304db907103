"""`minibox seccomp`: filters explained, compared and listed."""

from __future__ import annotations

import os

from minibox.cli import flags
from minibox.errors import KernelError, MiniboxError, SpecError, UsageError
from minibox.kernel import caps, filters
from minibox.runtime import listener, live
from minibox.seccomp import decode, default, explain
from minibox.spec import defaults
from minibox.spec.model import Spec
from minibox.spec.options import FLAG, VALUE
from minibox.store.state import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minibox.spec.options import Table

SECCOMP: Table = {
    "caps": (VALUE, "", "CAP,...", "capabilities that rules may depend on: names, default, all, none"),
    "bpf": (FLAG, "", "", "show: the filter's instructions instead of its rules"),
    "json": (FLAG, "", "", "as JSON"),
}
WORDS = "explain PROFILE|ID [SYSCALL...] | show PROFILE|ID | diff PROFILE|ID PROFILE|ID"


def seccomp(argv: list[str]) -> int:
    """explain, show or diff filters."""
    options, words = flags.parse(argv, SECCOMP, "seccomp")
    if not words:
        raise UsageError(f"minibox seccomp {WORDS}")
    action, rest = words[0], words[1:]
    targets = []
    while rest:  # flags may stand anywhere behind the action
        more, rest = flags.parse(rest, SECCOMP, "seccomp")
        options.update(more)
        if rest:
            targets.append(rest.pop(0))
    act = {"explain": _explain, "show": _show, "diff": _diff}.get(action)
    if act is None:
        raise UsageError(f'"{action}" is not explain, show or diff: minibox seccomp {WORDS}')
    return act(targets, options)


# --- what is meant ---------------------------------------------------------------------------------


def find(word: str, options: dict[str, Any]) -> explain.Source:
    """A profile (default, unconfined, a file) or a container's filter. Raises MiniboxError."""
    if word == "unconfined":
        return explain.unconfined()
    capabilities = _capabilities(options)
    if word == "default":
        return explain.of_profile("default", default.document(), capabilities)
    if os.path.isfile(word):
        return explain.of_profile(word, _read(word), capabilities)
    if "/" in word or word.endswith(".json"):
        raise SpecError("PROFILE", f"{word} is no file")
    store = Store()
    return of_container(store.read(store.find(word)), options)


def _read(path: str) -> Any:
    import json

    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise SpecError("PROFILE", f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise SpecError("PROFILE", f"{path}: {error}") from None


def _capabilities(options: dict[str, Any]) -> int:
    bits = 0
    for word in options.get("caps", "default").split(","):
        known = {"default": defaults.CAPABILITIES, "all": caps.ALL, "none": 0}
        name = word.strip()
        bits |= known[name.lower()] if name.lower() in known else 1 << caps.number(name, "--caps")
    return bits


def of_container(state: dict[str, Any], options: dict[str, Any]) -> explain.Source:
    """A container's filter: of its live PID 1 where that may be read, else what its Spec compiles to."""
    spec = Spec.from_json(state["spec"])
    capabilities = spec.process.capabilities.bounding
    if "caps" in options:
        capabilities = _capabilities(options)
    document = listener.document(spec)
    document = default.document() if document == "default" else document
    name = str(state["id"])
    if document == "unconfined":
        wanted = explain.unconfined()._replace(name=name)
    else:
        wanted = explain.of_profile(name, document, capabilities & caps.bounding_set())
    try:
        found = filters.read(live.running_pid(state))
    except (MiniboxError, KernelError) as error:
        return wanted._replace(
            origin=f"{wanted.origin} from its Spec, since the live one cannot be read: {error}"
        )
    loaded = wanted.filters
    if spec.show_denials and loaded:
        from minibox.seccomp import denials

        loaded = (denials.variant(loaded[0], everything=spec.show_denials == "all"),)
    origin = f"read from process {state['pid']}"
    if found == loaded:
        note = " (what it refuses is told first: --show-denials)" if loaded != wanted.filters else ""
        return wanted._replace(origin=f"{origin}: it is the filter that its Spec asks for{note}")
    origin += f": {len(found)} filters, other than what its Spec asks for"
    return wanted._replace(filters=found, origin=origin, agrees=False)


# --- explain ---------------------------------------------------------------------------------------


def _explain(words: list[str], options: dict[str, Any]) -> int:
    if not words:
        raise UsageError("minibox seccomp explain PROFILE|ID [SYSCALL...]")
    source = find(words[0], options)
    found = [explain.explain(source, name) for name in words[1:]] or explain.explain_all(source)
    if options.get("json"):
        calls = [
            {
                "name": one.name,
                "number": one.number,
                "cases": [case._asdict() for case in one.cases],
                "hints": list(one.hints),
            }
            for one in found
        ]
        return _print_json({**_about(source), "syscalls": calls})
    print("\n".join(_heading(source)))
    for one in found:
        print("\n".join(_explanation(one)))
    return 0


def _about(source: explain.Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "origin": source.origin,
        "machine": source.machine,
        "capabilities": list(caps.names(source.capabilities)),
        "instructions": sum(len(bpf) // 8 for bpf in source.filters),
        "warnings": list(source.warnings),
    }


def _heading(source: explain.Source) -> list[str]:
    size = sum(len(bpf) // 8 for bpf in source.filters)
    lines = [f"# {source.name}: {source.origin}; {size} instructions for {source.machine}"]
    if source.resolved is not None:
        held = " ".join(name.removeprefix("CAP_") for name in caps.names(source.capabilities))
        lines.append(f"# capabilities: {held or 'none'}")
    return lines + [f"# warning: {warning}" for warning in source.warnings]


def _explanation(one: explain.Explanation) -> list[str]:
    lines = []
    name = one.name if one.name != f"#{explain.BEYOND}" else "(newer calls)"
    for case in one.cases:
        when = f"  {'when ' if case.when != 'otherwise' else ''}{case.when}" if case.when else ""
        by = f"  [{case.rule}]" if case.rule else ""
        lines.append(f"{name:22} {case.result:13}{when}{by}  {case.reason}".rstrip())
        name = ""
    return lines + [f"{'':22} {hint}" for hint in one.hints]


# --- show and diff ---------------------------------------------------------------------------------


def _show(words: list[str], options: dict[str, Any]) -> int:
    if len(words) != 1:
        raise UsageError("minibox seccomp show [--bpf] PROFILE|ID")
    source = find(words[0], options)
    if options.get("json"):
        shown = [
            {"bpf": bpf.hex(), "instructions": decode.disassemble(bpf)}
            if options.get("bpf")
            else {"bpf": bpf.hex()}
            for bpf in source.filters
        ]
        return _print_json({**_about(source), "listing": explain.listing(source), "filters": shown})
    lines = _heading(source)
    if options.get("bpf"):
        for bpf in source.filters:
            lines += decode.disassemble(bpf)
    else:
        lines += explain.listing(source)
    print("\n".join(lines))
    return 0


def _diff(words: list[str], options: dict[str, Any]) -> int:
    """Exit code 0 when nothing differs, 1 when something does, as of diff(1)."""
    if len(words) != 2:
        raise UsageError("minibox seccomp diff PROFILE|ID PROFILE|ID")
    first, second = (find(word, options) for word in words)
    found = explain.diff(first, second)
    if options.get("json"):
        _print_json(
            {
                "first": _about(first),
                "second": _about(second),
                "differences": [one._asdict() for one in found],
            }
        )
        return 1 if found else 0
    heading = None
    for one in found:
        if (one.abi, one.first, one.second) != heading:
            heading = (one.abi, one.first, one.second)
            print(f"{one.abi}: {first.name}: {one.first}  ->  {second.name}: {one.second}")
        whole = one.name == "*"
        when = f"  when {one.when}" if one.when and not whole else ""
        print(f"    {'every call' if whole else one.name}{when}")
    if not found:
        print("no difference")
    return 1 if found else 0


def _print_json(data: dict[str, Any]) -> int:
    import json

    print(json.dumps(data, indent=2))
    return 0
