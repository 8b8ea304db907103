/* minibox-init: a static PID 1, run from a sealed memory file.
 *
 *     minibox-init run FD PROGRAM [ARG...]    start PROGRAM, pass signals on, reap, end as it ended
 *     minibox-init exec FD PROGRAM [ARG...]   become PROGRAM
 *     minibox-init pause FD                   reap until stdin ends, or a signal says so
 *
 * PROGRAM is looked up in PATH when it has no slash.  FD is the runtime's error channel: when
 * PROGRAM cannot be run, its errno, the exit code and the path tried are written there as "ERRNO CODE PATH"
 * (126 with ENOENT: the file is there, what it needs to be run is not); it is
 * closed by a successful exec, which is how the runtime learns of that.
 *
 * "exec" exists because a process that is about to run a hostile program should not be running a
 * file of the host: /proc/self/exe names it, and it could be opened and overwritten
 * (CVE-2019-5736).  A sealed memory file cannot.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int report(int channel, int error, const char *path)
{
    char text[4200];
    int absent = error == ENOTDIR || (error == ENOENT && access(path, F_OK));
    int code = absent ? 127 : 126;
    int length = snprintf(text, sizeof text, "%d %d %s", error, code, path);
    if (length >= (int)sizeof text)
        length = sizeof text - 1;
    if (write(channel, text, length) < 0)
        _exit(125);
    return code;
}

/* execvp(3), but for two things: a file that is no program is an error, not a shell script,
 * and the error kept is the one that says most: EACCES before ENOENT. */
static int run_program(char **argv, char *tried, size_t size)
{
    const char *name = argv[0], *path = getenv("PATH");
    snprintf(tried, size, "%s", name);
    if (strchr(name, '/')) {
        execve(name, argv, environ);
        return errno;
    }
    int kept = ENOENT;
    for (const char *part = path ? path : ""; *part;) {
        size_t length = strcspn(part, ":");
        char full[4096];
        if (length && snprintf(full, sizeof full, "%.*s/%s", (int)length, part, name) < (int)sizeof full) {
            execve(full, argv, environ);
            int error = errno;
            if ((error != ENOENT && error != ENOTDIR) || (kept == ENOENT && !access(full, F_OK))) {
                errno = error;
                kept = errno;
                snprintf(tried, size, "%s", full);
                if (errno != EACCES)
                    return kept;
            }
        }
        part += length + (part[length] == ':');
    }
    return kept;
}

static int become(int channel, char **argv)
{
    char tried[4096];
    int error = run_program(argv, tried, sizeof tried);
    return report(channel, error, tried);
}

/* stdin is a pipe that the runtime holds open for as long as it lives. */
static int pause_until_told(const sigset_t *all)
{
    struct pollfd sources[2] = {{.fd = 0, .events = POLLIN}, {.events = POLLIN}};
    struct signalfd_siginfo info;
    char byte;
    sources[1].fd = signalfd(-1, all, SFD_CLOEXEC);
    for (;;) {
        if (poll(sources, 2, -1) < 0)
            continue;
        if (sources[0].revents && read(0, &byte, 1) <= 0)
            return 0;
        if (!(sources[1].revents & POLLIN) || read(sources[1].fd, &info, sizeof info) != sizeof info)
            continue;
        int number = (int)info.ssi_signo;
        if (number == SIGTERM || number == SIGINT || number == SIGHUP || number == SIGQUIT)
            return 128 + number;
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
}

static void nothing(int number) { (void)number; }

/* The first child's status is ours.  Whoever else lost its parent is reaped. */
static int supervise(pid_t first, const sigset_t *all)
{
    for (;;) {
        siginfo_t info;
        int number = sigwaitinfo(all, &info);
        if (number < 0)
            continue;
        if (number != SIGCHLD) {
            kill(first, number);
            continue;
        }
        int status;
        pid_t pid;
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
            if (pid == first)
                return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 125;
    const char *mode = argv[1];
    int channel = atoi(argv[2]);
    fcntl(channel, F_SETFD, FD_CLOEXEC);
    prctl(PR_SET_NAME, "minibox-init"); /* not "memfd:minibox-i" */
    if (!strcmp(mode, "exec") && argc > 3)
        return become(channel, argv + 3);

    sigset_t all, none;
    sigfillset(&all);
    sigdelset(&all, SIGTTIN); /* a reaper in the background may still write to its terminal */
    sigdelset(&all, SIGTTOU);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &all, NULL);
    /* The handler never runs.  It is there so that /proc/PID/status shows the signals as caught: those that
     * sigwaitinfo waits for are not shown as blocked meanwhile. */
    for (int number = 1; number <= SIGRTMAX; number++)
        if (sigismember(&all, number) == 1)
            signal(number, nothing);
    if (!strcmp(mode, "pause")) {
        close(channel);
        return pause_until_told(&all);
    }
    if (strcmp(mode, "run") || argc < 4)
        return 125;

    pid_t child = fork();
    if (child < 0) {
        return report(channel, errno, argv[3]);
    }
    if (child == 0) {
        sigprocmask(SIG_SETMASK, &none, NULL);
        _exit(become(channel, argv + 3));
    }
    close(channel);
    return supervise(child, &all);
}
