/* Blocks in one system call for ever, and says so if the call comes back. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int ends[2];
static int word;

static int listening(void) {
    int found = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    bind(found, (struct sockaddr *)&any, sizeof any);
    listen(found, 1);
    return found;
}

static int watching(void) {
    int found = epoll_create1(0);
    struct epoll_event in = {.events = EPOLLIN};
    epoll_ctl(found, EPOLL_CTL_ADD, ends[0], &in);
    return found;
}

/* Two sockets, the first of which waits for an hour at most. */
static void connected(int pair[2]) {
    struct timeval hour = {3600, 0};
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &hour, sizeof hour);
    setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &hour, sizeof hour);
}

/* Connects again and again to where nobody accepts, each time for an hour at most. */
static int connecting(int listening) {
    struct timeval hour = {3600, 0};
    struct sockaddr_storage name;
    socklen_t size = sizeof name;
    getsockname(listening, (struct sockaddr *)&name, &size);
    for (;;) {
        int found = socket(name.ss_family, SOCK_STREAM, 0);
        setsockopt(found, SOL_SOCKET, SO_SNDTIMEO, &hour, sizeof hour);
        if (connect(found, (struct sockaddr *)&name, size)) return -1;
    }
}

static int listening_here(void) {
    struct sockaddr_un any = {AF_UNIX, ""};
    int found = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(found, (struct sockaddr *)&any, sizeof any.sun_family);  // the kernel finds a name
    listen(found, 1);
    return found;
}

/* Begins a process that ends after this one. */
static void have_a_child(void) {
    if (fork() == 0) {
        while (getppid() != 1) usleep(10000);
        _exit(0);
    }
}

/* Waits for whatever there is, clones of any kind too: none of it ever ends. */
static void *wait_for_all(void *how) {
    int found;
    while ((found = waitpid(-1, 0, __WALL | *(int *)how)) == 0) {}
    printf("waitpid gave %d\n", found);
    exit(1);
}

static long block(const char *call) {
    struct timespec long_time = {1000, 0};
    struct pollfd in = {ends[0], POLLIN, 0};
    struct epoll_event event;
    struct timeval hour = {3600, 0};
    sigset_t none, some;
    char byte;
    sigemptyset(&none);
    sigemptyset(&some);
    sigaddset(&some, SIGUSR2);
    if (!strcmp(call, "read")) return read(ends[0], &byte, 1);
    if (!strcmp(call, "poll")) return poll(&in, 1, 1000000);
    if (!strcmp(call, "ppoll")) return ppoll(&in, 1, &long_time, &none);
    if (!strcmp(call, "select")) {
        fd_set set;
        FD_ZERO(&set);
        FD_SET(ends[0], &set);
        return select(ends[0] + 1, &set, 0, 0, &hour);
    }
    if (!strcmp(call, "epoll_wait")) return epoll_wait(watching(), &event, 1, -1);
    if (!strcmp(call, "epoll_pwait")) return epoll_pwait(watching(), &event, 1, 1000000, &none);
    if (!strcmp(call, "futex")) return syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0);
    if (!strcmp(call, "futex_timeout")) return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &long_time, 0, 0);
    if (!strcmp(call, "nanosleep")) return nanosleep(&long_time, 0);
    if (!strcmp(call, "accept")) return accept(listening(), 0, 0);
    if (!strcmp(call, "accept_timeout")) {
        int found = listening();
        setsockopt(found, SOL_SOCKET, SO_RCVTIMEO, &hour, sizeof hour);
        return accept(found, 0, 0);
    }
    if (!strcmp(call, "recv_timeout")) {
        int pair[2];
        connected(pair);
        return recv(pair[0], &byte, 1, 0);
    }
    if (!strcmp(call, "connect_timeout")) return connecting(listening());
    if (!strcmp(call, "connect_here_timeout")) return connecting(listening_here());
    if (!strcmp(call, "sendfile_timeout")) {
        int pair[2], file = open("/proc/self/exe", O_RDONLY);
        connected(pair);
        for (;;) {
            off_t start = 0;
            long sent = sendfile(pair[0], file, &start, 4096);
            if (sent < 0) return sent;
        }
    }
    if (!strcmp(call, "splice_timeout")) {
        int pair[2];
        connected(pair);
        return splice(pair[0], 0, ends[1], 0, 4096, 0);
    }
    if (!strcmp(call, "splice_out_timeout")) {
        int pair[2];
        static char page[4096];
        connected(pair);
        for (;;) {
            if (write(ends[1], page, sizeof page) < 0) return -3;
            long moved = splice(ends[0], 0, pair[0], 0, sizeof page, 0);
            if (moved < 0) return moved;
        }
    }
    if (!strcmp(call, "semop")) {
        struct sembuf down = {0, -1, 0};
        int set = semget(IPC_PRIVATE, 1, 0600);
        if (fork() == 0) {  // removes it when its parent is gone
            while (getppid() != 1) usleep(10000);
            _exit(semctl(set, 0, IPC_RMID));
        }
        return semop(set, &down, 1);
    }
    if (!strcmp(call, "sigtimedwait")) {
        sigprocmask(SIG_BLOCK, &some, 0);
        return sigtimedwait(&some, 0, &long_time);
    }
    if (!strcmp(call, "wait4")) {
        have_a_child();
        return wait4(-1, 0, 0, 0);
    }
    if (!strcmp(call, "wait_all")) {
        have_a_child();
        return waitpid(-1, 0, __WALL);
    }
    if (!strcmp(call, "thread_waits_for_all") || !strcmp(call, "thread_asks_for_all")) {
        static int how;
        pthread_t thread;
        how = call[7] == 'a' ? WNOHANG : 0;
        have_a_child();
        for (int at = 0; at < 3; at++) pthread_create(&thread, 0, wait_for_all, &how);
        return read(ends[0], &byte, 1);
    }
    return -2;
}

int main(int argc, char **argv) {
    if (pipe(ends)) return 2;
    puts("ready");
    fflush(stdout);
    errno = 0;
    long result = block(argv[1]);
    printf("%s gave %ld: %s\n", argv[1], result, strerror(errno));
    return 1;
}
