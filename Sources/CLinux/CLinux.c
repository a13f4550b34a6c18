#define _GNU_SOURCE
#include "CLinux.h"
#include <errno.h>
#include <malloc.h>
#include <spawn.h>
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
    // dup2 of a descriptor onto itself clears FD_CLOEXEC in posix_spawn (POSIX.1-2024; glibc since 2.29).
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
