/* Threads at different depths, blocked in different calls. */
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int ends[2];
static sem_t never;
static __thread long mine;

static void __attribute__((noinline)) go_down(long depth, long kind) {
    char byte;
    mine = depth;
    if (depth) {
        go_down(depth - 1, kind);
        mine++;
    } else if (kind == 0) {
        if (read(ends[0], &byte, 1)) abort();
    } else if (kind == 1) {
        if (sem_wait(&never)) abort();
    } else if (kind == 2) {
        struct pollfd in = {ends[0], POLLIN, 0};
        if (poll(&in, 1, -1)) abort();
    } else {
        sleep(100000);
        abort();
    }
}

static void *work(void *number) {
    go_down((long)number % 7, (long)number % 4);
    return 0;
}

int main(int argc, char **argv) {
    int threads = atoi(argv[1]);
    pthread_t thread;
    if (pipe(ends) || sem_init(&never, 0, 0)) return 2;
    for (long number = 0; number < threads; number++) pthread_create(&thread, 0, work, (void *)number);
    usleep(100000);
    puts("ready");
    fflush(stdout);
    pthread_join(thread, 0);
    return 0;
}
