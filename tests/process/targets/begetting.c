/* Waits for a child that uses its memory, and says so when it goes on. */
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
    if (!strcmp(argv[1], "clone")) clone(wait_here, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, 0);
    else if (!vfork()) wait_here(0);
    puts("goes on");
    return 0;
}
