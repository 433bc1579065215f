/* Keeps values in all vector registers, in the x87 stack, in general registers and in the red zone while it counts
   in a tight loop, and checks them.  With the argument "sleep" it is in a system call nearly all the time; the
   second one asks for MiB of memory in small pages.  Prints how often it has checked when a byte comes in, and
   what is wrong at once. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct state {
    unsigned long vectors[16][4], general[6], red_zone[16];
    double floating;
};

long spin(struct state *state, long rounds, long sleeping);
__asm__(
    ".data\n"
    "shortly: .quad 0, 500000\n"
    ".text\n"
    ".globl spin\n"
    "spin:\n"
    "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "  lea -256(%rsp), %rsp\n"
    "  mov %rdi, %r9\n"
    "  mov %rdx, %r10\n"
    "  mov %rsi, %r8\n"
    "  vmovdqu 0(%r9), %ymm0; vmovdqu 32(%r9), %ymm1; vmovdqu 64(%r9), %ymm2; vmovdqu 96(%r9), %ymm3\n"
    "  vmovdqu 128(%r9), %ymm4; vmovdqu 160(%r9), %ymm5; vmovdqu 192(%r9), %ymm6; vmovdqu 224(%r9), %ymm7\n"
    "  vmovdqu 256(%r9), %ymm8; vmovdqu 288(%r9), %ymm9; vmovdqu 320(%r9), %ymm10; vmovdqu 352(%r9), %ymm11\n"
    "  vmovdqu 384(%r9), %ymm12; vmovdqu 416(%r9), %ymm13; vmovdqu 448(%r9), %ymm14; vmovdqu 480(%r9), %ymm15\n"
    "  mov 512(%r9), %rbx; mov 520(%r9), %rbp; mov 528(%r9), %r12; mov 536(%r9), %r13; mov 544(%r9), %r14\n"
    "  mov 552(%r9), %r15\n"
    "  fldl 688(%r9)\n"
    "  .set at, 0\n"
    "  .rept 16\n"
    "  mov 560 + at(%r9), %rax\n"
    "  mov %rax, -128 + at(%rsp)\n"
    "  .set at, at + 8\n"
    "  .endr\n"
    "1:vpaddq %ymm15, %ymm0, %ymm0; vpaddq %ymm15, %ymm1, %ymm1; vpaddq %ymm15, %ymm2, %ymm2\n"
    "  vpaddq %ymm15, %ymm3, %ymm3; vpaddq %ymm15, %ymm4, %ymm4; vpaddq %ymm15, %ymm5, %ymm5\n"
    "  vpaddq %ymm15, %ymm6, %ymm6; vpaddq %ymm15, %ymm7, %ymm7; vpaddq %ymm15, %ymm8, %ymm8\n"
    "  inc %rbx; inc %rbp; inc %r12; inc %r13; inc %r14; inc %r15\n"
    "  fld1; faddp\n"
    "  xor %eax, %eax\n"
    "  test %r10, %r10\n"
    "  jz 2f\n"
    "  lea shortly(%rip), %rdi\n"
    "  xor %esi, %esi\n"
    "  mov $35, %eax\n"
    "  syscall\n"
    "  test %rax, %rax\n"
    "  jnz 3f\n"
    "2:dec %r8\n"
    "  jnz 1b\n"
    "3:\n"
    "  .set at, 0\n"
    "  .rept 16\n"
    "  mov -128 + at(%rsp), %rcx\n"
    "  mov %rcx, 560 + at(%r9)\n"
    "  .set at, at + 8\n"
    "  .endr\n"
    "  fstpl 688(%r9)\n"
    "  mov %rbx, 512(%r9); mov %rbp, 520(%r9); mov %r12, 528(%r9); mov %r13, 536(%r9); mov %r14, 544(%r9)\n"
    "  mov %r15, 552(%r9)\n"
    "  vmovdqu %ymm0, 0(%r9); vmovdqu %ymm1, 32(%r9); vmovdqu %ymm2, 64(%r9); vmovdqu %ymm3, 96(%r9)\n"
    "  vmovdqu %ymm4, 128(%r9); vmovdqu %ymm5, 160(%r9); vmovdqu %ymm6, 192(%r9); vmovdqu %ymm7, 224(%r9)\n"
    "  vmovdqu %ymm8, 256(%r9); vmovdqu %ymm9, 288(%r9); vmovdqu %ymm10, 320(%r9); vmovdqu %ymm11, 352(%r9)\n"
    "  vmovdqu %ymm12, 384(%r9); vmovdqu %ymm13, 416(%r9); vmovdqu %ymm14, 448(%r9); vmovdqu %ymm15, 480(%r9)\n"
    "  lea 256(%rsp), %rsp\n"
    "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "  vzeroupper\n"
    "  ret\n");

static struct state made(unsigned long number, unsigned long added) {
    struct state state;
    for (int one = 0; one < 16; one++)
        for (int part = 0; part < 4; part++)
            state.vectors[one][part] = one == 15 ? 1 : number + one * 1000 + part + (one < 9 ? added : 0);
    for (int one = 0; one < 6; one++) state.general[one] = number * 3 + one + added;
    for (int one = 0; one < 16; one++) state.red_zone[one] = number ^ one;
    state.floating = (double)(number % 1000) + added + 0.25;
    return state;
}

int main(int argc, char **argv) {
    int sleeping = argc > 1 && !strcmp(argv[1], "sleep");
    long rounds = sleeping ? 20 : 2000000;
    if (!__builtin_cpu_supports("avx2")) {
        puts("no AVX2");
        return 0;
    }
    if (argc > 2) {
        size_t size = strtoul(argv[2], 0, 10) << 20;
        char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED || madvise(memory, size, MADV_NOHUGEPAGE)) return 2;
        memset(memory, 1, size);
    }
    puts("ready");
    fflush(stdout);
    for (unsigned long checked = 0;; checked++) {
        struct state state = made(checked, 0), expected = made(checked, rounds);
        long result = spin(&state, rounds, sleeping);
        if (result || memcmp(&state, &expected, sizeof state)) {
            printf("wrong: %ld\n", result);
            return 3;
        }
        struct pollfd in = {0, POLLIN, 0};
        char byte;
        if (poll(&in, 1, 0) > 0) {
            if (read(0, &byte, 1) < 1) return 0;
            int none = waitpid(-1, 0, WNOHANG) == -1 && errno == ECHILD;
            printf("%lu %s\n", checked, none ? "childless" : "with a child");
            fflush(stdout);
        }
    }
}
