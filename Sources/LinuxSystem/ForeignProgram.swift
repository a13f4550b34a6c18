import CLinux
import Glibc

/// A child process that runs any program, communicates over a socket, and has its own session and process group. The
/// kernel kills it when the thread that started it ends.
public enum ForeignProgram {
    /// The kernel's limits for the program and each process that it starts; `nil`: the limit of this process.
    public struct Limits: Codable, Equatable, Sendable {
        /// The address space in bytes (RLIMIT_AS).
        public var memory: Int?
        /// The processor time in seconds (RLIMIT_CPU). The kernel then sends SIGXCPU, and a second later SIGKILL.
        public var processorTime: Int?
        /// The number of open descriptors (RLIMIT_NOFILE).
        public var openFiles: Int?

        public init(memory: Int? = nil, processorTime: Int? = nil, openFiles: Int? = nil) {
            self.memory = memory
            self.processorTime = processorTime
            self.openFiles = openFiles
        }

        /// The limits, lowered to the hard limits of this process: the kernel would refuse higher ones.
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

    /// Starts a program, and blocks this thread until the program runs, which takes one or two milliseconds.
    /// - Parameters:
    ///   - command: the absolute path of the program, and its arguments.
    ///   - environment: the whole environment; nothing is inherited.
    ///   - stream: the program's standard input and output. It inherits standard error from this process.
    /// - Returns: the process ID of the program, which is also its process group ID.
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

    /// Creates two connected sockets, on which each write is one message. `own` is non-blocking, as an event loop needs
    /// it, and `other` is blocking, as programs expect it.
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

    /// Sends a signal to the process group of the program. Do not call it once the program has been reaped: another
    /// process may then have its ID.
    public static func signal(_ number: Int32, toGroupOf program: pid_t) { _ = kill(-program, number) }
}
