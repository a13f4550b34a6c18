import CLinux
import Glibc

/// Any program as a child process that talks over a socket, in a session and process group of its own. The kernel kills
/// it when the thread that has started it ends.
public enum ForeignProgram {
    /// What the kernel bounds of the program, and of each process that it starts; `nil`: as much as of this process.
    public struct Limits: Codable, Equatable, Sendable {
        /// Bytes of address space (RLIMIT_AS).
        public var memory: Int?
        /// Seconds of processor time (RLIMIT_CPU): SIGXCPU, and a second later SIGKILL.
        public var processorTime: Int?
        /// RLIMIT_NOFILE.
        public var openFiles: Int?

        public init(memory: Int? = nil, processorTime: Int? = nil, openFiles: Int? = nil) {
            self.memory = memory
            self.processorTime = processorTime
            self.openFiles = openFiles
        }

        /// Nothing above this process' own hard limits, which the kernel would refuse.
        fileprivate var list: [cl_limit] {
            var list: [cl_limit] = []
            func append(_ resource: __rlimit_resource, _ soft: Int?, hard: Int = 0) {
                var own = rlimit()
                guard let soft, getrlimit(__rlimit_resource_t(resource.rawValue), &own) == 0 else { return }
                let wanted = rlim_t(clamping: soft)
                let limit = rlimit(
                    rlim_cur: min(wanted, own.rlim_max),
                    rlim_max: min(max(wanted, rlim_t(clamping: hard)), own.rlim_max))
                list.append(cl_limit(resource: Int32(resource.rawValue), limit: limit))
            }
            append(RLIMIT_AS, memory)
            append(RLIMIT_CPU, processorTime, hard: (processorTime ?? 0) &+ 1)
            append(RLIMIT_NOFILE, openFiles)
            return list
        }
    }

    /// Starts a program, and waits until it runs: a millisecond or two, in which this thread does nothing else.
    /// - Parameters:
    ///   - command: its absolute path, and its arguments.
    ///   - environment: all of it; none is inherited.
    ///   - stream: its standard input and output. Its standard error is this process'.
    /// - Returns: its process ID, which is also its process group's.
    public static func spawn(
        _ command: [String], environment: [String: String], stream: borrowing FileDescriptor, limits: Limits
    ) throws(SystemError) -> pid_t {
        var pid: pid_t = 0
        let raw = stream.rawValue
        let code = limits.list.withUnsafeBufferPointer { limits in
            ChildProcess.withCStrings(command) { argv in
                ChildProcess.withCStrings(environment.map { "\($0.key)=\($0.value)" }) { envp in
                    var program = cl_program(
                        argv: argv, envp: envp, stream: raw, limits: limits.baseAddress, limit_count: limits.count)
                    return cl_spawn_program(&pid, &program)
                }
            }
        }
        guard code == 0 else { throw SystemError("execve", command.first ?? "", errno: code) }
        return pid
    }

    /// Two connected ends, on which each write is one message: `own` is non-blocking, as an event loop needs it, and
    /// `other` is blocking, as programs expect it.
    public static func socketPair() throws(SystemError) -> Ends {
        var ends: [Int32] = [-1, -1]
        _ = try system("socketpair") {
            socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | sockCloseOnExec, 0, &ends)
        }
        let pair = Ends(own: FileDescriptor(owning: ends[0]), other: FileDescriptor(owning: ends[1]))
        try pair.own.makeNonBlocking()
        return pair
    }

    @frozen public struct Ends: ~Copyable {
        public var own: FileDescriptor
        public var other: FileDescriptor
    }

    /// Sends a signal to the program and all of its group. It must not have been reaped: its number may be another
    /// process' then.
    public static func signal(_ number: Int32, toGroupOf program: pid_t) { _ = kill(-program, number) }
}
