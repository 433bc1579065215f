/* Waits for a child that uses its memory, and says so when it goes on; not before a byte comes in,
   if there is a second argument. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char stack[1 << 16];

static int wait_here(void *nothing) {
    for (;;) pause();
}

int main(int argc, char **argv) {
    puts("ready");
    fflush(stdout);
    char byte;
    if (argc > 2 && read(0, &byte, 1) != 1) return 1;
    if (!strcmp(argv[1], "clone")) clone(wait_here, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, 0);
    else if (!vfork()) wait_here(0);
    puts("goes on");
    return 0;
}
