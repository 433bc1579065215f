/* Threads that count in registers and check them against memory; nothing else ever changes either.  Prints
   what they have counted when a byte comes in, and what is wrong at once. */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <errno.h>
#include <unistd.h>

static volatile unsigned long counted[64];

static void *count(void *number) {
    volatile unsigned long *mine = &counted[(long)number];
    register unsigned long a = 0, b = 1, c = 2;
    register double x = 0.5;
    for (;;) {
        a++;
        b++;
        c++;
        x += 1.0;
        *mine = a;
        if (*mine != a || b != a + 1 || c != a + 2 || x != a + 0.5) {
            printf("wrong: %lu %lu %lu %f %lu\n", a, b, c, x, *mine);
            _exit(3);
        }
        if (a % 64 == 0) usleep(100);
    }
    return 0;
}

int main(int argc, char **argv) {
    int threads = atoi(argv[1]);
    pthread_t thread;
    for (long number = 0; number < threads; number++) pthread_create(&thread, 0, count, (void *)number);
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) == 1) {
        unsigned long sum = 0;
        for (int number = 0; number < threads; number++) sum += counted[number];
        int none = waitpid(-1, 0, WNOHANG) == -1 && errno == ECHILD;
        printf("%lu %s\n", sum, none ? "childless" : "with a child");
        fflush(stdout);
    }
    return 0;
}
