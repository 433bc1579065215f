/* Ticks every half millisecond, and tells the longest gap between two ticks when a byte comes in.
   It is asked for MiB of memory, which it writes to all the while. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

int main(int argc, char **argv) {
    size_t size = (argc > 1 ? strtoul(argv[1], 0, 10) : 1) << 20, at = 0;
    char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, 1, size);
    struct timespec half = {0, 500000};
    struct pollfd in = {0, POLLIN, 0};
    long before = now(), longest = 0, ticks = 0;
    puts("ready");
    fflush(stdout);
    for (;;) {
        if (nanosleep(&half, 0)) {
            puts("interrupted");
            return 1;
        }
        long time = now();
        if (time - before > longest) longest = time - before;
        before = time;
        memory[at = (at + 4096) % size]++;
        ticks++;
        char byte;
        if (poll(&in, 1, 0) > 0) {
            if (read(0, &byte, 1) < 1) return 0;
            printf("%ld %ld\n", longest, ticks);
            fflush(stdout);
            longest = ticks = 0;
            before = now();
        }
    }
}
