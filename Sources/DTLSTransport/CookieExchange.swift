import DTLSEngine
import LinuxSystem
import Primitives

/// The cookie exchange on a socket that is connected already: for one that arrives with no hello beside it.
///
/// The client's next ClientHello brings the cookie that the listener has given it, or gets a new one.
package final class CookieExchange: EventHandler {
    private var socket: FileDescriptor
    private let flow: FlowKey
    private var endpoint: Endpoint
    private let datapath: Datapath
    private var registration: EventLoop.Registration?
    /// Is given a datagram that another peer's socket should have got (rule 2).
    private let misdelivered: (UnsafeRawBufferPointer, SocketAddress) -> Void
    /// Gets the socket, the hello, and the datagrams that have come after it.
    private let completion: (consuming FileDescriptor, consuming VerifiedHello, [[UInt8]]) -> Void
    /// How many datagrams are kept after the hello.
    private static let maximumKept = 16

    package init(
        _ socket: consuming FileDescriptor, _ flow: FlowKey, cookies: CookieAuthority, datapath: Datapath,
        misdelivered: @escaping (UnsafeRawBufferPointer, SocketAddress) -> Void,
        completion: @escaping (consuming FileDescriptor, consuming VerifiedHello, [[UInt8]]) -> Void
    ) throws(SystemError) {
        self.socket = socket
        self.flow = flow
        endpoint = Endpoint(.cookies(cookies))
        self.datapath = datapath
        self.misdelivered = misdelivered
        self.completion = completion
        registration = try datapath.loop.add(self.socket, .readable, self)
    }

    package var descriptor: Int32 { socket.rawValue }

    /// Ends the exchange, and gives the socket away.
    package func take() -> FileDescriptor {
        if let registration { datapath.loop.remove(socket, registration) }
        registration = nil
        return socket.take()
    }

    package func ready(_ events: EventLoop.Events) {
        let batch = datapath.batch
        guard let count = try? batch.receive(from: socket) else { return }
        let minute = Minute.now()
        var verified: VerifiedHello?
        var kept: [[UInt8]] = []
        for index in 0..<count {
            guard let source = batch.source(index), source == flow.peer else {
                if let source = batch.source(index) { misdelivered(batch[index], source) }
                continue
            }
            if verified == nil {
                verified = verifiedHello(batch[index], minute)
            } else if kept.count < Self.maximumKept {
                kept.append([UInt8](batch[index]))
            }
        }
        if let hello = verified.take() { completion(take(), hello, kept) }
    }

    /// The datagram, if it is a hello with a valid cookie; a hello without one is answered.
    private func verifiedHello(_ datagram: UnsafeRawBufferPointer, _ minute: Minute) -> VerifiedHello? {
        switch endpoint.receive(datagram, flow, now: datapath.loop.now, minute: minute, datapath.buffers.fragments) {
        case .admit(.hello(let hello)):
            return hello
        case .reply(let request):
            // What the socket does not take is lost, as on the wire.
            request.withDatagram { _ = try? UDPSocket.send($0, over: socket) }
            return nil
        case .refuse(let alert):
            alert.withDatagram { _ = try? UDPSocket.send($0, over: socket) }
            return nil
        default:
            return nil
        }
    }
}
