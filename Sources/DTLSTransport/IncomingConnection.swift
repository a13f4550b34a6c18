import DTLSEngine
import LinuxSystem

/// A client whose address is proven, or a plain listener's sender, with a socket of its own.
package struct IncomingConnection: ~Copyable {
    /// Connected to the peer, and bound to the address that the peer has used.
    package var socket: FileDescriptor
    package let key: FlowKey
    /// The ClientHello with the good cookie; `nil` for a plain listener's sender.
    package var hello: VerifiedHello?
    /// What the peer has sent after its hello; of a plain listener's sender, all that it has sent.
    package let datagrams: [[UInt8]]

    /// The hello as it is handed over to another process.
    package var helloHandover: [UInt8]? {
        switch hello {
        case .some(let hello): hello.handover
        case nil: nil
        }
    }

    /// Datagrams that go along with a newcomer: a hello, and its fragments.
    private static let maximumForwarded = 16
    /// All of them together, so that a hand-over stays well below ``UnixChannel/maximumMessageSize``.
    private static let maximumForwardedBytes = 32_768

    /// Rule 1: between bind() and connect() the new socket takes every datagram of its address. The peer's own go with
    /// it, the others' go back.
    /// - Returns: what the peer has sent since its first datagram.
    static func readEmpty(
        _ connected: borrowing FileDescriptor, _ key: FlowKey, through batch: ReceiveBatch,
        putBack: (UnsafeRawBufferPointer, FlowKey) -> Void
    ) -> [[UInt8]] {
        var datagrams: [[UInt8]] = []
        var room = maximumForwardedBytes
        batch.receiveAll(from: connected) { index in
            guard let source = batch.source(index) else { return }
            if source != key.peer {
                putBack(batch[index], FlowKey(peer: source, local: key.local))
            } else if datagrams.count < maximumForwarded - 1, batch[index].count <= room {
                room -= batch[index].count
                datagrams.append([UInt8](batch[index]))
            }
        }
        return datagrams
    }
}

extension UDPSocket {
    /// A newcomer's own socket: bound to the address that it has used, beside the listener's socket, and connected to
    /// it.
    /// - Parameter isOwnedByAnother: see ``open(on:beside:isOwnedByAnother:options:interface:)``.
    static func newcomer(
        _ key: FlowKey, beside listener: borrowing FileDescriptor, isOwnedByAnother: Bool, options: SocketOptions
    ) throws(SystemError) -> FileDescriptor {
        let connected = try open(
            on: key.local, beside: listener, isOwnedByAnother: isOwnedByAnother, options: options)
        try connect(connected, to: key.peer)
        return connected
    }

    /// A socket that shares a listener's port.
    /// - Parameters:
    ///   - isOwnedByAnother: whether the listener's socket was made by another user (systemd's root), so that
    ///     SO_REUSEPORT alone does not let this process bind its address again.
    ///   - interface: for a shield: the index of the only one that it is for.
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
