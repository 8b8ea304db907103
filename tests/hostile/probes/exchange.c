/* exchange A B: the two names change places for as long as this runs. */
#define _GNU_SOURCE
#include <stdio.h>
#include <fcntl.h>

int main(int argc, char **argv)
{
    puts("exchanging");
    fflush(stdout);
    while (renameat2(AT_FDCWD, argv[1], AT_FDCWD, argv[2], RENAME_EXCHANGE) == 0)
        ;
    return 1;
}
