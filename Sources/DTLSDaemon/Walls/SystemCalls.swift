import CLinux
import Glibc
import LinuxSystem

/// System calls of several processes, by what they are for. The lists of workers (``WorkerWalls``) and of the processes
/// beside them (``AuxiliaryWalls``) are made of these.
enum SystemCalls {
    /// Sockets, the channel, and what was passed over it; the loop.
    static let ofDescriptors = [
        CL_SYS_recvmmsg, CL_SYS_sendmmsg, CL_SYS_recvmsg, CL_SYS_sendmsg, CL_SYS_recvfrom, CL_SYS_sendto,
        CL_SYS_epoll_pwait2, CL_SYS_epoll_pwait, CL_SYS_epoll_wait, CL_SYS_epoll_ctl, CL_SYS_epoll_create1,
        CL_SYS_eventfd2, CL_SYS_poll, CL_SYS_ppoll, CL_SYS_read, CL_SYS_readv, CL_SYS_pread64, CL_SYS_write,
        CL_SYS_writev, CL_SYS_lseek, CL_SYS_close, CL_SYS_shutdown, CL_SYS_getsockname, CL_SYS_getpeername,
        CL_SYS_getsockopt, CL_SYS_setsockopt, CL_SYS_fstat, CL_SYS_newfstatat, CL_SYS_statx,
    ]

    /// The clock, memory, random numbers, and what the C library does by itself.
    static let ofLibraries = [
        CL_SYS_clock_gettime, CL_SYS_clock_getres, CL_SYS_gettimeofday, CL_SYS_time, CL_SYS_nanosleep,
        CL_SYS_clock_nanosleep, CL_SYS_getrandom, CL_SYS_brk, CL_SYS_munmap, CL_SYS_mremap, CL_SYS_madvise,
        CL_SYS_mlock, CL_SYS_mlock2, CL_SYS_munlock, CL_SYS_futex, CL_SYS_set_robust_list, CL_SYS_rseq,
        CL_SYS_membarrier, CL_SYS_getpid, CL_SYS_gettid, CL_SYS_getppid, CL_SYS_getuid, CL_SYS_geteuid,
        CL_SYS_getgid, CL_SYS_getegid, CL_SYS_getrusage, CL_SYS_getcpu, CL_SYS_sched_yield,
        CL_SYS_sched_getaffinity, CL_SYS_uname, CL_SYS_sysinfo, CL_SYS_rt_sigaction, CL_SYS_rt_sigprocmask,
        CL_SYS_rt_sigreturn, CL_SYS_sigaltstack, CL_SYS_restart_syscall, CL_SYS_exit, CL_SYS_exit_group,
    ]

    /// No library calls these by itself, and no later version of one will: who does wants to get out.
    static let ofAttackers = [
        CL_SYS_execve, CL_SYS_execveat, CL_SYS_ptrace, CL_SYS_process_vm_readv, CL_SYS_process_vm_writev,
        CL_SYS_pidfd_getfd, CL_SYS_bpf, CL_SYS_perf_event_open, CL_SYS_userfaultfd, CL_SYS_keyctl, CL_SYS_add_key,
        CL_SYS_request_key, CL_SYS_mount, CL_SYS_umount2, CL_SYS_pivot_root, CL_SYS_open_tree,
        CL_SYS_move_mount, CL_SYS_fsopen, CL_SYS_fsmount, CL_SYS_unshare, CL_SYS_setns, CL_SYS_open_by_handle_at,
        CL_SYS_kexec_load, CL_SYS_kexec_file_load, CL_SYS_init_module, CL_SYS_finit_module,
        CL_SYS_delete_module, CL_SYS_io_uring_setup, CL_SYS_io_uring_enter, CL_SYS_io_uring_register,
    ]

    /// What looking at files takes, beside opening them.
    static let ofFiles = [
        CL_SYS_access, CL_SYS_faccessat, CL_SYS_faccessat2, CL_SYS_readlink, CL_SYS_readlinkat, CL_SYS_getdents64,
        CL_SYS_getcwd, CL_SYS_fadvise64, CL_SYS_inotify_init1, CL_SYS_inotify_add_watch,
    ]

    /// Ways of opening a file.
    enum Opening {
        /// Nothing is made or changed by it.
        case reading
        /// What is in the file stays.
        case appending

        fileprivate var condition: SystemCallFilter.Condition {
            switch self {
            case .reading: .bits(UInt32(bitPattern: O_ACCMODE | O_CREAT | O_TRUNC), of: 2, are: 0)
            case .appending:
                .bits(UInt32(bitPattern: O_ACCMODE | O_APPEND), of: 2, are: UInt32(bitPattern: O_WRONLY | O_APPEND))
            }
        }
    }
}

extension SystemCallFilter {
    /// Allows calls of which a part would be a way out.
    /// - Parameters:
    ///   - loadsLibraries: whether files can be mapped as code.
    ///   - commands: of fcntl(2), beside those that everybody needs.
    mutating func addChecked(loadsLibraries: Bool = false, commands: [Int32] = []) {
        // No memory becomes code.
        let executable = UInt32(bitPattern: PROT_EXEC)
        var mapping: [[Condition]] = [[.bits(executable, of: 2, are: 0)]]
        if loadsLibraries {
            mapping.append([
                .bits(UInt32(bitPattern: PROT_EXEC | PROT_WRITE), of: 2, are: executable),
                .bits(UInt32(bitPattern: MAP_ANONYMOUS), of: 3, are: 0),
            ])
        }
        add(.allow, CL_SYS_mmap, where: mapping)
        add(.allow, CL_SYS_mprotect, where: [[.bits(executable, of: 2, are: 0)]])
        // F_SETOWN would have the kernel send signals to others.
        let commands = [F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC] + commands
        add(.allow, CL_SYS_fcntl, where: commands.map { [.bits(of: 1, are: UInt32(bitPattern: $0))] })
        // Limits are read, those of this process alone.
        add(.allow, CL_SYS_prlimit64, where: [[.bits(of: 0, are: 0), .isNull(2)]])
        // abort(3) sends a signal to this process.
        add(.allow, CL_SYS_tgkill, where: [[.bits(of: 0, are: UInt32(bitPattern: getpid()))]])
    }

    /// Allows sockets of these families and types to be made.
    mutating func addSockets(_ kinds: [(family: Int32, type: __socket_type)]) {
        let flags = UInt32(bitPattern: Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue))
        add(
            .allow, CL_SYS_socket,
            where: kinds.map { family, type in
                [.bits(of: 0, are: UInt32(bitPattern: family)), .bits(~flags, of: 1, are: type.rawValue)]
            })
    }

    /// Allows files to be opened in these ways.
    mutating func addOpening(_ ways: [SystemCalls.Opening]) {
        add(.allow, CL_SYS_openat, where: ways.map { [$0.condition] })
    }
}
