import CLinux
import Glibc
import Synchronization

/// A child process that runs this program again in another role. It is started by fork and exec together, so that it
/// gets its own address-space layout and no Swift runtime crosses a fork.
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

    /// The file of this program, opened when the first child is started, and kept.
    private static let ownProgram = Mutex<FileDescriptor?>(nil)

    /// Starts this program with these arguments. The child has `channel` as descriptor 3, and none above it.
    ///
    /// The program is executed by a descriptor of its file. So children are of the same version as their parent, even
    /// where a package manager has put another file in its place, and they start where /proc is not mounted.
    /// - Returns: its process ID.
    public static func spawn(
        arguments: [String], environment: [String: String], channel: consuming FileDescriptor
    ) throws(SystemError) -> pid_t {
        let program = try openOwnProgram()
        var pid: pid_t = 0
        let raw = channel.rawValue
        let code = withCStrings(arguments) { argv in
            withCStrings(environment.map { "\($0.key)=\($0.value)" }) { envp in
                cl_spawn_self(&pid, program, argv, envp, raw)
            }
        }
        guard code == 0 else { throw SystemError("vfork and execveat", "this program", errno: code) }
        return pid
    }

    /// Starts the program file at `path` in the same way. It may be of another version than this program. It gets a
    /// process group of its own, with all that it starts, and is a child of the service manager: systemd does not wait
    /// for the end of a main process that was not its child when it became the main process (unit_kill_context,
    /// systemd 252).
    /// - Returns: its process ID, which is also that of its process group. Only ``watch(_:)`` tells its end.
    public static func spawn(
        path: String, arguments: [String], environment: [String: String], channel: consuming FileDescriptor
    ) throws(SystemError) -> pid_t {
        var pid: pid_t = 0
        let raw = channel.rawValue
        let code = withCStrings(arguments) { argv in
            withCStrings(environment.map { "\($0.key)=\($0.value)" }) { envp in
                cl_spawn_path(&pid, path, argv, envp, raw)
            }
        }
        guard code == 0 else { throw SystemError("vfork and execve", path, errno: code) }
        return pid
    }

    /// The absolute path that this program was started by, in which symbolic links are left as they are: another file
    /// may be there by now. Call it before the working directory changes.
    ///
    /// It is `nil` for a program that was started by a descriptor alone, as ``spawn(arguments:environment:channel:)``
    /// does.
    public static func programPath() -> String? {
        guard let text = cl_program_path() else { return nil }
        let path = String(cString: text)
        if path.hasPrefix("/dev/fd/") { return nil }
        if path.hasPrefix("/") { return path }
        guard let folder = getcwd(nil, 0) else { return nil }
        defer { free(folder) }
        return String(cString: folder) + "/" + path
    }

    /// The number of the descriptor of this program's file, which stays open.
    private static func openOwnProgram() throws(SystemError) -> Int32 {
        try ownProgram.withLock { kept throws(SystemError) in
            if let raw = kept?.rawValue { return raw }
            let opened = try FileDescriptor(
                owning: system("open", "/proc/self/exe, and the path that this program was started by") {
                    cl_open_self()
                })
            let raw = opened.rawValue
            kept = consume opened
            return raw
        }
    }

    /// What an operator can do about a child that cannot be started, to be put after the error; or nothing.
    public static func hint(_ error: SystemError) -> String {
        switch error.errno {
        case EAGAIN:
            " (a limit of processes is reached: TasksMax= of the unit, pids.max of the control group, or ulimit -u)"
        case ENOENT where access("/proc/self/exe", F_OK) != 0:
            " (/proc is not mounted, and the program's file is not found by the path that it was started by: mount /proc,"
                + " or start the program by its absolute path)"
        case EMFILE, ENFILE: " (a limit of open files is reached: LimitNOFILE= of the unit, or ulimit -n)"
        default: ""
        }
    }

    /// Names this process as ps(1) and pgrep(1) show it, in 15 bytes at most.
    public static func setName(_ name: String) { cl_set_process_name(name) }

    /// Reaps the next child that has ended; `nil` when there is none.
    public static func reap() -> (pid: pid_t, ending: Ending)? {
        while true {
            var status: Int32 = 0
            let pid = waitpid(-1, &status, WNOHANG)
            if pid < 0, errno == EINTR { continue }
            guard pid > 0 else { return nil }
            if let ending = ending(status) { return (pid, ending) }
        }
    }

    /// A descriptor that becomes readable when the process has ended (pidfd_open(2)).
    public static func watch(_ child: pid_t) throws(SystemError) -> FileDescriptor {
        FileDescriptor(owning: try system("pidfd_open") { cl_pidfd_open(child) })
    }

    /// Reaps a child and returns how it ended; `nil` while it runs.
    public static func reap(_ child: pid_t) -> Ending? {
        var status: Int32 = 0
        return waitpid(child, &status, WNOHANG) == child ? ending(status) : nil
    }

    /// Waits for a child to end, and reaps it; `nil` when there is no such child, or it has been reaped already.
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

    /// The arguments of this process, its name included. They are known without /proc too, unlike
    /// `CommandLine.arguments`.
    public static func arguments() -> [String] { texts(cl_arguments()) }

    /// The environment of this process.
    public static func environment() -> [String: String] {
        var variables: [String: String] = [:]
        for text in texts(cl_environ()) {
            if let equals = text.firstIndex(of: "=") {
                variables[String(text[..<equals])] = String(text[text.index(after: equals)...])
            }
        }
        return variables
    }

    /// A list of C strings that ends with NULL.
    private static func texts(_ list: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?) -> [String] {
        var texts: [String] = []
        var next = list
        while let entry = next?.pointee {
            texts.append(String(cString: entry))
            next = next?.advanced(by: 1)
        }
        return texts
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
