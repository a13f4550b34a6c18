// These functions are hidden by Swift's Glibc module, or Swift cannot express them: batch calls, control messages,
// epoll, signalfd, memfd and spawn. They contain no policy. Only the .c file defines _GNU_SOURCE, so the types that
// need it are declared here with the same layout, which the .c file checks.
#ifndef CLINUX_H
#define CLINUX_H

#include <fcntl.h>
#include <netdb.h>
#include <net/if.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct cl_mmsghdr { struct msghdr msg_hdr; unsigned int msg_len; };
struct cl_in6_pktinfo { struct in6_addr ipi6_addr; unsigned int ipi6_ifindex; };

static const int CL_IPV6_RECVPKTINFO = 49;
static const int CL_IPV6_PKTINFO = 50;
static const int CL_IP_PKTINFO = 8;
static const int CL_UDP_SEGMENT = 103;
static const int CL_SO_MEMINFO = 55;
static const int CL_SOL_UDP = 17;
static const int CL_MSG_CMSG_CLOEXEC = 0x40000000;
static const int CL_SO_PEERGROUPS = 59;
static const int CL_F_ADD_SEALS = 1033;
static const int CL_F_SEAL_SEAL = 1;
static const int CL_F_SEAL_SHRINK = 2;
static const int CL_F_SEAL_GROW = 4;
static const int CL_F_SEAL_WRITE = 8;

