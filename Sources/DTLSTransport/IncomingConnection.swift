import DTLSEngine
import LinuxSystem
import Primitives

/// The two addresses of a UDP flow: those between which all datagrams of one connection travel.
package struct FlowKey: Hashable, Sendable {
    package let peer: SocketAddress
    package let local: SocketAddress

    package init(peer: SocketAddress, local: SocketAddress) {
        self.peer = peer
        self.local = local
    }

}

extension CookieAuthority {
    /// The proof that a hello brings a cookie which was made for it and its flow; `nil` for every other hello.
    func verify(_ hello: ClientHello, for flow: FlowKey, minute: Minute) -> VerifiedHello? {
        guard !hello.cookie.isEmpty else { return nil }
        return flow.peer.withBytes { peer in
            flow.local.withBytes { local in verify(hello, peer: peer, local: local, minute: minute) }
        }
    }
}

/// A client whose address is proven, or a sender of plain datagrams, with a socket of its own.
package struct IncomingConnection: ~Copyable {
    /// Connected to the peer, and bound to the address that the peer has used.
    package var socket: FileDescriptor
    package let flow: FlowKey
    /// The ClientHello with the valid cookie; `nil` for a sender of plain datagrams.
    package var hello: VerifiedHello?
    /// The datagrams that the peer has sent after its hello; all that it has sent, where there is none.
    package let datagrams: [[UInt8]]

    /// The hello as it is handed over to another process.
    package var helloHandover: [UInt8]? {
        switch hello {
        case .some(let hello): hello.handover
        case nil: nil
        }
    }

    /// Whether it is a client with a hello.
    package var isOfClient: Bool {
        switch hello {
        case .some: true
        case nil: false
        }
    }

    /// The name of the session that the client wants to resume.
    package var offeredSession: SessionName? {
        switch hello {
        case .some(let hello): hello.offeredSession
        case nil: nil
        }
    }

    /// How many datagrams go along with a new connection: the fragments of a hello, for example.
    private static let maximumForwarded = 15
    /// All of them together, so that a hand-over stays well below ``UnixChannel/maximumMessageSize``.
    private static let maximumForwardedBytes = 32_768

    /// Reads the socket empty. Rule 1: between bind() and connect() it took every datagram of its address. Those of its
    /// own peer go with it.
    /// - Parameters:
    ///   - misdelivered: is given the datagrams of other peers.
    init(
        _ connected: consuming FileDescriptor, _ flow: FlowKey, _ opening: consuming Endpoint.Opening,
        through batch: ReceiveBatch, misdelivered: (UnsafeRawBufferPointer, FlowKey) -> Void
    ) {
        switch consume opening {
        case .hello(let verified):
            self.init(connected, flow, after: [], through: batch, misdelivered: misdelivered)
            hello = .some(verified)
        case .plain(let datagram):
            self.init(connected, flow, after: [[UInt8](datagram)], through: batch, misdelivered: misdelivered)
        }
    }

    /// Reads the socket of a connection that has done its handshake empty.
    /// - Parameter former: datagrams of the peer that go before what the socket yields.
    init(
        _ connected: consuming FileDescriptor, _ flow: FlowKey, after former: [[UInt8]], through batch: ReceiveBatch,
        misdelivered: (UnsafeRawBufferPointer, FlowKey) -> Void
    ) {
        hello = nil
        var datagrams = former
        var room = Self.maximumForwardedBytes
        batch.receiveAll(from: connected) { index in
            guard let source = batch.source(index) else { return }
            if source != flow.peer {
                misdelivered(batch[index], FlowKey(peer: source, local: flow.local))
            } else if datagrams.count < Self.maximumForwarded, batch[index].count <= room {
                room -= batch[index].count
                datagrams.append([UInt8](batch[index]))
            }
        }
        socket = connected
        self.flow = flow
        self.datagrams = datagrams
    }
}

extension UDPSocket {
    /// A new connection's own socket: bound to the address that the peer has used, beside the listener's socket, and
    /// connected to the peer.
    /// - Parameter isOwnedByAnother: see ``open(on:beside:isOwnedByAnother:options:interface:)``.
    static func openConnected(
        _ flow: FlowKey, beside listener: borrowing FileDescriptor, isOwnedByAnother: Bool, options: SocketOptions
    ) throws(SystemError) -> FileDescriptor {
        let connected = try open(
            on: flow.local, beside: listener, isOwnedByAnother: isOwnedByAnother, options: options)
        try connect(connected, to: flow.peer)
        return connected
    }

    /// A socket that shares a listener's port.
    /// - Parameters:
    ///   - isOwnedByAnother: whether the listener's socket was made by another user (systemd's root), so that
    ///     SO_REUSEPORT alone does not let this process bind its address again.
    ///   - interface: for a decoy: the index of the only one that it is for.
    static func open(
        on local: SocketAddress, beside listener: borrowing FileDescriptor, isOwnedByAnother: Bool,
        options: SocketOptions, interface: UInt32? = nil
    ) throws(SystemError) -> FileDescriptor {
        let socket = try open(local.family, options: options)
        try shareAddress(of: socket)
        if let interface {
            try bindToInterface(interface, socket)
            // Before the bind: the first datagram comes right after it.
            try reportDestinations(of: socket, local.family)
        }
        if isOwnedByAnother {
            try bind(socket, to: local, besideAnothers: listener)
        } else {
            try bind(socket, to: local)
        }
        return socket
    }

    /// SO_REUSEADDR on both sockets, for the moment of the bind alone: while a socket has it, any local user can bind
    /// its port too. Connections share the port among themselves by SO_REUSEPORT, being of one user.
    private static func bind(
        _ socket: borrowing FileDescriptor, to local: SocketAddress, besideAnothers listener: borrowing FileDescriptor
    ) throws(SystemError) {
        try setReuseAddress(true, of: listener)
        defer { try? setReuseAddress(false, of: listener) }
        try setReuseAddress(true, of: socket)
        try bind(socket, to: local)
        try setReuseAddress(false, of: socket)
    }
}
