import DTLSEngine
import LinuxSystem
import Primitives

/// The cookie exchange on a socket that is connected already: for one that arrives with no hello beside it.
///
/// The client's next ClientHello brings the cookie that the listener has given it, or gets a new one.
package final class CookieExchange: EventHandler {
    private var socket: FileDescriptor
    private let local: SocketAddress
    private let peer: SocketAddress
    private let cookies: CookieAuthority
    private let datapath: Datapath
    private var registration: EventLoop.Registration?
    /// A datagram that another peer's socket should have got (rule 2).
    private let foreign: (UnsafeRawBufferPointer, SocketAddress) -> Void
    /// Gets the socket, the hello, and what has come after it.
    private let completion: (consuming FileDescriptor, consuming VerifiedHello, [[UInt8]]) -> Void
    /// Datagrams kept behind the hello.
    private static let maximumKept = 16

    package init(
        _ socket: consuming FileDescriptor, local: SocketAddress, peer: SocketAddress, cookies: CookieAuthority,
        datapath: Datapath, foreign: @escaping (UnsafeRawBufferPointer, SocketAddress) -> Void,
        completion: @escaping (consuming FileDescriptor, consuming VerifiedHello, [[UInt8]]) -> Void
    ) throws(SystemError) {
        self.socket = socket
        self.local = local
        self.peer = peer
        self.cookies = cookies
        self.datapath = datapath
        self.foreign = foreign
        self.completion = completion
        registration = try datapath.loop.add(self.socket, .readable, self)
    }

    package var descriptor: Int32 { socket.rawValue }

    /// Ends it, and gives the socket away.
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
            guard let source = batch.source(index), source == peer else {
                if let source = batch.source(index) { foreign(batch[index], source) }
                continue
            }
            if verified != nil {
                if kept.count < Self.maximumKept { kept.append([UInt8](batch[index])) }
            } else if case .hello(let hello) = ClientHello.parse(datapath.fragments.join(batch[index])) {
                verified = verify(hello, minute)
            }
        }
        if let hello = verified.take() { completion(take(), hello, kept) }
    }

    /// The proof that the hello's cookie is good; a hello without one is answered with a cookie.
    private func verify(_ hello: ClientHello, _ minute: Minute) -> VerifiedHello? {
        let key = FlowKey(peer: peer, local: local)
        if let verified = cookies.verify(hello, for: key, minute: minute) { return verified }
        withUnsafeTemporaryAllocation(byteCount: CookieAuthority.helloVerifyRequestSize, alignment: 8) {
            let count = cookies.writeHelloVerifyRequest(answering: hello, for: key, minute: minute, into: $0)
            guard count > 0 else { return }
            // What the socket does not take is lost, as on the wire.
            _ = try? UDPSocket.send(UnsafeRawBufferPointer(rebasing: $0[..<count]), over: socket)
        }
        return nil
    }
}