// The numbers of system calls, which differ between processors. The last ones are -1 where a processor has none.
static const int CL_SYS_accept = SYS_accept;
static const int CL_SYS_accept4 = SYS_accept4;
static const int CL_SYS_add_key = SYS_add_key;
static const int CL_SYS_bind = SYS_bind;
static const int CL_SYS_bpf = SYS_bpf;
static const int CL_SYS_brk = SYS_brk;
static const int CL_SYS_capget = SYS_capget;
static const int CL_SYS_clock_getres = SYS_clock_getres;
static const int CL_SYS_clock_gettime = SYS_clock_gettime;
static const int CL_SYS_clock_nanosleep = SYS_clock_nanosleep;
static const int CL_SYS_clone = SYS_clone;
static const int CL_SYS_clone3 = SYS_clone3;
static const int CL_SYS_close = SYS_close;
static const int CL_SYS_connect = SYS_connect;
static const int CL_SYS_delete_module = SYS_delete_module;
static const int CL_SYS_epoll_create1 = SYS_epoll_create1;
static const int CL_SYS_epoll_ctl = SYS_epoll_ctl;
static const int CL_SYS_epoll_pwait = SYS_epoll_pwait;
static const int CL_SYS_epoll_pwait2 = SYS_epoll_pwait2;
static const int CL_SYS_eventfd2 = SYS_eventfd2;
static const int CL_SYS_execve = SYS_execve;
static const int CL_SYS_execveat = SYS_execveat;
static const int CL_SYS_exit = SYS_exit;
static const int CL_SYS_exit_group = SYS_exit_group;
static const int CL_SYS_faccessat = SYS_faccessat;
static const int CL_SYS_faccessat2 = SYS_faccessat2;
static const int CL_SYS_fadvise64 = SYS_fadvise64;
static const int CL_SYS_fcntl = SYS_fcntl;
static const int CL_SYS_finit_module = SYS_finit_module;
static const int CL_SYS_fsconfig = SYS_fsconfig;
static const int CL_SYS_fsmount = SYS_fsmount;
static const int CL_SYS_fsopen = SYS_fsopen;
static const int CL_SYS_fspick = SYS_fspick;
static const int CL_SYS_fstat = SYS_fstat;
static const int CL_SYS_ftruncate = SYS_ftruncate;
static const int CL_SYS_futex = SYS_futex;
static const int CL_SYS_getcpu = SYS_getcpu;
static const int CL_SYS_getcwd = SYS_getcwd;
static const int CL_SYS_getdents64 = SYS_getdents64;
static const int CL_SYS_getegid = SYS_getegid;
static const int CL_SYS_geteuid = SYS_geteuid;
static const int CL_SYS_getgid = SYS_getgid;
static const int CL_SYS_getgroups = SYS_getgroups;
static const int CL_SYS_getpeername = SYS_getpeername;
static const int CL_SYS_getpid = SYS_getpid;
static const int CL_SYS_getppid = SYS_getppid;
static const int CL_SYS_getrandom = SYS_getrandom;
static const int CL_SYS_getrusage = SYS_getrusage;
static const int CL_SYS_getsockname = SYS_getsockname;
static const int CL_SYS_getsockopt = SYS_getsockopt;
static const int CL_SYS_gettid = SYS_gettid;
static const int CL_SYS_gettimeofday = SYS_gettimeofday;
static const int CL_SYS_getuid = SYS_getuid;
static const int CL_SYS_init_module = SYS_init_module;
static const int CL_SYS_inotify_add_watch = SYS_inotify_add_watch;
static const int CL_SYS_inotify_init1 = SYS_inotify_init1;
static const int CL_SYS_io_uring_enter = SYS_io_uring_enter;
static const int CL_SYS_io_uring_register = SYS_io_uring_register;
static const int CL_SYS_io_uring_setup = SYS_io_uring_setup;
static const int CL_SYS_ioctl = SYS_ioctl;
static const int CL_SYS_kexec_load = SYS_kexec_load;
static const int CL_SYS_keyctl = SYS_keyctl;
static const int CL_SYS_kill = SYS_kill;
static const int CL_SYS_lseek = SYS_lseek;
static const int CL_SYS_madvise = SYS_madvise;
static const int CL_SYS_membarrier = SYS_membarrier;
static const int CL_SYS_memfd_create = SYS_memfd_create;
static const int CL_SYS_mlock = SYS_mlock;
static const int CL_SYS_mlock2 = SYS_mlock2;
static const int CL_SYS_mmap = SYS_mmap;
static const int CL_SYS_mount = SYS_mount;
static const int CL_SYS_mount_setattr = SYS_mount_setattr;
static const int CL_SYS_move_mount = SYS_move_mount;
static const int CL_SYS_mprotect = SYS_mprotect;
static const int CL_SYS_mremap = SYS_mremap;
static const int CL_SYS_munlock = SYS_munlock;
static const int CL_SYS_munmap = SYS_munmap;
static const int CL_SYS_nanosleep = SYS_nanosleep;
static const int CL_SYS_newfstatat = SYS_newfstatat;
static const int CL_SYS_open_by_handle_at = SYS_open_by_handle_at;
static const int CL_SYS_open_tree = SYS_open_tree;
static const int CL_SYS_openat = SYS_openat;
static const int CL_SYS_perf_event_open = SYS_perf_event_open;
static const int CL_SYS_pidfd_getfd = SYS_pidfd_getfd;
static const int CL_SYS_pidfd_open = SYS_pidfd_open;
static const int CL_SYS_pidfd_send_signal = SYS_pidfd_send_signal;
static const int CL_SYS_pivot_root = SYS_pivot_root;
static const int CL_SYS_ppoll = SYS_ppoll;
static const int CL_SYS_pread64 = SYS_pread64;
static const int CL_SYS_prlimit64 = SYS_prlimit64;
static const int CL_SYS_process_madvise = SYS_process_madvise;
static const int CL_SYS_process_vm_readv = SYS_process_vm_readv;
static const int CL_SYS_process_vm_writev = SYS_process_vm_writev;
static const int CL_SYS_ptrace = SYS_ptrace;
static const int CL_SYS_quotactl = SYS_quotactl;
static const int CL_SYS_read = SYS_read;
static const int CL_SYS_readlinkat = SYS_readlinkat;
static const int CL_SYS_readv = SYS_readv;
static const int CL_SYS_reboot = SYS_reboot;
static const int CL_SYS_recvfrom = SYS_recvfrom;
static const int CL_SYS_recvmmsg = SYS_recvmmsg;
static const int CL_SYS_recvmsg = SYS_recvmsg;
static const int CL_SYS_request_key = SYS_request_key;
static const int CL_SYS_restart_syscall = SYS_restart_syscall;
static const int CL_SYS_rseq = SYS_rseq;
static const int CL_SYS_rt_sigaction = SYS_rt_sigaction;
static const int CL_SYS_rt_sigprocmask = SYS_rt_sigprocmask;
static const int CL_SYS_rt_sigqueueinfo = SYS_rt_sigqueueinfo;
static const int CL_SYS_rt_sigreturn = SYS_rt_sigreturn;
static const int CL_SYS_sched_getaffinity = SYS_sched_getaffinity;
static const int CL_SYS_sched_setaffinity = SYS_sched_setaffinity;
static const int CL_SYS_sched_yield = SYS_sched_yield;
static const int CL_SYS_sendmmsg = SYS_sendmmsg;
static const int CL_SYS_sendmsg = SYS_sendmsg;
static const int CL_SYS_sendto = SYS_sendto;
static const int CL_SYS_set_robust_list = SYS_set_robust_list;
static const int CL_SYS_setfsgid = SYS_setfsgid;
static const int CL_SYS_setfsuid = SYS_setfsuid;
static const int CL_SYS_setgroups = SYS_setgroups;
static const int CL_SYS_setns = SYS_setns;
static const int CL_SYS_setsockopt = SYS_setsockopt;
static const int CL_SYS_setuid = SYS_setuid;
static const int CL_SYS_shutdown = SYS_shutdown;
static const int CL_SYS_sigaltstack = SYS_sigaltstack;
static const int CL_SYS_socket = SYS_socket;
static const int CL_SYS_statx = SYS_statx;
static const int CL_SYS_swapoff = SYS_swapoff;
static const int CL_SYS_swapon = SYS_swapon;
static const int CL_SYS_sysinfo = SYS_sysinfo;
static const int CL_SYS_tgkill = SYS_tgkill;
static const int CL_SYS_timerfd_create = SYS_timerfd_create;
static const int CL_SYS_timerfd_settime = SYS_timerfd_settime;
static const int CL_SYS_umount2 = SYS_umount2;
static const int CL_SYS_uname = SYS_uname;
static const int CL_SYS_unshare = SYS_unshare;
static const int CL_SYS_userfaultfd = SYS_userfaultfd;
static const int CL_SYS_write = SYS_write;
static const int CL_SYS_writev = SYS_writev;
#ifdef SYS_epoll_wait
static const int CL_SYS_epoll_wait = SYS_epoll_wait;
#else
static const int CL_SYS_epoll_wait = -1;
#endif
#ifdef SYS_kexec_file_load
static const int CL_SYS_kexec_file_load = SYS_kexec_file_load;
#else
static const int CL_SYS_kexec_file_load = -1;
#endif
#ifdef SYS_poll
static const int CL_SYS_poll = SYS_poll;
#else
static const int CL_SYS_poll = -1;
#endif
#ifdef SYS_time
static const int CL_SYS_time = SYS_time;
#else
static const int CL_SYS_time = -1;
#endif

