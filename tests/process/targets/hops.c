/* Threads that hand tokens to one another, and say the longest that one was on its way when a byte comes in.

   "posix" hands them over with mutexes and condition variables.  "go" does it as Go's runtime does: with futexes,
   signals that a watching thread sends to threads that run (SIGURG, on stacks of their own, calls restarted),
   threads that come and go, and one that waits for events.  Nothing may ever give EINTR without a signal, no
   token may be lost or wrong, no thread may lose what is its own.  Each token is one word that is written at once:
   how often it was handed on, and a number that follows from that. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TOKENS 8
#define MOST 256
#define FACTOR 2654435761u

struct place {
    pthread_mutex_t mutex;
    pthread_cond_t change;
    _Atomic uint32_t waiting; /* a set of tokens, one bit each */
    _Atomic int thread;
} __attribute__((aligned(128)));

static struct place places[MOST];
static _Atomic uint64_t tokens[TOKENS];
static _Atomic long sent[TOKENS], longest, signals;
static int threads, go;
static __thread volatile long own, handled;

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void fail(const char *what) {
    printf("%s\n", what);
    fflush(stdout);
    _exit(3);
}

static uint64_t word(uint32_t count) { return (uint64_t)count << 32 | (uint32_t)(count * FACTOR); }

static void put(struct place *place, int token) {
    atomic_store(&sent[token], now());
    if (go) {
        atomic_fetch_or(&place->waiting, 1u << token);
        syscall(SYS_futex, &place->waiting, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, 0, 0, 0);
    } else {
        pthread_mutex_lock(&place->mutex);
        atomic_fetch_or(&place->waiting, 1u << token);
        pthread_cond_signal(&place->change);
        pthread_mutex_unlock(&place->mutex);
    }
}

static uint32_t get(struct place *place) {
    uint32_t found;
    if (go) {
        while (!(found = atomic_exchange(&place->waiting, 0))) {
            long before = handled;
            struct timespec second = {1, 0};
            long failed = syscall(SYS_futex, &place->waiting, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, &second, 0, 0);
            if (failed && errno == EINTR && handled == before) fail("interrupted");
        }
        return found;
    }
    pthread_mutex_lock(&place->mutex);
    while (!(found = atomic_exchange(&place->waiting, 0))) pthread_cond_wait(&place->change, &place->mutex);
    pthread_mutex_unlock(&place->mutex);
    return found;
}

static void on_signal(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    handled++;
    atomic_fetch_add(&signals, 1);
}

static void own_stack(void) {
    stack_t stack = {.ss_size = 64 << 10, .ss_sp = malloc(64 << 10)};
    if (sigaltstack(&stack, 0)) fail("no stack");
}

static void check_stack(void) {
    stack_t stack;
    sigset_t blocked;
    sigaltstack(0, &stack);
    pthread_sigmask(SIG_BLOCK, 0, &blocked);
    if (stack.ss_size != 64 << 10) fail("the stack for signals is another");
    for (int number = 1; number < 32; number++)
        if (sigismember(&blocked, number) > 0) fail("a signal is blocked");
}

static void *hand_on(void *number) {
    struct place *mine = &places[(long)number];
    unsigned next = (unsigned)(long)number;
    own = (long)number + 1;
    if (go) own_stack();
    atomic_store(&mine->thread, (int)syscall(SYS_gettid));
    for (;;) {
        uint32_t found = get(mine);
        for (int token = 0; token < TOKENS; token++) {
            if (!(found >> token & 1)) continue;
            long took = now() - atomic_load(&sent[token]), known = atomic_load(&longest);
            while (took > known && !atomic_compare_exchange_weak(&longest, &known, took)) {}
            uint64_t value = atomic_load(&tokens[token]);
            if (value != word(value >> 32)) fail("a token is wrong");
            if (own != (long)number + 1) fail("a thread has lost its own");
            atomic_store(&tokens[token], word((value >> 32) + 1));
            if (go && (value >> 32) % 64 == 0) check_stack();
            next = next * 1103515245 + 12345;
            put(&places[(next >> 8) % threads], token);
        }
    }
    return 0;
}

static void *watch(void *unused) {
    unsigned next = 1;
    for (;;) {
        usleep(500);
        next = next * 1103515245 + 12345;
        int thread = atomic_load(&places[(next >> 8) % threads].thread);
        if (thread) syscall(SYS_tgkill, getpid(), thread, SIGURG);
    }
    return unused;
}

static void *wait_for_events(void *unused) {
    int events = epoll_create1(0), ends[2];
    struct epoll_event in = {.events = EPOLLIN};
    if (pipe(ends)) fail("no pipe");
    epoll_ctl(events, EPOLL_CTL_ADD, ends[0], &in);
    for (;;)
        if (epoll_wait(events, &in, 1, 20) < 0) fail("interrupted");
    return unused;
}

static void *come_and_go(void *number) {
    own_stack();
    usleep(2000);
    stack_t stack;
    sigaltstack(0, &stack);
    stack_t none = {.ss_flags = SS_DISABLE};
    sigaltstack(&none, 0);
    free(stack.ss_sp);
    return number;
}

static void *bring_more(void *unused) {
    for (long number = 1;; number++) {
        pthread_t thread;
        void *result;
        if (pthread_create(&thread, 0, come_and_go, (void *)number)) fail("no thread");
        if (pthread_join(thread, &result) || (long)result != number) fail("a thread was lost");
    }
    return unused;
}

int main(int argc, char **argv) {
    pthread_t thread;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 128 << 10);
    go = argc > 1 && !strcmp(argv[1], "go");
    threads = argc > 2 ? atoi(argv[2]) : 8;
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    sigaction(SIGURG, &action, 0);
    for (long number = 0; number < threads; number++) {
        pthread_mutex_init(&places[number].mutex, 0);
        pthread_cond_init(&places[number].change, 0);
        pthread_create(&thread, &small, hand_on, (void *)number);
    }
    for (int token = 0; token < TOKENS; token++) put(&places[token % threads], token);
    if (go) {
        pthread_create(&thread, 0, watch, 0);
        pthread_create(&thread, 0, wait_for_events, 0);
        pthread_create(&thread, 0, bring_more, 0);
    }
    printf("%lx\n", (unsigned long)tokens);
    fflush(stdout);
    char byte;
    for (ssize_t got; (got = read(0, &byte, 1)) != 0;) {
        if (got < 0) fail("interrupted");
        uint64_t count = 0, least = UINT64_MAX;
        for (int token = 0; token < TOKENS; token++) {
            uint64_t one = atomic_load(&tokens[token]) >> 32;
            count += one;
            if (one < least) least = one;
        }
        printf("%ld %lu %lu %ld\n", atomic_exchange(&longest, 0), count, least, atomic_load(&signals));
        fflush(stdout);
    }
    return 0;
}
