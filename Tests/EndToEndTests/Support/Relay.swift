import Foundation
import LinuxSystem
import Synchronization

/// Stands between one client and the daemon, sees every datagram, and decides which ones go on.
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
    init(to server: SocketAddress, passes: @escaping @Sendable (Direction, Int) -> Bool) throws {
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
            while !shared.isStopped.load(ordering: .relaxed) {
                if let (bytes, sender) = front.receive() {
                    client = sender
                    if passes(.toServer, toServer) {
                        shared.passed.withLock { $0.append(Passed(direction: .toServer, bytes: bytes)) }
                        back.send(bytes, to: server)
                    }
                    toServer += 1
                }
                while let (bytes, _) = back.receive() {
                    if let client, passes(.toClient, toClient) {
                        shared.passed.withLock { $0.append(Passed(direction: .toClient, bytes: bytes)) }
                        front.send(bytes, to: client)
                    }
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
