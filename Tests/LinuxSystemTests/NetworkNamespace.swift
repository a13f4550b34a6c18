import Glibc
import TestSupport

/// A network of a test's own: a loopback interface with an MTU of its choice, which nothing else sees. It takes root.
enum NetworkNamespace {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// Whether this process may make one.
    static let isAllowed = (try? run(mtu: 1_500) {}) != nil

    /// Runs `work` on a thread that has such a network: the sockets that it opens stay in it.
    static func run(mtu: Int, _ work: @escaping @Sendable () throws -> Void) throws {
        try OwnThread.runInOwnNetwork {
            try setUpLoopback(mtu: mtu)
            try work()
        }
    }

    /// Foundation's Process is of no use here: it waits by a run loop that all threads share, and two tests that waited
    /// at once have been seen to wait for ever.
    private static func setUpLoopback(mtu: Int) throws {
        let words = ["ip", "link", "set", "dev", "lo", "mtu", "\(mtu)", "up"]
        var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var pid = pid_t()
        let error = posix_spawnp(&pid, "ip", nil, nil, &arguments, environ)
        guard error == 0 else {
            throw Failure(description: "ip cannot be started: \(String(cString: strerror(error)))")
        }
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0 {
            guard errno == EINTR else { throw Failure(description: "waitpid: \(String(cString: strerror(errno)))") }
        }
        guard status == 0 else { throw Failure(description: "ip ended with status \(status)") }
    }
}