#ifdef SYS_access
static const int CL_SYS_access = SYS_access;
#else
static const int CL_SYS_access = -1;
#endif
#ifdef SYS_readlink
static const int CL_SYS_readlink = SYS_readlink;
#else
static const int CL_SYS_readlink = -1;
#endif

// seccomp(2), with what a filter is made of (linux/filter.h, linux/seccomp.h). The architecture is 0 for processors whose
// system calls nobody has looked at.
struct cl_instruction { uint16_t code; uint8_t when_true; uint8_t when_false; uint32_t value; };
#if defined(__x86_64__)
static const uint32_t CL_ARCHITECTURE = 0xC000003E;
#elif defined(__aarch64__)
static const uint32_t CL_ARCHITECTURE = 0xC00000B7;
#else
static const uint32_t CL_ARCHITECTURE = 0;
#endif
static const uint32_t CL_SECCOMP_RET_KILL_PROCESS = 0x80000000;
static const uint32_t CL_SECCOMP_RET_ERRNO = 0x00050000;
static const uint32_t CL_SECCOMP_RET_ALLOW = 0x7fff0000;
static const unsigned CL_SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4;
/// Has the kernel look at each system call of this thread from now on. Returns 0, or -1 and sets errno.
int cl_install_filter(const struct cl_instruction *instructions, unsigned short count, unsigned flags);

