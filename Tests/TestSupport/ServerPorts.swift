import Synchronization

/// UDP ports for servers that a test starts. Between the choice of a port and its server's bind() nobody takes it: the
/// kernel gives clients ports from 32768 up (net.ipv4.ip_local_port_range), and all runs of the tests on this machine
/// share the ports below among themselves.
package enum ServerPorts {
    package struct NoneLeft: Error {}

    private static let all: Range<UInt16> = 20_000..<32_000
    private static let blockSize: UInt16 = 100
    /// What is left of this process' newest block, and the claims on all its blocks.
    private static let state = Mutex<(left: [UInt16], claims: [Claim])>(([], []))

    /// A port that no test has been given. They are all even: the next one is nobody else's either.
    package static func next() throws -> UInt16 {
        try state.withLock { state in
            if let port = state.left.popLast() { return port }
            for first in stride(from: all.lowerBound, to: all.upperBound, by: Int(blockSize)).shuffled() {
                guard let claim = Claim("dtlsd-test-ports-\(first)") else { continue }
                state.claims.append(claim)
                state.left = stride(from: first, to: first + blockSize, by: 2).shuffled()
                if let port = state.left.popLast() { return port }
            }
            throw NoneLeft()
        }
    }
}
