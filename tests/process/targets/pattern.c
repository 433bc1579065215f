/* Writes a number to all of its memory, then the next one, from the first page to the last.  At any instant
   a page holds n or n+1, and none behind one that holds n holds n+1: anything else is a torn picture.  The
   first argument says how many MiB, the second whether the memory is shared. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv) {
    size_t size = strtoul(argv[1], 0, 10) << 20;
    int shared = argc > 2 && !strcmp(argv[2], "shared");
    volatile unsigned long *memory = mmap(0, size, PROT_READ | PROT_WRITE,
                                          (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
    if (argc > 2 && !strcmp(argv[2], "dontfork")) madvise((void *)memory, size, MADV_DONTFORK);
    if (argc > 2 && !strcmp(argv[2], "wipeonfork")) madvise((void *)memory, size, MADV_WIPEONFORK);
    memset((void *)memory, 0, size);
    printf("%lx %lx\n", (unsigned long)memory, size);
    fflush(stdout);
    for (unsigned long number = 1;; number++)
        for (size_t at = 0; at < size / 8; at += 512) memory[at] = number;
}
