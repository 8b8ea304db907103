"""Small static programs for the tests to run inside, and profiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Makes the calls that its arguments name and says what came of each.
CALLER = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void trapped(int number, siginfo_t *info, void *context)
{
    printf("SIGSYS nr=%d code=%d\n", info->si_syscall, info->si_code);
    fflush(stdout);
    _exit(0);
}

static void *killed(void *unused)
{
    syscall(SYS_getppid);
    puts("the thread lives");
    return NULL;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    for (int i = 1; i < argc; i++) {
        char *what = argv[i];
        if (!strcmp(what, "trap")) {
            struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
            sigaction(SIGSYS, &action, NULL);
        } else if (!strcmp(what, "thread")) {
            pthread_t thread;
            pthread_create(&thread, NULL, killed, NULL);
            sleep(1);
            puts("the process lives");
        } else {
            char *end;
            long number = strtol(what, &end, 0), args[6] = {0};
            for (int n = 0; n < 6 && *end == ','; n++)
                args[n] = *++end == '"' ? (long)(end + 1) : (long)strtoull(end, &end, 0);
            errno = 0;
            long result = syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
            printf("%ld %d\n", result, result < 0 ? errno : 0);
        }
    }
}
"""


def profile(action: str, *names: str, default: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    """A profile that does `action` to some calls."""
    rule = {"names": list(names), "action": action}
    rule.update({key: more.pop(key) for key in ("errnoRet", "args") if key in more})
    return {"defaultAction": default, "syscalls": [rule], **more}


def written(directory: Path, document: dict[str, Any], name: str = "profile.json") -> Path:
    """A profile as a file."""
    path = directory / name
    path.write_text(json.dumps(document))
    return path
