/* Three ways to a user namespace: unshare, clone, clone3. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *how, long result)
{
    printf("%s %s\n", how, result < 0 ? strerrorname_np(errno) : "ok");
    fflush(stdout);
}

int main(void)
{
    pid_t child = fork();
    if (child == 0) {
        say("unshare", syscall(SYS_unshare, CLONE_NEWUSER));
        _exit(0);
    }
    waitpid(child, 0, 0);
    long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(0);
    say("clone", pid);
    if (pid > 0)
        waitpid(pid, 0, 0);
    unsigned long args[11] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    pid = syscall(SYS_clone3, args, sizeof args);
    if (pid == 0)
        _exit(0);
    say("clone3", pid);
    return 0;
}
