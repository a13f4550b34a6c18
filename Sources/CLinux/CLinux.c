#define _GNU_SOURCE
#include "CLinux.h"
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

_Static_assert(sizeof(struct cl_mmsghdr) == sizeof(struct mmsghdr), "mmsghdr");
_Static_assert(offsetof(struct cl_mmsghdr, msg_len) == offsetof(struct mmsghdr, msg_len), "mmsghdr.msg_len");
_Static_assert(sizeof(struct cl_in6_pktinfo) == sizeof(struct in6_pktinfo), "in6_pktinfo");
_Static_assert(CL_IPV6_RECVPKTINFO == IPV6_RECVPKTINFO && CL_IPV6_PKTINFO == IPV6_PKTINFO, "IPv6 options");
_Static_assert(CL_IP_PKTINFO == IP_PKTINFO, "IPv4 options");
_Static_assert(CL_MSG_CMSG_CLOEXEC == MSG_CMSG_CLOEXEC, "MSG_CMSG_CLOEXEC");
_Static_assert(sizeof(struct cl_instruction) == sizeof(struct sock_filter), "sock_filter");
_Static_assert(CL_O_PATH == O_PATH, "O_PATH");
_Static_assert(CL_CAP_NET_BIND_SERVICE == CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE");
_Static_assert(CL_CAP_DAC_OVERRIDE == CAP_DAC_OVERRIDE && CL_CAP_DAC_READ_SEARCH == CAP_DAC_READ_SEARCH, "CAP_DAC");
_Static_assert(CL_CAP_SETGID == CAP_SETGID && CL_CAP_SETUID == CAP_SETUID, "CAP_SETUID");
_Static_assert(CL_SECCOMP_RET_KILL_PROCESS == SECCOMP_RET_KILL_PROCESS, "SECCOMP_RET_KILL_PROCESS");
_Static_assert(CL_SECCOMP_RET_ERRNO == SECCOMP_RET_ERRNO && CL_SECCOMP_RET_ALLOW == SECCOMP_RET_ALLOW, "SECCOMP_RET");
_Static_assert(CL_SECCOMP_FILTER_FLAG_SPEC_ALLOW == SECCOMP_FILTER_FLAG_SPEC_ALLOW, "SECCOMP_FILTER_FLAG_SPEC_ALLOW");
#if defined(__x86_64__)
_Static_assert(CL_ARCHITECTURE == AUDIT_ARCH_X86_64, "architecture");
#elif defined(__aarch64__)
_Static_assert(CL_ARCHITECTURE == AUDIT_ARCH_AARCH64, "architecture");
#endif
_Static_assert(CL_F_ADD_SEALS == F_ADD_SEALS && CL_F_SEAL_WRITE == F_SEAL_WRITE, "seals");

extern char **environ;
char **cl_environ(void) { return environ; }

static char **arguments;
// glibc gives constructors what it gives main.
__attribute__((constructor)) static void keep_arguments(int argc, char **argv) {
    if (argc > 0) arguments = argv;
}
char **cl_arguments(void) { return arguments; }

int cl_spawn_close_from(posix_spawn_file_actions_t *actions, int first) {
    return posix_spawn_file_actions_addclosefrom_np(actions, first);
}

int cl_recvmmsg(int fd, struct cl_mmsghdr *m, unsigned int n, int flags) {
    return recvmmsg(fd, (struct mmsghdr *)m, n, flags, NULL);
}
int cl_sendmmsg(int fd, struct cl_mmsghdr *m, unsigned int n, int flags) {
    return sendmmsg(fd, (struct mmsghdr *)m, n, flags);
}
pid_t cl_thread_number(void) { return gettid(); }
int cl_memfd_create(const char *name) { return memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING); }
int cl_mlock_on_fault(const void *start, size_t count) { return mlock2(start, count, MLOCK_ONFAULT); }
int cl_pidfd_open(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

size_t cl_bytes_in_use(void) {
    struct mallinfo2 information = mallinfo2();
    return information.uordblks + information.hblkhd;
}

void cl_trim_heap(void) { malloc_trim(0); }

int cl_open_self(void) {
    // The link leads to the program that runs, even when another file has taken its place meanwhile.
    int self = open("/proc/self/exe", O_PATH | O_CLOEXEC);
    if (self >= 0) return self;
    // Without /proc: the path that the kernel was given by execve(2).
    const char *path = (const char *)getauxval(AT_EXECFN);
    if (path) return open(path, O_PATH | O_CLOEXEC);
    errno = ENOENT;
    return -1;
}

const char *cl_program_path(void) { return (const char *)getauxval(AT_EXECFN); }

void cl_set_process_name(const char *name) { prctl(PR_SET_NAME, name); }

// What follows runs in a child that shares the parent's memory (vfork(2)), and that writes only its own stack and errno.

static void reset_signals(void) {
    // signal(3) would leave out the two signals that glibc reserves for its own use.
    const unsigned long by_default[8] = {0};
    for (int number = 1; number < NSIG; number++) syscall(SYS_rt_sigaction, number, by_default, NULL, (NSIG - 1) / 8);
}

static void unblock_signals(void) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static int keep_channel(int channel) {
    if (channel == 3) return fcntl(3, F_SETFD, 0) ? errno : 0;
    return dup2(channel, 3) < 0 ? errno : 0;
}

static int become_self(int self, char *const argv[], char *const envp[], int channel) {
    reset_signals();
    // Descriptor 3 is the channel's, and the program's own is closed by the exec.
    if (self == 3) self = fcntl(self, F_DUPFD_CLOEXEC, 4);
    if (self < 0) return errno;
    int error = keep_channel(channel);
    if (error) return error;
    if (self > 4 && syscall(SYS_close_range, 4u, (unsigned)self - 1, 0)) return errno;
    if (syscall(SYS_close_range, (unsigned)self + 1, ~0u, 0)) return errno;
    unblock_signals();
    syscall(SYS_execveat, self, "", argv, envp, AT_EMPTY_PATH);
    return errno;
}

static int become_program(const struct cl_program *program, pid_t parent) {
    reset_signals();
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
    unblock_signals();
    execve(program->argv[0], program->argv, program->envp);
    return errno;
}

// A child whose exec has failed is reaped here, and its error is returned.
static int finish_spawn(pid_t *pid, pid_t child, int error, const sigset_t *before) {
    pthread_sigmask(SIG_SETMASK, before, NULL);
    if (child > 0 && error) {
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
    }
    *pid = child;
    return error;
}

int cl_spawn_self(pid_t *pid, int self, char *const argv[], char *const envp[], int channel) {
    sigset_t all, before;
    volatile int error = 0;
    // No signal handler of the parent may run in the child, since it would use the parent's memory.
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t child = vfork();
    if (child == 0) {
        error = become_self(self, argv, envp, channel);
        _exit(127);
    }
    if (child < 0) error = errno;
    return finish_spawn(pid, child, error, &before);
}

// posix_spawn(3) does all that a successor needs; it is prepared before the vfork, since it allocates memory.
static int prepare_successor(posix_spawnattr_t *attributes, posix_spawn_file_actions_t *actions, int channel) {
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    // A process group of its own, so that it can be killed together with all that it starts.
    int error = posix_spawnattr_setflags(
        attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    if (!error) error = posix_spawnattr_setsigdefault(attributes, &all);
    if (!error) error = posix_spawnattr_setsigmask(attributes, &none);
    if (!error) error = posix_spawn_file_actions_adddup2(actions, channel, 3);
    if (!error) error = posix_spawn_file_actions_addclosefrom_np(actions, 4);
    return error;
}

int cl_spawn_path(pid_t *pid, const char *path, char *const argv[], char *const envp[], int channel) {
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    sigset_t all, before;
    volatile int error = posix_spawnattr_init(&attributes);
    volatile pid_t started = -1;
    if (error) return error;
    error = posix_spawn_file_actions_init(&actions);
    if (!error) {
        error = prepare_successor(&attributes, &actions, channel);
        if (!error) {
            sigfillset(&all);
            pthread_sigmask(SIG_SETMASK, &all, &before);
            // The parent of the program ends at once, so that the program becomes a child of the service manager. It
            // does not call vfork(2) once more: AddressSanitizer's one would then return in the wrong process.
            pid_t child = vfork();
            if (child == 0) {
                pid_t grandchild;
                error = posix_spawn(&grandchild, path, &actions, &attributes, argv, envp);
                if (!error) started = grandchild;
                _exit(0);
            }
            if (child < 0) error = errno;
            pthread_sigmask(SIG_SETMASK, &before, NULL);
            if (child > 0) {
                while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
            }
        }
        posix_spawn_file_actions_destroy(&actions);
    }
    posix_spawnattr_destroy(&attributes);
    *pid = started;
    return error;
}

int cl_spawn_program(pid_t *pid, const struct cl_program *program) {
    sigset_t all, before;
    pid_t parent = getpid();
    volatile int error = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t child = vfork();
    if (child == 0) {
        error = become_program(program, parent);
        _exit(127);
    }
    if (child < 0) error = errno;
    return finish_spawn(pid, child, error, &before);
}

int cl_usable_processors(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : -1;
}

int cl_processor(void) { return sched_getcpu(); }

int cl_stay_on_processor(unsigned processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    return sched_setaffinity(0, sizeof set, &set);
}

// The header and the two halves of the sets, as capset(2) takes them.
int cl_set_capabilities(uint64_t set) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    for (int half = 0; half < 2; half++) {
        data[half].effective = data[half].permitted = data[half].inheritable = (uint32_t)(set >> (32 * half));
    }
    return syscall(SYS_capset, &header, data) ? errno : 0;
}

int cl_become_user(uid_t user, gid_t group, const gid_t *groups, size_t count, int keeps_low_ports) {
    if (keeps_low_ports && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)) return errno;
    if (setgroups(count, groups)) return errno;
    if (setresgid(group, group, group)) return errno;
    if (setresuid(user, user, user)) return errno;
    int error = cl_set_capabilities(keeps_low_ports ? 1ull << CAP_NET_BIND_SERVICE : 0);
    if (error) return error;
    if (keeps_low_ports && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0)) return errno;
    // There must be no way back.
    if (user != 0 && setresuid(0, 0, 0) == 0) return EPERM;
    return 0;
}

