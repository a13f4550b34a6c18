#define _GNU_SOURCE
#include "CLinux.h"
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

_Static_assert(sizeof(struct cl_mmsghdr) == sizeof(struct mmsghdr), "mmsghdr");
_Static_assert(offsetof(struct cl_mmsghdr, msg_len) == offsetof(struct mmsghdr, msg_len), "mmsghdr.msg_len");
_Static_assert(sizeof(struct cl_in6_pktinfo) == sizeof(struct in6_pktinfo), "in6_pktinfo");
_Static_assert(CL_IPV6_RECVPKTINFO == IPV6_RECVPKTINFO && CL_IPV6_PKTINFO == IPV6_PKTINFO, "IPv6 options");
_Static_assert(CL_IP_PKTINFO == IP_PKTINFO, "IPv4 options");
_Static_assert(CL_MSG_CMSG_CLOEXEC == MSG_CMSG_CLOEXEC, "MSG_CMSG_CLOEXEC");
_Static_assert(CL_F_ADD_SEALS == F_ADD_SEALS && CL_F_SEAL_WRITE == F_SEAL_WRITE, "seals");

extern char **environ;
char **cl_environ(void) { return environ; }

int cl_spawn_close_from(posix_spawn_file_actions_t *actions, int first) {
    return posix_spawn_file_actions_addclosefrom_np(actions, first);
}

int cl_recvmmsg(int fd, struct cl_mmsghdr *m, unsigned int n, int flags) {
    return recvmmsg(fd, (struct mmsghdr *)m, n, flags, NULL);
}
int cl_sendmmsg(int fd, struct cl_mmsghdr *m, unsigned int n, int flags) {
    return sendmmsg(fd, (struct mmsghdr *)m, n, flags);
}
int cl_memfd_create(const char *name) { return memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING); }
int cl_pidfd_open(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

size_t cl_bytes_in_use(void) {
    struct mallinfo2 information = mallinfo2();
    return information.uordblks + information.hblkhd;
}

int cl_spawn_self(pid_t *pid, char *const argv[], char *const envp[], int channel) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    int e = posix_spawn_file_actions_init(&actions);
    if (e) return e;
    e = posix_spawnattr_init(&attributes);
    if (e) { posix_spawn_file_actions_destroy(&actions); return e; }
    sigemptyset(&none);
    sigfillset(&all);
    // In posix_spawn, dup2 of a descriptor onto itself clears FD_CLOEXEC (POSIX.1-2024; glibc since 2.29).
    if (!e) e = posix_spawn_file_actions_adddup2(&actions, channel, 3);
    if (!e) e = posix_spawn_file_actions_addclosefrom_np(&actions, 4);
    if (!e) e = posix_spawnattr_setsigmask(&attributes, &none);
    if (!e) e = posix_spawnattr_setsigdefault(&attributes, &all);
    if (!e) e = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (!e) e = posix_spawn(pid, "/proc/self/exe", &actions, &attributes, argv, envp);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return e;
}

// The child shares the parent's memory (vfork(2)), and writes only its own stack and errno.
static int become_program(const struct cl_program *program, pid_t parent) {
    // signal(3) would leave out the two signals that glibc reserves for its own use.
    const unsigned long by_default[8] = {0};
    for (int number = 1; number < NSIG; number++) syscall(SYS_rt_sigaction, number, by_default, NULL, (NSIG - 1) / 8);
    if (setsid() < 0) return errno;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL)) return errno;
    // If the parent died before the call, the kernel no longer sends the signal.
    if (getppid() != parent) return ESRCH;
    // The descriptors are first moved above the standard streams, whatever their numbers are.
    int stream = fcntl(program->stream, F_DUPFD, 3);
    if (stream < 0 || dup2(stream, 0) < 0 || dup2(stream, 1) < 0) return errno;
    if (syscall(SYS_close_range, 3u, ~0u, 0)) return errno;
    if (chdir("/")) return errno;
    for (size_t i = 0; i < program->limit_count; i++) {
        if (setrlimit(program->limits[i].resource, &program->limits[i].limit)) return errno;
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(program->argv[0], program->argv, program->envp);
    return errno;
}

int cl_spawn_program(pid_t *pid, const struct cl_program *program) {
    sigset_t all, before;
    pid_t parent = getpid();
    volatile int error = 0;
    // No signal handler of the parent may run in the child, since it would use the parent's memory.
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t child = vfork();
    if (child == 0) {
        error = become_program(program, parent);
        _exit(127);
    }
    if (child < 0) error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (child > 0 && error) {
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
    }
    *pid = child;
    return error;
}
