/* Crashes in the way that its argument names; each way stands in a function of its own. */
#define _GNU_SOURCE
#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct node {
    long key;
    char name[16];
    struct node *next;
};

static void *volatile nothing;
static volatile int zero;
static char *volatile text = "constant";
static int numbers[4] = {0x11, 0x22, 0x33, 0x44};

__attribute__((noinline)) static void read_null_field(struct node *node, int depth)
{
    struct node *following = node->next;
    printf("%p %d\n", (void *)following, depth);
}

static void null_field(void) { read_null_field(nothing, 7); }

static void null_write(void) { *(volatile int *)nothing = 42; }

static void null_call(void) { ((void (*)(void))nothing)(); }

static void jump_to_data(void) { ((void (*)(void))(void *)numbers)(); }

static void jump_to_heap(void)
{
    char *code = malloc(64);
    memset(code, 0xc3, 64);
    ((void (*)(void))(void *)code)();
}

static void jump_to_unmapped(void) { ((void (*)(void))0x123450000)(); }

static void write_read_only(void) { text[3] = 'X'; }

static void read_unmapped(void)
{
    char *page = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page[100] = 1;
    munmap(page, 1 << 16);
    printf("%d\n", ((volatile char *)page)[100]);
}

static void use_freed(void)
{
    char *block = malloc(1 << 20); /* so large that free gives it back to the system */
    block[5] = 1;
    free(block);
    printf("%d\n", ((volatile char *)block)[5]);
}

static void read_protected(void)
{
    volatile char *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("%d\n", page[8]);
}

static void overrun(void)
{
    volatile char *page = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap((void *)(page + 8192), 4096);
    for (long at = 0;; at++)
        page[at] = 'a';
}

static void text_as_pointer(void)
{
    struct node node = {.key = 1};
    memcpy(&node.next, "overflow", 8);
    struct node *volatile following = node.next;
    printf("%ld\n", following->key);
}

__attribute__((noinline)) static int recurse(int depth)
{
    volatile char filling[256];
    filling[depth % 256] = depth;
    return recurse(depth + 1) + filling[0];
}

static void stack_overflow(void) { printf("%d\n", recurse(0)); }

static void *overflowing(void *unused)
{
    printf("%d\n", recurse(0));
    return unused;
}

static void thread_stack_overflow(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, overflowing, NULL);
    pthread_join(thread, NULL);
}

static void divide(void) { printf("%d\n", 100 / zero); }

static void divide_overflow(void)
{
    volatile int least = INT_MIN, minus = zero - 1;
    printf("%d\n", least / minus);
}

static void misaligned(void)
{
#ifdef __x86_64__
    char *place = (char *)(((uintptr_t)malloc(64) & ~15ul) + 4);
    __asm__ volatile("movaps %%xmm0, (%0)" : : "r"(place) : "memory");
#else
    raise(SIGBUS);
#endif
}

static void misaligned_checked(void)
{
#ifdef __x86_64__
    static char place[16] __attribute__((aligned(16)));
    __asm__ volatile("pushfq; orl $0x40000, (%%rsp); popfq; movl 1(%0), %%eax" : : "r"(place) : "rax", "memory");
#else
    raise(SIGBUS);
#endif
}

static void shortened_file(void)
{
    char name[] = "shortened-XXXXXX";
    int file = mkstemp(name);
    if (ftruncate(file, 8192))
        abort();
    volatile char *map = mmap(NULL, 8192, PROT_READ, MAP_SHARED, file, 0);
    if (ftruncate(file, 0))
        abort();
    unlink(name);
    printf("%d\n", map[4096 + 9]);
}

static void failed_assertion(void) { assert(zero == 1 && "the answer is known"); }

static void plain_abort(void) { abort(); }

static void double_free(void)
{
    void *volatile block = malloc(40);
    free(block);
    free(block);
}

static void corrupt_heap(void)
{
    char *volatile block = malloc(2000);
    void *volatile other = malloc(2000);
    memset(block, 'A', 2100);
    free(block);
    free(other);
}

static void invalid_free(void)
{
    static char place[64];
    void *volatile pointer = place + 16;
    free(pointer);
}

__attribute__((noinline)) static void smash(const char *what)
{
    char small[16];
    strcpy(small + zero, what);
    puts(small);
}

static void smashed_stack(void) { smash("a text that is far too long for the room that it is given here, really"); }

__attribute__((noinline, no_stack_protector)) static void smashed_return(void)
{
    memcpy((char *)__builtin_frame_address(0) + sizeof(void *), "smashed!", 8);
}

