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
        attempt { () throws(SystemError) in try Privileges.dropCapabilities(except: needs.lowPorts ? .bindLowPorts : [])
        }
        attempt { () throws(SystemError) in try Privileges.forbidNew() }
        if !needs.programs {
            attempt { () throws(SystemError) in try FileWall.raise(needs.logFolders.map { .logs(in: $0) }) }
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
        filter.add(.allow, SystemCalls.ofDescriptors + SystemCalls.ofLibraries)
        filter.addChecked()
        addNeeded(to: &filter)
        filter.add(.kill, SystemCalls.ofAttackers)
        return filter
    }

    private func addNeeded(to filter: inout SystemCallFilter) {
        // if_nametoindex(3) asks over a Unix socket.
        let families =
            (needs.internetSockets ? [AF_INET, AF_INET6] : [])
            + (needs.unixSockets || needs.internetSockets ? [AF_UNIX] : [])
        if !families.isEmpty {
            filter.addSockets(families.map { ($0, SOCK_DGRAM) })
            filter.add(.allow, CL_SYS_connect, CL_SYS_bind)
        }
        if needs.internetSockets {
            filter.add(.allow, CL_SYS_ioctl, where: [[.bits(of: 1, are: UInt32(SIOCGIFINDEX))]])
        }
        if !needs.logFolders.isEmpty {
            // Landlock looks at the path, which this cannot.
            filter.addOpening([.appending])
        }
    }
}
