import Foundation
import LinuxSystem

/// A network of a test's own: a loopback interface with an MTU of its choice, which nothing else sees. It takes root.
enum NetworkNamespace {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// Whether this process may make one.
    static let isAllowed = (try? run(mtu: 1_500) {}) != nil

    /// Runs `work` on a thread of its own, in a network of its own: what it opens stays there.
    static func run(mtu: Int, _ work: @escaping @Sendable () throws -> Void) throws {
        let outcome = Outcome()
        let done = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            outcome.result = Result {
                try enter(mtu: mtu)
                try work()
            }
            done.signal()
        }
        done.wait()
        try outcome.result.get()
    }

    private final class Outcome: @unchecked Sendable {
        // One thread writes it, then another reads it.
        var result: Result<Void, any Error> = .success(())
    }

    private static func enter(mtu: Int) throws {
        // Glibc's Swift module lacks it.
        typealias Unshare = @convention(c) (Int32) -> Int32
        let newNetwork: Int32 = 0x4000_0000
        guard let symbol = dlsym(nil, "unshare"), unsafeBitCast(symbol, to: Unshare.self)(newNetwork) == 0 else {
            throw Failure(description: "unshare: \(errno)")
        }
        let ip = Process()
        ip.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        ip.arguments = ["ip", "link", "set", "dev", "lo", "mtu", "\(mtu)", "up"]
        try ip.run()
        ip.waitUntilExit()
        guard ip.terminationStatus == 0 else { throw Failure(description: "ip ended with \(ip.terminationStatus)") }
    }
}
