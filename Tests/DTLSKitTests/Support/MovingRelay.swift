import DTLSKit
import LinuxSystem
import TestSupport
import Testing

/// What a NAT does: it passes datagrams on between a client and a server, which sees the address of one of two
/// sockets.
final class MovingRelay {
    private let front: DatagramSocket
    /// Where the client connects to.
    var address: SocketAddress { front.local }
    let sockets: [DatagramSocket]
    /// The index of the socket that the client's datagrams leave by.
    var present = 0
    /// How often each of the client's datagrams is passed on.
    var copies = 1
    /// How many datagrams the server has sent to each socket.
    private(set) var received = [0, 0]
    private let server: SocketAddress
    private var client: DatagramSocket.Sender?

    init(to server: SocketAddress) throws {
        let any = try #require(SocketAddress("127.0.0.1:0"))
        self.server = server
        front = try DatagramSocket(at: any)
        sockets = [try DatagramSocket(at: any), try DatagramSocket(at: any)]
    }

    /// Runs the thread's loop and passes datagrams on until `condition` holds, for some seconds at most.
    func run(until condition: () throws -> Bool) throws {
        for _ in 0..<20_000 {
            if try condition() { return }
            try iosched.poll(timeout: 1)
            while let (bytes, sender) = front.receiveAtOnce() {
                client = sender
                for _ in 0..<copies { sockets[present].send(bytes, to: server) }
            }
            for (number, socket) in sockets.enumerated() {
                while let (bytes, _) = socket.receiveAtOnce() {
                    received[number] += 1
                    if let client { front.send(bytes, to: client) }
                }
            }
        }
        Issue.record("it has not happened")
    }
}
