import Foundation
import LinuxSystem
import Synchronization
import TestSupport

/// Stands between one client and the daemon, sees every datagram, and decides what goes on.
final class Relay: Sendable {
    enum Direction: Sendable { case toServer, toClient }

    struct Passed: Sendable {
        var direction: Direction
        var bytes: [UInt8]
    }

    /// Where the client connects to.
    let address: SocketAddress
    private final class Shared: Sendable {
        let passed = Mutex<[Passed]>([])
        let isStopped = Atomic<Bool>(false)
    }
    private let shared = Shared()
    private let server: SocketAddress
    private let back: DatagramSocket

    /// - Parameter passes: is asked for each datagram with its direction and its number in that direction, from 0.
    convenience init(to server: SocketAddress, passes: @escaping @Sendable (Direction, Int) -> Bool) throws {
        try self.init(to: server) { direction, number, bytes in
            passes(direction, number) ? [Passed(direction: direction, bytes: bytes)] : []
        }
    }

    /// - Parameter replaces: is given each datagram, with its direction and its number in that direction, from 0; what
    ///   it returns is sent instead, whatever the direction.
    init(to server: SocketAddress, replaces: @escaping @Sendable (Direction, Int, [UInt8]) -> [Passed]) throws {
        guard let anywhere = SocketAddress(host: SocketAddress.ownLoopback, port: 0) else {
            throw NoFreePort(host: SocketAddress.ownLoopback)
        }
        let front = try DatagramSocket(at: anywhere)
        let back = try DatagramSocket(at: anywhere)
        address = front.local
        self.server = server
        self.back = back
        Thread.detachNewThread { [shared] in
            var client: DatagramSocket.Sender?
            var toServer = 0
            var toClient = 0
            func pass(_ datagrams: [Passed]) {
                for datagram in datagrams {
                    shared.passed.withLock { $0.append(datagram) }
                    switch datagram.direction {
                    case .toServer: back.send(datagram.bytes, to: server)
                    case .toClient: if let client { front.send(datagram.bytes, to: client) }
                    }
                }
            }
            while !shared.isStopped.load(ordering: .relaxed) {
                DatagramSocket.wait(for: [front, back])
                if let (bytes, sender) = front.receiveAtOnce() {
                    client = sender
                    pass(replaces(.toServer, toServer, bytes))
                    toServer += 1
                }
                while let (bytes, _) = back.receiveAtOnce() {
                    pass(replaces(.toClient, toClient, bytes))
                    toClient += 1
                }
            }
        }
    }

    deinit { shared.isStopped.store(true, ordering: .relaxed) }

    /// Sends to the daemon from where the client's datagrams come from.
    func inject(_ bytes: [UInt8]) { back.send(bytes, to: server) }

    /// Records of application data (type 23) that the daemon was sent.
    var messagesToServer: Int { passed.count { $0.direction == .toServer && $0.bytes.first == 23 } }

    var passed: [Passed] { shared.passed.withLock { $0 } }
}