int cl_error_of_reading_as(const char *path, uid_t user, gid_t group, const gid_t *groups, size_t count) {
    gid_t former[65536];
    int former_count = getgroups(65536, former);
    if (former_count < 0) return errno;
    // The system calls themselves change this thread alone; glibc's functions have all threads change.
    if (syscall(SYS_setgroups, count, groups)) return errno;
    uid_t own_user = (uid_t)syscall(SYS_setfsuid, user);
    gid_t own_group = (gid_t)syscall(SYS_setfsgid, group);
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int error = file < 0 ? errno : 0;
    if (file >= 0) close(file);
    syscall(SYS_setfsuid, own_user);
    syscall(SYS_setfsgid, own_group);
    syscall(SYS_setgroups, (size_t)former_count, former);
    return error;
}

uint64_t cl_permitted_capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}, {0}};
    syscall(SYS_capget, &header, data);
    return data[0].permitted | (uint64_t)data[1].permitted << 32;
}

int cl_bounds_capability(int capability) { return prctl(PR_CAPBSET_READ, capability, 0, 0, 0); }
int cl_drop_from_bounds(int capability) { return prctl(PR_CAPBSET_DROP, capability, 0, 0, 0); }
int cl_clear_ambient_capabilities(void) { return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); }
int cl_forbid_new_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); }
int cl_hide_memory(void) { return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); }

int cl_attach_filter(int fd, const struct cl_instruction *instructions, unsigned short count) {
    struct sock_fprog program = {count, (struct sock_filter *)instructions};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

int cl_install_filter(const struct cl_instruction *instructions, unsigned short count, unsigned flags) {
    struct sock_fprog program = {count, (struct sock_filter *)instructions};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

int cl_landlock_version(void) {
    return (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
}
int cl_landlock_create(const struct cl_landlock_ruleset *ruleset) {
    return (int)syscall(SYS_landlock_create_ruleset, ruleset, sizeof *ruleset, 0);
}
int cl_landlock_grant(int ruleset, uint64_t rights, int place) {
    struct landlock_path_beneath_attr rule = {rights, place};
    return (int)syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}
int cl_landlock_restrict(int ruleset) { return (int)syscall(SYS_landlock_restrict_self, ruleset, 0); }

#ifdef DEBUG
long cl_attempt(long number, long a, long b, long c, long d, long e, long f) {
    return syscall(number, a, b, c, d, e, f);
}
#endif
