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
