import Foundation
import LinuxSystem
import Synchronization
import TestSupport

/// A network address translator between one client and its server, which can use another port toward the server at any
/// moment. What comes to a port that it has given up is lost.
final class NAT: Sendable {
    /// Where the client connects to.
    let address: SocketAddress
    private final class Shared: Sendable {
        struct State {
            var outside: DatagramSocket {
                didSet { bytesToClient = 0 }
            }
            /// Since it has taken its present port.
            var bytesToClient = 0
            var toServer: [[UInt8]] = []
            var moment: Moment?

            mutating func move() {
                moment = nil
                if let other = try? DatagramSocket(at: NAT.anywhere()) { outside = other }
            }
        }
        let state: Mutex<State>
        let isStopped = Atomic<Bool>(false)

        init(_ outside: DatagramSocket) { state = Mutex(State(outside: outside)) }

        func pass(_ bytes: [UInt8], to server: SocketAddress, _ connectionIDLength: Int) {
            state.withLock { state in
                let records = bytes.records(connectionIDLength: connectionIDLength)
                if state.moment == .beforeChangeCipherSpec, records.contains(where: { $0.type == 20 }) { state.move() }
                state.toServer.append(bytes)
                state.outside.send(bytes, to: server)
                if state.moment == .afterFinished, records.contains(where: { $0.epoch == 1 }) { state.move() }
            }
        }
    }
    private let shared: Shared
    private let server: SocketAddress

    /// When a NAT changes its port around a client's last flight of a handshake.
    enum Moment: CaseIterable, Sendable {
        /// The flight's first datagram with a ChangeCipherSpec comes from the new port.
        case beforeChangeCipherSpec
        /// What the server answers to the flight goes to the old port, and is lost. Where the server had to answer,
        /// the client sends the flight again, from the new port.
        case afterFinished
    }

    /// - Parameters:
    ///   - outside: the first address toward the server; `nil`: one of its own.
    ///   - moment: when it takes another port by itself, once, in a handshake.
    ///   - connectionIDLength: of the server's connection IDs; they decide where a record ends.
    init(
        to server: SocketAddress, from outside: SocketAddress? = nil, moves moment: Moment? = nil,
        connectionIDLength: Int = 0
    ) throws {
        let front = try DatagramSocket(at: Self.anywhere())
        shared = Shared(try DatagramSocket(at: outside ?? Self.anywhere()))
        shared.state.withLock { $0.moment = moment }
        address = front.local
        self.server = server
        Thread.detachNewThread { [shared] in
            var client: DatagramSocket.Sender?
            while !shared.isStopped.load(ordering: .relaxed) {
                let outside = shared.state.withLock { $0.outside }
                DatagramSocket.wait(for: [front, outside])
                if let (bytes, sender) = front.receiveAtOnce() {
                    client = sender
                    shared.pass(bytes, to: server, connectionIDLength)
                }
                while let (bytes, _) = outside.receiveAtOnce() {
                    // A port that has been given up meanwhile belongs to nobody.
                    let isPresent = shared.state.withLock { state in
                        if state.outside === outside { state.bytesToClient += bytes.count }
                        return state.outside === outside
                    }
                    guard isPresent else { break }
                    if let client { front.send(bytes, to: client) }
                }
            }
        }
    }

    deinit { shared.isStopped.store(true, ordering: .relaxed) }

    fileprivate static func anywhere() throws -> SocketAddress {
        guard let address = SocketAddress(host: SocketAddress.ownLoopback, port: 0) else {
            throw NoFreePort(host: SocketAddress.ownLoopback)
        }
        return address
    }

    /// Where the server sees the client.
    var outside: SocketAddress { shared.state.withLock { $0.outside.local } }

    /// Bytes of the datagrams that have come to the present port.
    var bytesToPresentPort: Int { shared.state.withLock { $0.bytesToClient } }

    /// What has been sent to the server so far.
    var toServer: [[UInt8]] { shared.state.withLock { $0.toServer } }

    /// Takes another port, or this address. One that somebody else has had may be in use for another moment.
    @discardableResult
    func move(to address: SocketAddress? = nil) async throws -> SocketAddress {
        let wanted = try address ?? Self.anywhere()
        let socket = try await eventualValue("\(wanted) can be bound") { try? DatagramSocket(at: wanted) }
        shared.state.withLock { $0.outside = socket }
        return socket.local
    }

    /// Takes another port by itself, once, at this moment of the next handshake.
    func move(_ moment: Moment) { shared.state.withLock { $0.moment = moment } }

    /// Sends these bytes to the server as if they were the client's.
    func forge(_ bytes: [UInt8]) { shared.state.withLock { $0.outside.send(bytes, to: server) } }

    /// Sends these bytes to the server from an address of its own.
    func send(_ bytes: [UInt8], from socket: DatagramSocket) { socket.send(bytes, to: server) }
}

extension [UInt8] {
    /// The content types and epochs of the DTLS 1.2 records in a datagram whose tls12_cid records have CIDs of this length.
    func records(connectionIDLength: Int) -> [(type: UInt8, epoch: Int)] {
        var rest = self[...]
        var records: [(type: UInt8, epoch: Int)] = []
        while let type = rest.first {
            let header = 13 + (type == 25 ? connectionIDLength : 0)
            let bytes = Array(rest.prefix(header))
            guard bytes.count == header else { return records }
            records.append((type, Int(bytes[3]) << 8 | Int(bytes[4])))
            rest = rest.dropFirst(header + (Int(bytes[header - 2]) << 8 | Int(bytes[header - 1])))
        }
        return records
    }
}
