/* call NUMBER [ARG...]: one system call; prints its result or the name of its errno.
 * An ARG is a number, s:TEXT for a string, z:BYTES for that much zeroed memory, x:HEX for bytes.
 * With "then-read" before NUMBER the result is read from as a descriptor, and what comes is printed. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/syscall.h>

int main(int argc, char **argv)
{
    long a[6] = {0};
    int at = 1, reading = 0;
    if (argc > 1 && !strcmp(argv[1], "then-read"))
        reading = 1, at++;
    long number = strtol(argv[at++], 0, 0);
    for (int n = 0; at < argc && n < 6; at++, n++) {
        char *text = argv[at];
        if (!strncmp(text, "s:", 2))
            a[n] = (long)(text + 2);
        else if (!strncmp(text, "z:", 2))
            a[n] = (long)calloc(1, atol(text + 2));
        else if (!strncmp(text, "x:", 2)) {
            unsigned char *bytes = calloc(1, strlen(text));
            for (int i = 0; text[2 + 2 * i]; i++)
                sscanf(text + 2 + 2 * i, "%2hhx", bytes + i);
            a[n] = (long)bytes;
        } else
            a[n] = strtoul(text, 0, 0);
    }
    long result = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (result < 0)
        printf("%s\n", strerrorname_np(errno) ? strerrorname_np(errno) : "?");
    else if (reading) {
        char buffer[256];
        ssize_t count = read(result, buffer, sizeof buffer);
        printf("read %.*s", (int)count, buffer);
    } else
        printf("ok %ld\n", result);
    return result < 0;
}
