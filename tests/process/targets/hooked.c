/* Does one thing with its memory for each line that it reads, by the first letter; `F` is what stands in the
   file, `C` what it has written over that, `N` what comes later.  The first argument is the file, the second how
   many MiB it maps and never touches, the third how many it has every other page of, the fourth how many huge
   pages. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, SIZE = 64 * PAGE, HUGE = 2 << 20 };
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static char *mapped(size_t size, int flags, int file) {
    char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, file, 0);
    if (memory == MAP_FAILED) abort();
    return memory;
}

int main(int argc, char **argv) {
    int file = open(argv[1], O_RDWR | O_CREAT, 0600);
    static char content[SIZE];
    memset(content, 'F', SIZE);
    if (pwrite(file, content, SIZE, 0) != SIZE) return 1;
    char *changed = mapped(SIZE, 0, file), *unchanged = mapped(SIZE, 0, file), *plain = mapped(SIZE, MAP_ANONYMOUS, -1);
    memset(changed, 'C', SIZE);
    memset(plain, 'C', SIZE);
    size_t holes = (size_t)atoi(argv[3]) << 20, huge = (size_t)atoi(argv[4]) * HUGE;
    if (atoi(argv[2])) mapped((size_t)atoi(argv[2]) << 20, MAP_ANONYMOUS, -1);
    char *sparse = holes ? mapped(holes, MAP_ANONYMOUS, -1) : 0, *large = huge ? mapped(huge, MAP_ANONYMOUS | MAP_HUGETLB, -1) : 0;
    for (size_t at = 0; at < holes; at += 2 * PAGE) sparse[at] = 1;
    if (huge) memset(large, 'C', huge);
    printf("%lx %lx %lx %lx\n", (long)changed, (long)unchanged, (long)plain, (long)large);
    fflush(stdout);
    char line[8];
    volatile char seen = 0;
    while (fgets(line, sizeof line, stdin)) {
        int failed = 0;
        switch (line[0]) {
        case 'd': /* the file's pages again, which it reads */
            failed = madvise(changed, SIZE, MADV_DONTNEED);
            for (int at = 0; at < SIZE; at += PAGE) seen += changed[at];
            break;
        case 'h':
            failed = madvise(large, huge, MADV_DONTNEED);
            for (size_t at = 0; at < huge; at += HUGE) seen += large[at];
            break;
        case 'g':
            failed = madvise(plain, SIZE, MADV_GUARD_INSTALL);
            break;
        case 'n':
            memset(unchanged, 'N', SIZE);
            break;
        case 't':
            failed = ftruncate(file, 0);
            break;
        }
        printf("%d\n", failed ? errno : 0);
        fflush(stdout);
    }
}
