import DTLSEngine
import LinuxSystem

/// The two addresses of a UDP flow: those between which all datagrams of one connection travel.
package struct FlowKey: Hashable, Sendable {
    package let peer: SocketAddress
    package let local: SocketAddress

    package init(peer: SocketAddress, local: SocketAddress) {
        self.peer = peer
        self.local = local
    }

    /// Whether the hello brings a cookie that was made for these two addresses.
    func proves(_ hello: ClientHello, to cookies: CookieAuthority, minute: UInt64) -> Bool {
        guard !hello.cookie.isEmpty else { return false }
        return peer.withBytes { peer in
            local.withBytes { local in cookies.verify(hello, peer: peer, local: local, minute: minute) }
        }
    }

    /// Writes the HelloVerifyRequest for a hello between these two addresses; returns its size, 0 for none.
    func writeAnswer(
        to hello: ClientHello, by cookies: CookieAuthority, minute: UInt64,
        into buffer: UnsafeMutableRawBufferPointer
    ) -> Int {
        peer.withBytes { peer in
            local.withBytes { local in
                cookies.writeHelloVerifyRequest(
                    answering: hello, peer: peer, local: local, minute: minute, into: buffer)
            }
        }
    }
}
