import CLinux
import Glibc
import LinuxSystem

/// What the kernel keeps a worker from once it has its first configuration, and before it gets the first datagram of a
/// client: an attacker who makes a worker run other code gets no further than the worker's needs.
///
/// Decision 0024 (docs/decisions/0024-walls.md) has the reasons for what is allowed, refused and killed for.
struct WorkerWalls {
    let needs: WorkerNeeds

    /// Raises the walls, for good. What the kernel does not have, or does not let this process do, is left out.
    /// - Returns: what was left out, and why.
    func raise() -> [SystemError] {
        var failures = raiseForThread()
        if !needs.programs { Privileges.limitResources() }
        do throws(SystemError) { try filter.install() } catch { failures.append(error) }
        return failures
    }

    /// Raises all but the limits and the list of system calls, which let nobody start a thread. Threads that this one starts
    /// later have these walls, too.
    /// - Returns: what was left out, and why.
    func raiseForThread() -> [SystemError] {
        var failures: [SystemError] = []
        func attempt(_ step: () throws(SystemError) -> Void) {
            do throws(SystemError) { try step() } catch { failures.append(error) }
        }
        attempt { () throws(SystemError) in try Privileges.dropCapabilities(keepsLowPorts: needs.lowPorts) }
        attempt { () throws(SystemError) in try Privileges.forbidNew() }
        if !needs.programs {
            attempt { () throws(SystemError) in try FileWall.raise(exceptLogsIn: needs.logFolders) }
        }
        return failures
    }

    /// The system calls of a worker with these needs.
    var filter: SystemCallFilter { needs.programs ? Self.filterOfPrograms : filterOfWorker }

    /// What nobody needs who serves connections, programs of handler "exec" included: to look into other processes, and to
    /// change the machine.
    private static let filterOfPrograms: SystemCallFilter = {
        var filter = SystemCallFilter.refusingNothing
        filter.add(
            .fail(EPERM), CL_SYS_ptrace, CL_SYS_process_vm_readv, CL_SYS_process_vm_writev, CL_SYS_pidfd_getfd,
            CL_SYS_process_madvise, CL_SYS_bpf, CL_SYS_perf_event_open, CL_SYS_userfaultfd, CL_SYS_keyctl,
            CL_SYS_add_key, CL_SYS_request_key, CL_SYS_mount, CL_SYS_umount2, CL_SYS_pivot_root, CL_SYS_open_tree,
            CL_SYS_move_mount, CL_SYS_fsopen, CL_SYS_fsconfig, CL_SYS_fsmount, CL_SYS_fspick, CL_SYS_mount_setattr,
            CL_SYS_unshare, CL_SYS_setns, CL_SYS_open_by_handle_at, CL_SYS_kexec_load, CL_SYS_kexec_file_load,
            CL_SYS_init_module, CL_SYS_finit_module, CL_SYS_delete_module, CL_SYS_reboot, CL_SYS_swapon,
            CL_SYS_swapoff, CL_SYS_quotactl)
        return filter
    }()

