/* Changes its mappings all the while, at random, and keeps a table of what has to be in each page of them: the
   number is the first and the last word of the page.  `busy` says which one is being changed, from 1 on.  The
   first argument is a file of 64 pages, of which page n holds FILE_BASE + n; the second how many MiB it has
   beside them, each page of which holds its own number. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64, REGIONS = 48 };
static const unsigned long FILE_BASE = 1UL << 60;

static struct region {
    volatile unsigned long *memory;
    unsigned long pages, of_file, writable;
    unsigned long held[PAGES];
} table[REGIONS];
static volatile unsigned long busy, number;

static void fill(struct region *r, unsigned long from, unsigned long to) {
    for (unsigned long i = from; i < to; i++) {
        r->held[i] = ++number;
        r->memory[i * PAGE / 8] = r->memory[(i + 1) * PAGE / 8 - 1] = number;
    }
}

static void *mapped(void *at, unsigned long pages, int file) {
    void *memory = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | (at ? MAP_FIXED : 0) | (file < 0 ? MAP_ANONYMOUS : 0), file, 0);
    if (memory == MAP_FAILED) abort();
    return memory;
}

static void as_new(struct region *r, unsigned long from) {
    for (unsigned long i = from; i < r->pages; i++) r->held[i] = r->of_file ? FILE_BASE + i : 0;
}

static void change(struct region *r, int file) {
    unsigned long from = rand() % PAGES, to = rand() % PAGES, pages = 1 + rand() % PAGES;
    if (!r->memory) {
        r->of_file = rand() % 3 == 0;
        r->pages = pages;
        r->writable = 1;
        r->memory = mapped(0, pages, r->of_file ? file : -1);
        as_new(r, 0);
        return;
    }
    if (to > r->pages) to = r->pages;
    if (!r->writable) {
        mprotect((void *)r->memory, r->pages * PAGE, PROT_READ | PROT_WRITE);
        r->writable = 1;
    }
    switch (rand() % 8) {
    case 0:
        munmap((void *)r->memory, r->pages * PAGE);
        r->memory = 0;
        return;
    case 1: /* something else in its place */
        r->of_file = !r->of_file;
        mapped((void *)r->memory, r->pages, r->of_file ? file : -1);
        as_new(r, 0);
        return;
    case 2:
        if (from >= to) return;
        madvise((char *)r->memory + from * PAGE, (to - from) * PAGE, MADV_DONTNEED);
        for (unsigned long i = from; i < to; i++) r->held[i] = r->of_file ? FILE_BASE + i : 0;
        return;
    case 3: {
        void *memory = mremap((void *)r->memory, r->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
        if (memory == MAP_FAILED) return; /* a part of it has become a mapping of its own */
        unsigned long old = r->pages;
        r->memory = memory;
        r->pages = pages;
        as_new(r, old);
        return;
    }
    case 4:
        mprotect((void *)r->memory, r->pages * PAGE, PROT_READ);
        r->writable = 0;
        return;
    default:
        if (from < to) fill(r, from, to);
    }
}

int main(int argc, char **argv) {
    int file = open(argv[1], O_RDONLY);
    unsigned long pages = (strtoul(argv[2], 0, 10) << 20) / PAGE;
    unsigned long *rest = mapped(0, pages, -1);
    if (file < 0) return 2;
    for (unsigned long i = 0; i < pages; i++) rest[i * PAGE / 8] = rest[(i + 1) * PAGE / 8 - 1] = i;
    srand(argc > 3 ? atoi(argv[3]) : 1);
    printf("%lx %lx %lx %lx\n", (unsigned long)table, (unsigned long)&busy, (unsigned long)rest, pages);
    fflush(stdout);
    struct timespec moment = {0, 200000};
    for (;;) {
        int chosen = rand() % REGIONS;
        busy = chosen + 1;
        change(&table[chosen], file);
        busy = 0;
        if (rand() % 4 == 0) nanosleep(&moment, 0);
    }
}
