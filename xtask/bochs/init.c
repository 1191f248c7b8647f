// The first and only program of the emulated PC: runs what the file /tests lists and switches the PC off.
//
// A line is an environment variable, or a program and its arguments, all without spaces in them. After each program
// comes a line with its exit status; `all ran` stands at the end, so that a crash in between is seen.

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { WORDS = 64 };

static void mount_at(const char *type, const char *place) {
    mkdir(place, 0755);
    if (mount(type, place, type, 0, NULL) != 0) {
        printf("cannot mount %s: %s\n", place, strerror(errno));
    }
}

static void run(char **words) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execv(words[0], words);
        printf("cannot start %s: %s\n", words[0], strerror(errno));
        fflush(stdout);
        _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
        printf("== %s: signal %d\n", words[0], WTERMSIG(status));
    } else {
        printf("== %s: exit status %d\n", words[0], WEXITSTATUS(status));
    }
}

// The emulator's own port: it ends when it has read this word.
static void power_off(void) {
    fflush(stdout);
    tcdrain(STDOUT_FILENO);
    iopl(3);
    for (const char *letter = "Shutdown"; *letter; letter++) {
        outb(*letter, 0x8900);
    }
}

int main(void) {
    mount_at("proc", "/proc");
    mount_at("sysfs", "/sys");
    FILE *tests = fopen("/tests", "r");
    char line[4096];
    while (tests && fgets(line, sizeof line, tests)) {
        char *words[WORDS + 1] = {0};
        size_t count = 0;
        for (char *word = strtok(line, " \n"); word && count < WORDS; word = strtok(NULL, " \n")) {
            words[count++] = word;
        }
        if (count == 1 && strchr(words[0], '=')) {
            putenv(strdup(words[0]));
        } else if (count > 0) {
            run(words);
        }
    }
    printf("== all ran\n");
    power_off();
    for (;;) {
        pause();
    }
}
