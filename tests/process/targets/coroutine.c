/* Runs on a stack of its own in the middle of other data, as coroutines and goroutines do, and counts.  Prints how
   often it has looked at that data when a byte comes in, and what is wrong at once. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define SIZE (1 << 20)
#define STACK (SIZE / 2)
#define USED (16 << 10)

/* Numbers, but for the 16 KiB in front of the middle, which are the stack. */
static unsigned data[SIZE / sizeof(unsigned)] __attribute__((aligned(4096)));
static ucontext_t begun, running;

static int is_data(unsigned at) { return at < (STACK - USED) / sizeof *data || at >= STACK / sizeof *data; }

static void run(void) {
    for (unsigned long looked = 0;; looked++) {
        for (unsigned at = 0; at < SIZE / sizeof *data; at++)
            if (is_data(at) && data[at] != at * 2654435761u) {
                printf("wrong at %u\n", at);
                fflush(stdout);
                _exit(3);
            }
        struct pollfd in = {0, POLLIN, 0};
        char byte;
        if (poll(&in, 1, 1) > 0) {
            if (read(0, &byte, 1) < 1) _exit(0);
            int none = waitpid(-1, 0, WNOHANG) == -1 && errno == ECHILD;
            printf("%lu %s\n", looked, none ? "childless" : "with a child");
            fflush(stdout);
        }
    }
}

int main(void) {
    for (unsigned at = 0; at < SIZE / sizeof *data; at++) data[at] = at * 2654435761u;
    puts("ready");
    fflush(stdout);
    getcontext(&running);
    running.uc_stack.ss_sp = (char *)data + STACK - USED;
    running.uc_stack.ss_size = USED;
    makecontext(&running, run, 0);
    return swapcontext(&begun, &running);
}