/// SO_ATTACH_FILTER (socket(7)): has the kernel run the program on each datagram before it is put into the socket's queue.
/// Returns 0, or -1 and sets errno.
int cl_attach_filter(int fd, const struct cl_instruction *instructions, unsigned short count);
static const int CL_SO_DETACH_FILTER = 27;

static const int CL_O_PATH = 010000000;

// landlock(7). The kernel takes a structure that is longer than it knows where the rest is 0.
struct cl_landlock_ruleset { uint64_t files; uint64_t network; uint64_t scopes; };
/// The version of Landlock's interface, 1 or more; or -1 and sets errno.
int cl_landlock_version(void);
/// Returns a descriptor of a ruleset that handles these rights; or -1 and sets errno.
int cl_landlock_create(const struct cl_landlock_ruleset *ruleset);
/// Grants rights on a file, or on all that is below a folder. Returns 0, or -1 and sets errno.
int cl_landlock_grant(int ruleset, uint64_t rights, int place);
/// Has the ruleset hold for this thread from now on. Returns 0, or -1 and sets errno.
int cl_landlock_restrict(int ruleset);

// prctl(2) and capabilities(7)
/// PR_SET_NO_NEW_PRIVS. Returns 0, or -1 and sets errno.
int cl_forbid_new_privileges(void);
/// PR_SET_DUMPABLE with 0. Returns 0, or -1 and sets errno.
int cl_hide_memory(void);
/// The capabilities that this process may use, a bit for each.
uint64_t cl_permitted_capabilities(void);
/// Makes the effective, permitted and inheritable sets the same. Returns 0 or an errno.
int cl_set_capabilities(uint64_t set);
/// Whether the bounding set has a capability: 1 or 0; -1 where the kernel knows none of this number.
int cl_bounds_capability(int capability);
/// Takes a capability out of the bounding set. Returns 0, or -1 and sets errno.
int cl_drop_from_bounds(int capability);
/// Takes all capabilities out of the ambient set. Returns 0, or -1 and sets errno.
int cl_clear_ambient_capabilities(void);
static const int CL_CAP_DAC_OVERRIDE = 1;
static const int CL_CAP_DAC_READ_SEARCH = 2;
static const int CL_CAP_SETGID = 6;
static const int CL_CAP_SETUID = 7;
static const int CL_CAP_NET_BIND_SERVICE = 10;

/// syscall(2), in debug builds alone: for the stand-in of a worker that an attacker controls. Returns -1 and sets errno.
long cl_attempt(long number, long a, long b, long c, long d, long e, long f);