static void call_text(void)
{
    void (*volatile function)(void);
    memcpy((void *)&function, "smashed!", 8);
    function();
}

static void far_field(void)
{
    struct { char before[70000]; int field; } *volatile large = nothing;
    large->field = 1;
}

static void far_element(void) { ((volatile int *)nothing)[100000] = 1; }

static void below_null(void) { ((volatile char *)nothing)[-8] = 1; }

__attribute__((noinline)) static int huge_frame_of(int depth)
{
    volatile char large[3 << 20];
    large[0] = depth;
    return huge_frame_of(depth + 1) + large[0];
}

static void huge_frame(void) { printf("%d\n", huge_frame_of(0)); }

static void send_again(int number)
{
    signal(number, SIG_DFL);
    raise(number);
}

static void give_up(int number) { abort(); }

static void fail_itself(int number) { ((volatile char *)0x123450000)[number] = 1; }

static void handle(void (*handler)(int), int flags)
{
    static char stack[1 << 16];
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
    sigaction(SIGSEGV, &(struct sigaction){.sa_handler = handler, .sa_flags = flags}, NULL);
}

static void overflow_with_handler(void)
{
    handle(give_up, 0);
    stack_overflow();
}

static void handler_sends_again(void)
{
    handle(send_again, 0);
    null_field();
}

static void handler_on_its_own_stack(void)
{
    handle(send_again, SA_ONSTACK | SA_SIGINFO);
    null_field();
}

static void handler_aborts(void)
{
    handle(give_up, 0);
    write_read_only();
}

static void handler_fails(void)
{
    handle(fail_itself, SA_SIGINFO | (int)SA_RESETHAND | SA_NODEFER);
    null_field();
}

static void open_files(void)
{
    FILE *stream = fopen("/proc/self/maps", "r"), *unwritten = tmpfile();
    int other = open("/usr/bin/env", O_RDONLY);
    fgetc(stream);
    fputs("seven b", unwritten);
    char *kept = strdup("/var/lib/shop/orders.db");
    mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, other, 0);
    printf("%d %d\n", fileno(stream), fileno(unwritten));
    fflush(stdout);
    null_field();
    free(kept);
}

static void fortified(void)
{
    char small[8];
    char *volatile what = "longer than eight bytes";
    __strcpy_chk(small, what, sizeof small);
    puts(small);
}

static void illegal(void) { __builtin_trap(); }

static void breakpoint(void)
{
#ifdef __x86_64__
    __asm__ volatile("int3");
#else
    __asm__ volatile("brk #0xf000");
#endif
}

static void killed(void) { kill(getpid(), SIGSEGV); }

static void raised(void) { raise(SIGQUIT); }

static void *waiting(void *lock)
{
    pthread_mutex_lock(lock);
    return NULL;
}

static void threads(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_t thread;
    pthread_mutex_lock(&lock);
    for (int number = 0; number < 5; number++)
        pthread_create(&thread, NULL, waiting, &lock);
    usleep(300000);
    null_field();
}

#define WAY(name) {#name, name}
static const struct {
    const char *name;
    void (*crash)(void);
} ways[] = {
    WAY(null_field), WAY(null_write), WAY(null_call), WAY(jump_to_data), WAY(jump_to_heap), WAY(jump_to_unmapped),
    WAY(write_read_only), WAY(read_unmapped), WAY(use_freed), WAY(read_protected), WAY(overrun),
    WAY(text_as_pointer), WAY(stack_overflow), WAY(thread_stack_overflow), WAY(divide), WAY(divide_overflow),
    WAY(misaligned), WAY(misaligned_checked), WAY(shortened_file), WAY(failed_assertion), WAY(plain_abort),
    WAY(double_free), WAY(corrupt_heap), WAY(invalid_free), WAY(smashed_stack), WAY(fortified), WAY(illegal),
    WAY(breakpoint), WAY(killed), WAY(raised), WAY(threads),
    WAY(smashed_return), WAY(call_text), WAY(far_field), WAY(far_element), WAY(below_null), WAY(huge_frame),
    WAY(overflow_with_handler), WAY(handler_sends_again), WAY(handler_on_its_own_stack), WAY(handler_aborts),
    WAY(handler_fails), WAY(open_files),
};

int main(int count, char **words)
{
    for (size_t at = 0; at < sizeof ways / sizeof *ways; at++) {
        if (count > 1 && !strcmp(words[1], ways[at].name))
            ways[at].crash();
        else if (count == 1)
            puts(ways[at].name);
    }
    return 0;
}
