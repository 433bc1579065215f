/* Answers each SIGUSR1 with a byte. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static void answer(int number) {
    if (write(1, "!", 1) < 1) _exit(1);
}

int main(void) {
    struct sigaction action = {.sa_handler = answer};
    sigaction(SIGUSR1, &action, 0);
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}
