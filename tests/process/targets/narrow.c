/* A program of 32 bits that needs no library: counts in registers and in memory and ticks, or blocks in a
   system call for ever and says so if the call comes back. */

enum { EXIT = 1, READ = 3, WRITE = 4, NANOSLEEP = 162, POLL = 168, EPOLL_WAIT = 256, EPOLL_CREATE1 = 329 };

static long call(long number, long a, long b, long c, long d) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return result;
}

static void say(const char *text) {
    long size = 0;
    while (text[size]) size++;
    call(WRITE, 1, (long)text, size, 0);
}

static volatile unsigned counted;
static volatile unsigned pattern[1 << 18];

static void __attribute__((noinline, noreturn)) fail(const char *text) {
    say(text);
    call(EXIT, 1, 0, 0, 0);
    for (;;) {}
}

static void __attribute__((noinline, noreturn)) count(void) {
    struct { int seconds, nanoseconds; } half = {0, 500000};
    struct { int descriptor; short events, found; } in = {0, 1, 0};
    unsigned a = 0, b = 1, c = 2;
    for (;;) {
        a++, b++, c++;
        __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c));
        counted = a;
        pattern[a % (1 << 18)] = a;
        if (counted != a || b != a + 1 || c != a + 2) fail("wrong\n");
        if (call(NANOSLEEP, (long)&half, 0, 0, 0)) fail("interrupted\n");
        if (call(POLL, (long)&in, 1, 0, 0) > 0) {
            char byte, digits[12] = "          \n";
            if (call(READ, 0, (long)&byte, 1, 0) < 1) fail("over\n");
            unsigned rest = a;
            for (int at = 9; rest; rest /= 10) digits[at--] = '0' + rest % 10;
            say(digits);
        }
    }
}

static void __attribute__((noinline, noreturn)) block(void) {
    char event[16];
    long found = call(EPOLL_CREATE1, 0, 0, 0, 0);
    call(EPOLL_WAIT, found, (long)event, 1, -1);
    fail("came back\n");
}

void __attribute__((force_align_arg_pointer)) _start(void) {
    long *stack = (long *)__builtin_frame_address(0) + 1;
    say("ready\n");
    if (*stack > 1) block();
    count();
}
