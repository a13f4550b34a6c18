import CLinux
import DTLSKit
import Glibc
import LinuxSystem
import Primitives

/// Plain datagrams of this machine, carried to a DTLS server: for programs that speak UDP and no DTLS. Each local sender
/// has a connection of its own, as in client mode of dtlsd.
final class Tunnel {
    /// A local address that has sent something.
    private final class Sender {
        let address: SocketAddress
        var connection: DtlsConnection?
        var isConnected = false
        /// Datagrams that wait for the handshake.
        var waiting: [[UInt8]] = []
        var lastUsed = Instant.now()

        init(_ address: SocketAddress) { self.address = address }
    }

    private let dialer: Dialer
    private let server: DtlsAddress
    private let isQuiet: Bool
    private let socket: FileDescriptor
    private let batch = ReceiveBatch(capacity: 16)
    private var senders: [SocketAddress: Sender] = [:]
    /// The connection that was made to see who the server is; the first sender gets it.
    private var spare: DtlsConnection?
    private var hasComplainedOfRoom = false

    private static let senderLimit = 1_000
    private static let waitingLimit = 64
    /// A sender that says nothing for so long is given up, as programs that end say nothing.
    private static let idleTimeout = Duration.seconds(300)

    /// - Parameter port: of 127.0.0.1; 0: any.
    init(_ connection: DtlsConnection, _ dialer: Dialer, port: UInt16, isQuiet: Bool) throws(TalkingFailure) {
        spare = connection
        server = connection.remote
        self.dialer = dialer
        self.isQuiet = isQuiet
        do throws(SystemError) {
            guard let address = SocketAddress(host: "127.0.0.1", port: port) else {
                throw SystemError("bind", "127.0.0.1", errno: EINVAL)
            }
            socket = try UDPSocket.open(address.family)
            try UDPSocket.bind(socket, to: address)
        } catch {
            throw .local("\(error)")
        }
    }

    func run(until isCancelled: () -> Bool) throws(TalkingFailure) {
        let local: SocketAddress?
        do throws(SystemError) { local = try UDPSocket.localAddress(of: socket) } catch { throw .local("\(error)") }
        Standard.error("Datagrams to \(local?.description ?? "the port") go to \(server); Ctrl-C ends it.\n")
        do throws(DtlsError) {
            try iosched.add(
                iosched.event(.read, socket.rawValue) { [unowned self] in
                    receive()
                    return true
                })
            try iosched.timer(after: 5_000, repeats: true) { [weak self] in self?.closeIdle() }
            while !isCancelled() { try iosched.poll() }
        } catch {
            throw .local(error)
        }
        for sender in senders.values { sender.connection?.close() }
    }

    private func receive() {
        batch.receiveAll(from: socket, batches: 4) { index in
            guard let source = batch.source(index), !batch[index].isEmpty else { return }
            take(Array(batch[index]), from: source)
        }
    }

    private func take(_ datagram: [UInt8], from source: SocketAddress) {
        guard let sender = senders[source] ?? begin(source) else { return }
        sender.lastUsed = Instant.now()
        guard sender.isConnected, let connection = sender.connection else {
            if sender.waiting.count < Self.waitingLimit { sender.waiting.append(datagram) }
            return
        }
        send(datagram, over: connection, for: sender)
    }

    private func send(_ datagram: [UInt8], over connection: DtlsConnection, for sender: Sender) {
        do throws(DtlsError) {
            try connection.send(datagram, timeout: 0)
        } catch {
            switch error {
            // As UDP would: it is lost.
            case .timedOut: break
            case .invalid, .system(_, _, EMSGSIZE):
                say("a datagram of \(sender.address) is lost: \(error)")
            default: end(sender, error)
            }
        }
    }

    private func begin(_ source: SocketAddress) -> Sender? {
        guard senders.count < Self.senderLimit else {
            if !hasComplainedOfRoom { say("there are \(Self.senderLimit) senders; further ones are not served") }
            hasComplainedOfRoom = true
            return nil
        }
        let sender = Sender(source)
        senders[source] = sender
        if let connection = spare {
            spare = nil
            if connection.isEstablished {
                connected(sender, connection)
                return sender
            }
        }
        do throws(DtlsError) {
            sender.connection = try Dtls.createClient(dialer.option, server) { [weak self, weak sender] result, _ in
                guard let self, let sender else { return }
                switch result {
                case .success(let connection): connected(sender, connection)
                case .failure(let error): end(sender, error)
                }
            }
        } catch {
            end(sender, error)
        }
        return sender
    }

    private func connected(_ sender: Sender, _ connection: DtlsConnection) {
        sender.connection = connection
        sender.isConnected = true
        say("\(sender.address) is connected, from \((try? connection.sockName())?.description ?? "an unknown address")")
        do throws(DtlsError) {
            try iosched.add(
                iosched.event(.read, connection.sockFd) { [weak self, weak sender] in
                    guard let self, let sender else { return false }
                    return answer(sender)
                })
        } catch {
            return end(sender, error)
        }
        let waiting = sender.waiting
        sender.waiting = []
        for datagram in waiting { send(datagram, over: connection, for: sender) }
    }

    /// - Returns: whether there may be more.
    private func answer(_ sender: Sender) -> Bool {
        guard let connection = sender.connection else { return false }
        var buffer = [UInt8](repeating: 0, count: 16_384)
        do throws(DtlsError) {
            while true {
                let count = try connection.recv(&buffer, timeout: 0)
                if count == 0 { return true }
                sender.lastUsed = Instant.now()
                var name = sockaddr_storage()
                let length = withUnsafeMutablePointer(to: &name) { sender.address.write(to: $0) }
                withUnsafePointer(to: &name) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { name in
                        buffer.withUnsafeBytes {
                            _ = sendto(socket.rawValue, $0.baseAddress, count, Int32(MSG_DONTWAIT), name, length)
                        }
                    }
                }
            }
        } catch {
            end(sender, error)
            return false
        }
    }

    /// The next datagram of the same sender begins another connection.
    private func end(_ sender: Sender, _ error: DtlsError) {
        guard senders.removeValue(forKey: sender.address) != nil else { return }
        sender.connection?.close()
        say("\(sender.address) is not connected any more: \(error)")
    }

    private func closeIdle() {
        let now = Instant.now()
        for sender in senders.values where now - sender.lastUsed >= Self.idleTimeout {
            senders[sender.address] = nil
            sender.connection?.close()
            say("\(sender.address) was silent for \(Self.idleTimeout.seconds) s and is forgotten")
        }
    }

    private func say(_ text: String) { if !isQuiet { Standard.error("dtls: \(TerminalText.printable(text))\n") } }
}
