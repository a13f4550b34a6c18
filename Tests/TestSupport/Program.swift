import CLinux
import Foundation
import Synchronization

/// A program that runs as a process of its own. Its standard input is a socket, its output and errors go to files.
/// It is killed when the last reference goes away.
package final class Program: Sendable {
    package enum Ending: Equatable {
        case exited(Int32)
        case killed(Int32)
    }

    package struct CannotStart: Error, CustomStringConvertible {
        package let description: String

        package init(description: String) { self.description = description }
    }

    package let pid: pid_t
    package let command: String
    private let folder: TestFolder
    private let outputName: String
    private let errorsName: String
    private struct State {
        var input: Int32
        var ending: Ending?
    }
    private let state: Mutex<State>

    private static let count = Atomic<Int>(0)
    /// Held while a program is started, and while a file is written: until the new process has come to its exec, it has
    /// the descriptor that the file is written through, and nobody can execute the file (ETXTBSY).
    package static let starting = Mutex<Void>(())
    /// PATH, with the folders where Debian has daemons, and a user's PATH has not.
    private static let path = setenv("PATH", "\(String(cString: getenv("PATH"))):/usr/sbin:/sbin", 1)

    /// - Parameters:
    ///   - arguments: the program, looked up in PATH, and its arguments.
    ///   - name: what its two files are called, with ".output" and ".errors"; a number where none is given.
    ///   - descriptorLimit: the most descriptors that it and its children may have open (RLIMIT_NOFILE).
    package init(_ arguments: [String], in folder: TestFolder, name: String? = nil, descriptorLimit: Int? = nil) throws
    {
        let number = Self.count.wrappingAdd(1, ordering: .relaxed).newValue
        _ = Self.path
        self.folder = folder
        command = arguments.joined(separator: " ")
        outputName = "\(name ?? "\(number)").output"
        errorsName = "\(name ?? "\(number)").errors"

        // A socket, since a pipe cannot be made close-on-exec in one step from here.
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            throw CannotStart(description: "socketpair: \(String(cString: strerror(errno)))")
        }
        defer { close(ends[0]) }

        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[0], 0)
        let flags = O_WRONLY | O_CREAT | O_APPEND
        posix_spawn_file_actions_addopen(&actions, 1, folder.file(outputName), flags, 0o600)
        posix_spawn_file_actions_addopen(&actions, 2, folder.file(errorsName), flags, 0o600)
        // Foundation's pipes and sockets are not close-on-exec: who waits for the end of one would wait for this
        // program's.
        cl_spawn_close_from(&actions, 3)

        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        sigfillset(&signals)
        posix_spawnattr_setsigdefault(&attributes, &signals)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

        let limited = descriptorLimit.map { ["prlimit", "--nofile=\($0)"] } ?? []
        var words: [UnsafeMutablePointer<CChar>?] = (limited + arguments).map { strdup($0) }
        defer { for word in words { free(word) } }
        words.append(nil)
        var started: pid_t = 0
        let code = Self.starting.withLock { _ in
            posix_spawnp(&started, (limited + arguments)[0], &actions, &attributes, words, cl_environ())
        }
        guard code == 0 else {
            close(ends[1])
            throw CannotStart(description: "\(command): \(String(cString: strerror(code)))")
        }
        pid = started
        state = Mutex(State(input: ends[1]))
    }

    deinit {
        closeInput()
        if ending == nil {
            kill(pid, SIGKILL)
            var status: Int32 = 0
            waitpid(pid, &status, 0)
        }
    }

    /// What it has written to standard output so far.
    package var output: String { folder.read(outputName) }
    /// What it has written to standard error so far.
    package var errors: String { folder.read(errorsName) }

    /// How it ended, or `nil` while it runs.
    package var ending: Ending? {
        state.withLock { state in
            var status: Int32 = 0
            if state.ending == nil, waitpid(pid, &status, WNOHANG) == pid {
                state.ending =
                    cl_wifsignaled(status) != 0 ? .killed(cl_wtermsig(status)) : .exited(cl_wexitstatus(status))
            }
            return state.ending
        }
    }

    /// Writes to its standard input. What a program that has ended would have been told is dropped.
    package func send(_ text: String) {
        state.withLock { state in
            var rest = Array(text.utf8)[...]
            while !rest.isEmpty, state.input >= 0 {
                let written = rest.withUnsafeBytes {
                    Glibc.send(state.input, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
                }
                guard written > 0 else { return }
                rest = rest.dropFirst(written)
            }
        }
    }

    package func closeInput() {
        state.withLock { state in
            if state.input >= 0 { close(state.input) }
            state.input = -1
        }
    }

    package func signal(_ number: Int32) {
        if ending == nil { kill(pid, number) }
    }

    /// Waits until it has ended.
    package func ended(within seconds: Double = 60) async throws -> Ending {
        try await eventualValue("\(command) ends", within: seconds, details: output + errors) { ending }
    }

    /// Runs a program to its end; anything but exit status 0 is an error.
    @discardableResult
    package static func run(_ arguments: [String], in folder: TestFolder, within seconds: Double = 60) async throws
        -> String
    {
        let program = try Program(arguments, in: folder)
        program.closeInput()
        guard try await program.ended(within: seconds) == .exited(0) else {
            throw CannotStart(description: "\(program.command) failed: \(program.errors)")
        }
        return program.output
    }
}
