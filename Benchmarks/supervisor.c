// Runs a service as systemd does with Type=notify and a descriptor store, so that a restart can be measured on a machine
// without systemd: keeps the descriptors that the service stores (FDSTORE=1, FDNAME=, FDSTOREREMOVE=1), and passes them
// to the next process (LISTEN_FDS, LISTEN_FDNAMES).
//
//   supervisor COMMAND ARGUMENT…
//
// SIGUSR1 restarts the service: it gets SIGUSR1, as from the ExecStop= of dtlsd's unit when systemd restarts it, and the
// next process is started when it has ended. SIGUSR2 kills it, and a service that ends by itself is started again. SIGTERM
// ends both. A line "ready PID" on standard output follows each READY=1.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_DESCRIPTORS 1024
#define MOST_IN_ONE_MESSAGE 253  // SCM_MAX_FD
#define FIRST_LISTENED 3
#define PARKING_PLACE 2048  // descriptors of the store are kept from here on

typedef struct {
    int descriptor;
    char name[256];
} Stored;

static Stored store[MOST_DESCRIPTORS];
static int stored_count, notifications, service;
static char **command;

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "supervisor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void open_notifications(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    // An abstract address, which vanishes with the process.
    int length = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "dtlsd-benchmark-%d", getpid());
    notifications = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t size = offsetof(struct sockaddr_un, sun_path) + 1 + length;
    if (notifications < 0 || bind(notifications, (struct sockaddr *)&address, size) < 0) fail("notification socket");
    char value[sizeof address.sun_path + 1];
    snprintf(value, sizeof value, "@%s", address.sun_path + 1);
    setenv("NOTIFY_SOCKET", value, 1);
}

static void start_service(void) {
    service = fork();
    if (service < 0) fail("fork");
    if (service > 0) return;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    char number[16];
    static char names[MOST_DESCRIPTORS * 257];
    for (int i = 0; i < stored_count; i++) {
        dup2(store[i].descriptor, FIRST_LISTENED + i);  // without close-on-exec
        if (i > 0) strcat(names, ":");
        strcat(names, store[i].name);
    }
    if (stored_count > 0) {
        snprintf(number, sizeof number, "%d", stored_count);
        setenv("LISTEN_FDS", number, 1);
        setenv("LISTEN_FDNAMES", names, 1);
        snprintf(number, sizeof number, "%d", getpid());
        setenv("LISTEN_PID", number, 1);
    }
    execvp(command[0], command);
    fail(command[0]);
}

static void keep(int descriptor, const char *name) {
    if (stored_count == MOST_DESCRIPTORS) {
        close(descriptor);
        return;
    }
    // Out of the way of those that the next process gets.
    Stored *entry = &store[stored_count++];
    entry->descriptor = fcntl(descriptor, F_DUPFD_CLOEXEC, PARKING_PLACE);
    if (entry->descriptor < 0) fail("descriptor store");
    snprintf(entry->name, sizeof entry->name, "%s", name);
    close(descriptor);
}

static void remove_stored(const char *name) {
    for (int i = stored_count - 1; i >= 0; i--)
        if (!strcmp(store[i].name, name)) {
            close(store[i].descriptor);
            store[i] = store[--stored_count];
        }
}

static void read_notification(void) {
    static char text[65536];
    char control[CMSG_SPACE(MOST_IN_ONE_MESSAGE * sizeof(int))];
    struct iovec part = {text, sizeof text - 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(notifications, &message, MSG_CMSG_CLOEXEC);
    if (length < 0) return;
    text[length] = 0;
    int descriptors[MOST_IN_ONE_MESSAGE], count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
            count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(descriptors, CMSG_DATA(header), count * sizeof(int));
        }
    const char *name = "stored";
    int stores = 0, removes = 0;
    char *rest;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (!strncmp(line, "FDNAME=", 7)) name = line + 7;
        else if (!strcmp(line, "FDSTORE=1")) stores = 1;
        else if (!strcmp(line, "FDSTOREREMOVE=1")) removes = 1;
        else if (!strncmp(line, "MAINPID=", 8)) service = atoi(line + 8);
        else if (!strcmp(line, "READY=1")) {
            printf("ready %d\n", service);
            fflush(stdout);
        }
    }
    if (removes) remove_stored(name);
    for (int i = 0; i < count; i++) {
        if (stores) keep(descriptors[i], name);
        else close(descriptors[i]);  // a barrier (BARRIER=1) waits for that
    }
}

int main(int count, char **arguments) {
    if (count < 2) {
        fprintf(stderr, "usage: supervisor COMMAND ARGUMENT…\n");
        return 2;
    }
    command = arguments + 1;
    sigset_t signals;
    sigemptyset(&signals);
    for (const int *number = (const int[]){SIGUSR1, SIGUSR2, SIGTERM, SIGINT, SIGCHLD, 0}; *number; number++)
        sigaddset(&signals, *number);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    int signal_events = signalfd(-1, &signals, SFD_CLOEXEC);
    if (signal_events < 0) fail("signalfd");
    // A process that the service has left to take its place (MAINPID=) becomes a child of this one.
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    open_notifications();
    start_service();
    for (int is_ending = 0;;) {
        struct pollfd ready[] = {{signal_events, POLLIN, 0}, {notifications, POLLIN, 0}};
        if (poll(ready, 2, -1) < 0 && errno != EINTR) fail("poll");
        // What the service stores last arrives before its end.
        if (ready[1].revents) {
            read_notification();
            continue;
        }
        if (!ready[0].revents) continue;
        struct signalfd_siginfo signal;
        if (read(signal_events, &signal, sizeof signal) != sizeof signal) continue;
        if (signal.ssi_signo == SIGUSR1) kill(service, SIGUSR1);
        else if (signal.ssi_signo == SIGUSR2) kill(service, SIGKILL);
        else if (signal.ssi_signo != SIGCHLD) {
            is_ending = 1;
            kill(service, SIGTERM);
        }
        for (int ended; (ended = waitpid(-1, NULL, WNOHANG)) > 0;) {
            if (ended != service) continue;
            if (is_ending) return 0;
            start_service();
        }
    }
}
