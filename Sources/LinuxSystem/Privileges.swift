import CLinux
import Glibc

/// What this process, and all that it starts, may do beyond what its user may. What is given up does not come back.
public enum Privileges {
    /// Neither this process nor one that it starts gets more rights by execve(2): set-user-ID bits and the capabilities of
    /// files have no effect (PR_SET_NO_NEW_PRIVS).
    public static func forbidNew() throws(SystemError) {
        _ = try system("prctl(PR_SET_NO_NEW_PRIVS)") { cl_forbid_new_privileges() }
    }

    /// Rights of root that a process can have by themselves (capabilities(7)).
    public struct Capabilities: OptionSet, Sendable {
        public let rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }
        private init(number: Int32) { rawValue = 1 << UInt64(number) }

        /// Permissions of files do not count (CAP_DAC_OVERRIDE).
        public static let useAllFiles = Capabilities(number: CL_CAP_DAC_OVERRIDE)
        /// Permissions of files do not count where they are read, nor those of folders (CAP_DAC_READ_SEARCH).
        public static let readAllFiles = Capabilities(number: CL_CAP_DAC_READ_SEARCH)
        /// To be another user, with its groups (CAP_SETUID, CAP_SETGID).
        public static let becomeOthers: Capabilities = [
            Capabilities(number: CL_CAP_SETUID), Capabilities(number: CL_CAP_SETGID),
        ]
        /// To bind ports below 1024 (CAP_NET_BIND_SERVICE).
        public static let bindLowPorts = Capabilities(number: CL_CAP_NET_BIND_SERVICE)
    }

    /// Gives up all capabilities, those of the bounding set too, as far as this process may change that. Without
    /// CAP_SETPCAP it may not, and then the set is of no use to a process that ``forbidNew()`` holds for.
    /// - Parameter kept: those that it has afterwards, if it has them now.
    public static func dropCapabilities(except kept: Capabilities) throws(SystemError) {
        var capability: Int32 = 0
        while true {
            let isBound = cl_bounds_capability(capability)
            guard isBound >= 0 else { break }
            if isBound > 0, kept.rawValue & 1 << UInt64(capability) == 0 { _ = cl_drop_from_bounds(capability) }
            capability += 1
        }
        let present = cl_permitted_capabilities()
        let wanted = present & kept.rawValue
        if wanted == 0 { _ = cl_clear_ambient_capabilities() }
        guard present != wanted else { return }
        let code = cl_set_capabilities(wanted)
        guard code == 0 else { throw SystemError("capset", errno: code) }
    }

    /// Nobody but root can read this process' memory or trace it (ptrace(2)), other processes of its user included, and it
    /// leaves no core dump (PR_SET_DUMPABLE). It holds until the next execve(2).
    public static func hideMemory() { _ = cl_hide_memory() }

    /// No core dump is written, no process started, and the limit on descriptors not raised (setrlimit(2)).
    /// - Parameter memory: the bytes of memory that it may have of its own (RLIMIT_DATA); `nil`: as before.
    public static func limitResources(memory: Int? = nil) {
        func limit(_ resource: __rlimit_resource, _ change: (inout rlimit) -> Void) {
            var limit = rlimit()
            guard getrlimit(__rlimit_resource_t(resource.rawValue), &limit) == 0 else { return }
            change(&limit)
            setrlimit(__rlimit_resource_t(resource.rawValue), &limit)
        }
        for resource in [RLIMIT_CORE, __RLIMIT_NPROC] { limit(resource) { $0 = rlimit(rlim_cur: 0, rlim_max: 0) } }
        limit(RLIMIT_NOFILE) { $0.rlim_max = $0.rlim_cur }
        guard let memory else { return }
        let most = rlim_t(clamping: memory)
        limit(RLIMIT_DATA) { $0 = rlimit(rlim_cur: min(most, $0.rlim_max), rlim_max: min(most, $0.rlim_max)) }
    }
}