    private var filterOfWorker: SystemCallFilter {
        var filter = SystemCallFilter.allowingNothing
        // The socket of each connection, the channel, and what was passed over it.
        filter.add(
            .allow, CL_SYS_recvmmsg, CL_SYS_sendmmsg, CL_SYS_recvmsg, CL_SYS_sendmsg, CL_SYS_recvfrom, CL_SYS_sendto,
            CL_SYS_epoll_pwait2, CL_SYS_epoll_pwait, CL_SYS_epoll_wait, CL_SYS_epoll_ctl, CL_SYS_epoll_create1,
            CL_SYS_eventfd2, CL_SYS_poll, CL_SYS_ppoll, CL_SYS_read, CL_SYS_readv, CL_SYS_pread64, CL_SYS_write,
            CL_SYS_writev, CL_SYS_lseek, CL_SYS_close, CL_SYS_shutdown, CL_SYS_getsockname, CL_SYS_getpeername,
            CL_SYS_getsockopt, CL_SYS_setsockopt, CL_SYS_fstat, CL_SYS_newfstatat, CL_SYS_statx)
        // The clock, memory, random numbers, and what the C library does by itself.
        filter.add(
            .allow, CL_SYS_clock_gettime, CL_SYS_clock_getres, CL_SYS_gettimeofday, CL_SYS_time, CL_SYS_nanosleep,
            CL_SYS_clock_nanosleep, CL_SYS_getrandom, CL_SYS_brk, CL_SYS_munmap, CL_SYS_mremap, CL_SYS_madvise,
            CL_SYS_mlock, CL_SYS_mlock2, CL_SYS_munlock, CL_SYS_futex, CL_SYS_set_robust_list, CL_SYS_rseq,
            CL_SYS_membarrier, CL_SYS_getpid, CL_SYS_gettid, CL_SYS_getppid, CL_SYS_getuid, CL_SYS_geteuid,
            CL_SYS_getgid, CL_SYS_getegid, CL_SYS_getrusage, CL_SYS_getcpu, CL_SYS_sched_yield,
            CL_SYS_sched_getaffinity, CL_SYS_uname, CL_SYS_sysinfo, CL_SYS_rt_sigaction, CL_SYS_rt_sigprocmask,
            CL_SYS_rt_sigreturn, CL_SYS_sigaltstack, CL_SYS_restart_syscall, CL_SYS_exit, CL_SYS_exit_group)
        addChecked(to: &filter)
        addNeeded(to: &filter)
        // No library calls these by itself, and no later version of one will: who does wants to get out.
        filter.add(
            .kill, CL_SYS_execve, CL_SYS_execveat, CL_SYS_ptrace, CL_SYS_process_vm_readv, CL_SYS_process_vm_writev,
            CL_SYS_pidfd_getfd, CL_SYS_bpf, CL_SYS_perf_event_open, CL_SYS_userfaultfd, CL_SYS_keyctl, CL_SYS_add_key,
            CL_SYS_request_key, CL_SYS_mount, CL_SYS_umount2, CL_SYS_pivot_root, CL_SYS_open_tree,
            CL_SYS_move_mount, CL_SYS_fsopen, CL_SYS_fsmount, CL_SYS_unshare, CL_SYS_setns, CL_SYS_open_by_handle_at,
            CL_SYS_kexec_load, CL_SYS_kexec_file_load, CL_SYS_init_module, CL_SYS_finit_module,
            CL_SYS_delete_module, CL_SYS_io_uring_setup, CL_SYS_io_uring_enter, CL_SYS_io_uring_register)
        return filter
    }

    /// Calls of which a part would be a way out.
    private func addChecked(to filter: inout SystemCallFilter) {
        // No memory becomes code.
        let executable = UInt32(bitPattern: PROT_EXEC)
        filter.add(.allow, CL_SYS_mmap, where: [[.bits(executable, of: 2, are: 0)]])
        filter.add(.allow, CL_SYS_mprotect, where: [[.bits(executable, of: 2, are: 0)]])
        // F_SETOWN would have the kernel send signals to others.
        let commands = [F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC]
        filter.add(
            .allow, CL_SYS_fcntl, where: commands.map { [.bits(of: 1, are: UInt32(bitPattern: $0))] })
        // Limits are read, those of this process alone.
        filter.add(.allow, CL_SYS_prlimit64, where: [[.bits(of: 0, are: 0), .isNull(2)]])
        // abort(3) sends a signal to this process.
        filter.add(.allow, CL_SYS_tgkill, where: [[.bits(of: 0, are: UInt32(bitPattern: getpid()))]])
    }

    private func addNeeded(to filter: inout SystemCallFilter) {
        // if_nametoindex(3) asks over a Unix socket.
        let families =
            (needs.internetSockets ? [AF_INET, AF_INET6] : [])
            + (needs.unixSockets || needs.internetSockets ? [AF_UNIX] : [])
        if !families.isEmpty {
            let flags = UInt32(bitPattern: Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue))
            let datagrams = UInt32(SOCK_DGRAM.rawValue)
            filter.add(
                .allow, CL_SYS_socket,
                where: families.map {
                    [.bits(of: 0, are: UInt32(bitPattern: $0)), .bits(~flags, of: 1, are: datagrams)]
                })
            filter.add(.allow, CL_SYS_connect, CL_SYS_bind)
        }
        if needs.internetSockets {
            filter.add(.allow, CL_SYS_ioctl, where: [[.bits(of: 1, are: UInt32(SIOCGIFINDEX))]])
        }
        if !needs.logFolders.isEmpty {
            // The mode of access is that of a log, and Landlock looks at the path, which this cannot.
            filter.add(
                .allow, CL_SYS_openat,
                where: [
                    [
                        .bits(
                            UInt32(bitPattern: O_ACCMODE | O_APPEND), of: 2,
                            are: UInt32(bitPattern: O_WRONLY | O_APPEND))
                    ]
                ])
        }
    }
}