int cl_recvmmsg(int fd, struct cl_mmsghdr *messages, unsigned int count, int flags);
int cl_sendmmsg(int fd, struct cl_mmsghdr *messages, unsigned int count, int flags);
int cl_memfd_create(const char *name);
/// mlock2(2) with MLOCK_ONFAULT: what is in memory by now, and what comes to be, is not swapped out.
int cl_mlock_on_fault(const void *start, size_t count);
/// gettid(2)
pid_t cl_thread_number(void);
/// Becomes another user for good, with these groups alone. It is for a process of one thread that is root.
/// keeps_low_ports: whether this process, and all that it starts, may still bind ports below 1024 (CAP_NET_BIND_SERVICE in
/// all sets of capabilities(7), the ambient one included). Returns 0 or an errno.
int cl_become_user(uid_t user, gid_t group, const gid_t *groups, size_t count, int keeps_low_ports);
/// Whether another user could open a file for reading: 0, or the errno that open(2) gives it. It is for a thread that is
/// root, which is so again afterwards.
int cl_error_of_reading_as(const char *path, uid_t user, gid_t group, const gid_t *groups, size_t count);
/// Opens this program's file for cl_spawn_self. Returns a descriptor, or -1 and sets errno.
int cl_open_self(void);
/// Sets the name of this process that ps(1) shows as COMMAND (PR_SET_NAME). A program that was started by a descriptor
/// is named after that one's number otherwise.
void cl_set_process_name(const char *name);
/// Runs the program file `self` in a new process. Its descriptor 3 is `channel`, 0 to 2 are inherited, and all others are
/// closed. Its signal mask and dispositions are the default ones. Blocks until the program runs; returns 0 and sets the
/// pid, or returns an errno.
int cl_spawn_self(pid_t *pid, int self, char *const argv[], char *const envp[], int channel);
/// Does the same with the program file at `path`, in a process group of its own. The process is no child of this one,
/// but of the nearest subreaper above it (prctl(2)), or of process 1.
int cl_spawn_path(pid_t *pid, const char *path, char *const argv[], char *const envp[], int channel);
/// The path that the kernel was given by execve(2) for this process; NULL where it does not tell.
const char *cl_program_path(void);

struct cl_limit { int resource; struct rlimit limit; };
struct cl_program {
    char *const *argv;
    char *const *envp;
    int stream;
    const struct cl_limit *limits;
    size_t limit_count;
};
/// Runs the program argv[0] in a new process and session. Its descriptors 0 and 1 are `stream`, 2 is inherited, and all
/// others are closed. Its working directory is /, and its signal mask and dispositions are the default ones. The kernel
/// kills it when the calling thread ends. Blocks until the program runs; returns 0 and sets the pid, or returns an
/// errno.
int cl_spawn_program(pid_t *pid, const struct cl_program *program);
int cl_pidfd_open(pid_t pid);
char **cl_environ(void);
/// Returns the arguments of this process, which end with NULL, or NULL where there are none. Swift's
/// CommandLine.arguments reads /proc/self/cmdline, and is empty where /proc is not mounted.
char **cl_arguments(void);
/// Calls posix_spawn_file_actions_addclosefrom_np(), which spawn.h declares only for _GNU_SOURCE.
int cl_spawn_close_from(posix_spawn_file_actions_t *actions, int first);
/// Returns the number of bytes that malloc has allocated and that are not freed.
size_t cl_bytes_in_use(void);
/// Returns the number of processors that this process may run on (sched_getaffinity()), or -1 and sets errno.
int cl_usable_processors(void);
/// sched_getcpu(3): the processor that the calling thread runs on, or -1 and sets errno.
int cl_processor(void);
/// Has the calling thread run on one processor alone (sched_setaffinity(2)); returns -1 and sets errno on failure.
int cl_stay_on_processor(unsigned processor);
/// Gives free memory of malloc's heap back to the system.
void cl_trim_heap(void);

static inline struct cmsghdr *cl_cmsg_first(struct msghdr *m) { return CMSG_FIRSTHDR(m); }
static inline struct cmsghdr *cl_cmsg_next(struct msghdr *m, struct cmsghdr *c) { return CMSG_NXTHDR(m, c); }
static inline void *cl_cmsg_data(struct cmsghdr *c) { return CMSG_DATA(c); }
static inline size_t cl_cmsg_len(size_t n) { return CMSG_LEN(n); }
static inline size_t cl_cmsg_space(size_t n) { return CMSG_SPACE(n); }

static inline int cl_wifexited(int s) { return WIFEXITED(s); }
static inline int cl_wexitstatus(int s) { return WEXITSTATUS(s); }
static inline int cl_wifsignaled(int s) { return WIFSIGNALED(s); }
static inline int cl_wtermsig(int s) { return WTERMSIG(s); }

#endif
