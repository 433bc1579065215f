/* A 32-bit program that needs no library and crashes in the way that its first argument says. */

struct node { int before[5]; int value; };

static const int constant = 7;
static char stack[4096];
static volatile int result, hundred = 100;

int __attribute__((noinline)) null_field(struct node *node) { return node->value; }

int __attribute__((noinline)) division(volatile int number) { return hundred / number; }

int __attribute__((noinline)) overflow(volatile int depth) {
    volatile char room[4096];
    room[0] = depth;
    return overflow(depth + 1) + room[0];
}

void __attribute__((noinline)) read_only(void) { *(volatile int *)&constant = 1; }

void __attribute__((noinline)) null_call(void (*volatile called)(void)) {
    called();
    __asm__ volatile("");  /* so that it is a call, and no jump */
}

void __attribute__((noinline)) trap(void) { __builtin_trap(); }

void __attribute__((noinline)) unmapped(void) { *(volatile int *)0xdeadbeec = 1; }

void __attribute__((noinline)) to_itself(int pid) {
    long ignored;
    __asm__ volatile("int $0x80" : "=a"(ignored) : "a"(37), "b"(pid), "c"(6));  /* kill, SIGABRT */
}

static inline __attribute__((always_inline)) int inner(volatile int *at) { return *at; }

int __attribute__((noinline)) outer(int *at) { return inner(at); }

void crash(const char *way) {
    int pid;
    switch (way[0]) {
    case 'n': result = null_field(0); break;
    case 'd': result = division(0); break;
    case 'o': result = overflow(0); break;
    case 'r': read_only(); break;
    case 'c': null_call(0); break;
    case 't': trap(); break;
    case 'u': unmapped(); break;
    case 'i': result = outer(0); break;
    case 'm':  /* clone, with all that makes a thread: it spins */
        __asm__ volatile("int $0x80; test %%eax, %%eax; jnz 1f; 2: jmp 2b; 1:"
                         : "=a"(pid) : "a"(120), "b"(0x10f00), "c"(stack + sizeof stack), "d"(0), "S"(0), "D"(0)
                         : "memory");
        result = null_field(0);
        break;
    case 'a':
        __asm__ volatile("int $0x80" : "=a"(pid) : "a"(20));  /* getpid */
        to_itself(pid);
    }
    for (;;) {}
}

/* The stack at the start: the number of words, the program's name, the first argument. */
__asm__(".globl _start\n_start: mov 8(%esp), %eax\n push %eax\n call crash");
