import DTLSEngine
import DTLSKit
import DTLSTransport
import LinuxSystem
import Primitives

/// One of the connections of a load: it does its handshake, and keeps messages under way where it is told to.
///
/// It is over DTLSTransport, not DTLSKit: thousands of clients share one context and one datapath, and no message is
/// copied or called back for. Else the generator would be what is measured.
final class LoadClient: ConnectionDelegate {
    enum State {
        case handshaking
        case open
        case ended
    }

    private unowned let load: Load
    private(set) var connection: Connection?
    private(set) var state = State.handshaking
    /// When the handshake began.
    let started: Instant
    /// The number of the next message.
    private var next: UInt32 = 0
    private(set) var underWay = 0
    private(set) var lastSent = Instant.distantPast
    /// When the newest messages were sent, by number, as a ring. Empty where none are.
    private let sentAt: UnsafeMutableBufferPointer<UInt64>

    /// - Parameter ring: how many messages are remembered, a power of two; 0 for a client that sends none.
    init(_ load: Load, ring: Int, started: Instant) {
        self.load = load
        self.started = started
        sentAt = .allocate(capacity: ring)
        sentAt.initialize(repeating: 0)
    }

    deinit { sentAt.deallocate() }

    /// Begins the handshake.
    /// - Parameter source: the local address; `nil`: any.
    func begin(from source: SocketAddress?) throws {
        var socket = try UDPSocket.open(load.peer.family)
        try? UDPSocket.setReceiveBuffer(1 << 20, on: socket)
        if let source { try UDPSocket.bindWithoutPort(socket, to: source) }
        try UDPSocket.connect(socket, to: load.peer)
        guard let local = try UDPSocket.localAddress(of: socket) else {
            throw SystemError("getsockname", "", errno: 97)
        }
        // Another one than was asked for where that is 0.0.0.0 or ::.
        let peer = try UDPSocket.peerAddress(of: socket) ?? load.peer
        let option = load.option
        let connection = try Connection.connect(
            over: socket.take(), FlowKey(peer: peer, local: local), context: load.context,
            serverName: option.server, resuming: load.session,
            connectionID: option.connectionID.map { length throws(OpenSSLError) in
                try ConnectionID.random(count: length)
            }, limits: load.limits, datapath: load.datapath, delegate: self)
        self.connection = connection
        _ = try connection.start()
    }

    /// Sends until `window` messages are under way, all in one batch.
    func fillWindow() {
        guard state == .open, underWay < load.window, let connection else { return }
        connection.batch {
            while self.underWay < self.load.window {
                guard self.send(at: Instant.now(), over: connection) else { return }
            }
        }
    }

    /// - Parameter time: from which its latency counts.
    /// - Returns: whether it could be sent.
    @discardableResult
    func send(at time: Instant) -> Bool {
        guard state == .open, let connection else { return false }
        return send(at: time, over: connection)
    }

    @inline(__always)
    private func send(at time: Instant, over connection: Connection) -> Bool {
        let message = load.message
        message.storeBytes(of: next, as: UInt32.self)
        sentAt[Int(next) & (sentAt.count - 1)] = time.nanoseconds
        do throws(EngineError) { try connection.send(UnsafeRawBufferPointer(message)) } catch {
            load.note(failure: "\(error)")
            return false
        }
        next &+= 1
        underWay += 1
        lastSent = time
        load.counts.sent += 1
        return true
    }

    /// Gives up what has had no answer for so long, and goes on.
    func giveUpLost(before time: Instant) {
        guard state == .open, underWay > 0, lastSent < time else { return }
        load.counts.lost += underWay
        underWay = 0
        if load.isEchoing { fillWindow() }
    }

    func close() { connection?.close() }

    // MARK: ConnectionDelegate

    func connectionEstablished(_ connection: Connection) {
        state = .open
        load.established(self, connection)
    }

    func connection(_ connection: Connection, received message: UnsafeRawBufferPointer) {
        guard load.isMeasuringMessages, message.count >= 4, !sentAt.isEmpty else { return }
        let number = message.loadUnaligned(as: UInt32.self)
        load.counts.received += 1
        load.counts.bytesReceived += message.count
        if underWay > 0 { underWay -= 1 }
        // A message that is older than the ring has no time any more.
        if next &- number <= UInt32(truncatingIfNeeded: sentAt.count) {
            let sent = Instant(nanoseconds: sentAt[Int(number) & (sentAt.count - 1)])
            load.latencies.record(Instant.now() - sent)
        }
        if load.isEchoing { fillWindow() }
    }

    func connectionHasRead(_ connection: Connection) {}

    func connection(
        _ connection: Connection, misdelivered datagram: UnsafeRawBufferPointer, from peer: SocketAddress
    ) {}

    func rehandshakeMaterial(for connection: Connection) -> RehandshakeMaterial? { nil }

    func connectionReplaced(_ connection: Connection) {}

    func connection(_ connection: Connection, rehandshakeFailed ending: Connection.Ending) {}

    func connectionClosed(_ connection: Connection, _ ending: Connection.Ending) {
        let former = state
        state = .ended
        load.ended(self, ending, former: former)
    }
}
