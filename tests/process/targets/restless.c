// A program whose processes begin others and end all the time: "fork" has them begun by fork, and some of them
// begin one more before they end; "spawn" by vfork, and after a while, exec.  Each is in a table that all share while it lives.
// SIGTERM ends all of it, and leaves no process behind.
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 256, MOST = 6, GENERATIONS = 3 };

static struct table {
    atomic_int begun, living[SLOTS];
} *table;

static volatile sig_atomic_t is_over;

static void end(int number)
{
    (void)number;
    is_over = 1;
}

static void nap(int microseconds)
{
    struct timespec time = {0, microseconds * 1000L};
    nanosleep(&time, NULL);
}

static atomic_int *enter(void)
{
    for (unsigned slot = 0;; slot++) {
        int nobody = 0;
        if (atomic_compare_exchange_strong(&table->living[slot % SLOTS], &nobody, getpid()))
            return &table->living[slot % SLOTS];
    }
}

static void live(int generation)
{
    atomic_int *mine = enter();
    unsigned seed = getpid();
    nap(rand_r(&seed) % 5000);
    if (generation < GENERATIONS && rand_r(&seed) % 2) {
        atomic_fetch_add(&table->begun, 1);
        if (!fork()) {
            live(generation + 1);
            return;
        }
    }
    nap(rand_r(&seed) % 500);
    atomic_store(mine, 0);
}

static void begin(char **words)
{
    atomic_fetch_add(&table->begun, 1);
    if (!strcmp(words[1], "spawn")) {
        char *again[] = {words[0], words[1], "nap", NULL};
        if (!vfork()) {
            nap(60000);
            execv("/proc/self/exe", again);
            _exit(1);
        }
    } else if (!fork()) {
        live(0);
        _exit(0);
    }
}

int main(int count, char **words)
{
    if (count > 2) {  // it was spawned
        nap(2000);
        return 0;
    }
    signal(SIGTERM, end);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    table = mmap(NULL, sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    enter();
    printf("ready\n%p\n", (void *)table);
    fflush(stdout);
    for (;;) {
        pid_t ended;
        while ((ended = waitpid(-1, NULL, is_over || table->begun >= MOST ? 0 : WNOHANG)) > 0)
            atomic_fetch_sub(&table->begun, 1);
        if (ended < 0 && errno == ECHILD) {
            table->begun = 0;  // and more have ended than were begun here: copies, whose process ended first
            if (is_over)
                return 0;
        }
        if (!is_over)
            begin(words);
    }
}
