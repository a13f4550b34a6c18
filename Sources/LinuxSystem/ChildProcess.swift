import CLinux
import Glibc

/// The program itself in another role: started with fork and exec at once, so that it has an address-space layout of
/// its own and no Swift runtime is carried across a fork.
public enum ChildProcess {
    /// The descriptor on which a child finds its channel.
    public static let channelDescriptor: Int32 = 3

    /// How a child ended.
    public enum Ending: Equatable, Sendable, CustomStringConvertible {
        case exited(status: Int32)
        case killed(signal: Int32)

        public var description: String {
            switch self {
            case .exited(let status): "exited with status \(status)"
            case .killed(let signal): "was killed by signal \(signal) (\(String(cString: strsignal(signal))))"
            }
        }
    }

    /// Starts /proc/self/exe with these arguments; `channel` is its descriptor 3, and everything but 0 to 3 is closed.
    /// - Returns: its process ID.
    public static func spawn(
        arguments: [String], environment: [String: String], channel: consuming FileDescriptor
    ) throws(SystemError) -> pid_t {
        var pid: pid_t = 0
        let raw = channel.rawValue
        let code = withCStrings(arguments) { argv in
            withCStrings(environment.map { "\($0.key)=\($0.value)" }) { envp in
                cl_spawn_self(&pid, argv, envp, raw)
            }
        }
        guard code == 0 else { throw SystemError("posix_spawn", "/proc/self/exe", errno: code) }
        return pid
    }

    /// The next child that has ended, or `nil`.
    public static func reap() -> (pid: pid_t, ending: Ending)? {
        while true {
            var status: Int32 = 0
            let pid = waitpid(-1, &status, WNOHANG)
            if pid < 0, errno == EINTR { continue }
            guard pid > 0 else { return nil }
            if let ending = ending(status) { return (pid, ending) }
        }
    }

    /// A descriptor that becomes readable when the child has ended (pidfd_open(2)).
    public static func watch(_ child: pid_t) throws(SystemError) -> FileDescriptor {
        FileDescriptor(owning: try system("pidfd_open") { cl_pidfd_open(child) })
    }

    /// How a child has ended, which is then gone from the process table; `nil` while it runs.
    public static func reap(_ child: pid_t) -> Ending? {
        var status: Int32 = 0
        return waitpid(child, &status, WNOHANG) == child ? ending(status) : nil
    }

    /// Waits for one child to end; `nil` when it is none, or has been reaped.
    public static func wait(for child: pid_t) -> Ending? {
        var status: Int32 = 0
        while true {
            let pid = waitpid(child, &status, 0)
            if pid < 0, errno == EINTR { continue }
            return pid == child ? ending(status) : nil
        }
    }

    private static func ending(_ status: Int32) -> Ending? {
        if cl_wifsignaled(status) != 0 { return .killed(signal: cl_wtermsig(status)) }
        return cl_wifexited(status) != 0 ? .exited(status: cl_wexitstatus(status)) : nil
    }

    /// This process' environment.
    public static func environment() -> [String: String] {
        var variables: [String: String] = [:]
        var next = cl_environ()
        while let entry = next?.pointee {
            let text = String(cString: entry)
            if let equals = text.firstIndex(of: "=") {
                variables[String(text[..<equals])] = String(text[text.index(after: equals)...])
            }
            next = next?.advanced(by: 1)
        }
        return variables
    }

    static func withCStrings<Result>(
        _ strings: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
    ) -> Result {
        let copies = strings.map { strdup($0) }
        defer { for copy in copies { free(copy) } }
        let list = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>.allocate(capacity: copies.count + 1)
        defer { list.deallocate() }
        for (index, copy) in copies.enumerated() { list[index] = copy }
        list[copies.count] = nil
        return body(list)
    }
}
