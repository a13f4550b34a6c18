import Foundation
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
            let ip = Process()
            ip.executableURL = URL(fileURLWithPath: "/usr/bin/env")
            ip.arguments = ["ip", "link", "set", "dev", "lo", "mtu", "\(mtu)", "up"]
            try ip.run()
            ip.waitUntilExit()
            guard ip.terminationStatus == 0 else {
                throw Failure(description: "ip ended with \(ip.terminationStatus)")
            }
            try work()
        }
    }
}
