/* Counts in registers that a system call of arm64 does not preserve, and makes none while it does.  It runs
   until a byte comes in, looks for one whenever it has counted as far as the argument says, and says at once if a
   register is not what it was. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* How many lanes were wrong: those of z2, and those of p0, which are all to be active. */
static long wrong_after(long rounds) {
    long wrong = 0, lanes, found;
    asm volatile(
        "ptrue p0.d\n"
        "index z2.d, #7, #3\n"
        "cntd %[lanes]\n"
        "1: index z3.d, #7, #3\n"
        "ptrue p2.d\n"
        "cmpne p1.d, p2/z, z2.d, z3.d\n"
        "cntp %[found], p2, p1.d\n"
        "add %[wrong], %[wrong], %[found]\n"
        "cntp %[found], p2, p0.d\n"
        "sub %[found], %[lanes], %[found]\n"
        "add %[wrong], %[wrong], %[found]\n"
        "subs %[rounds], %[rounds], #1\n"
        "b.ne 1b\n"
        : [wrong] "+r"(wrong), [rounds] "+r"(rounds), [lanes] "=&r"(lanes), [found] "=&r"(found)
        :
        : "z2", "z3", "p0", "p1", "p2", "cc");
    return wrong;
}

int main(int argc, char **argv) {
    struct pollfd in = {0, POLLIN, 0};
    long counted = 0, rounds = argc > 1 ? atol(argv[1]) : 20000;
    puts("ready");
    fflush(stdout);
    for (;;) {
        long wrong = wrong_after(rounds);
        if (wrong) {
            printf("wrong %ld\n", wrong);
            return 3;
        }
        counted++;
        char byte;
        if (poll(&in, 1, 0) > 0) {
            if (read(0, &byte, 1) < 1) return 0;
            printf("%ld\n", counted);
            fflush(stdout);
        }
    }
}
