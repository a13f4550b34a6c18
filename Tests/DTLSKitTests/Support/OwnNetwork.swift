import CLinux
import Glibc
import LinuxSystem
import TestSupport

/// The network of a thread that ``OwnThread/runInOwnNetwork(_:)`` has made. It takes root.
enum OwnNetwork {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    static let isAllowed = (try? OwnThread.runInOwnNetwork { try ip("link set lo up") }) != nil

    /// Runs ip(8) in the thread's network.
    static func ip(_ words: String) throws {
        var arguments: [UnsafeMutablePointer<CChar>?] =
            "ip \(words)".split(separator: " ").map { strdup(String($0)) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var pid = pid_t()
        let error = posix_spawnp(&pid, "ip", nil, nil, &arguments, environ)
        guard error == 0 else { throw Failure(description: "ip: \(String(cString: strerror(error)))") }
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0 {
            guard errno == EINTR else { throw Failure(description: "waitpid: \(String(cString: strerror(errno)))") }
        }
        guard status == 0 else { throw Failure(description: "ip \(words): status \(status)") }
    }

    static func timeToLive(of descriptor: Int32) throws -> Int {
        var value: Int32 = 0
        var length = socklen_t(4)
        guard getsockopt(descriptor, Int32(IPPROTO_IP), IP_TTL, &value, &length) == 0 else {
            throw Failure(description: "getsockopt: \(String(cString: strerror(errno)))")
        }
        return Int(value)
    }
}
