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
    package func verify(_ hello: ClientHello, for flow: FlowKey, minute: Minute) -> VerifiedHello? {
        guard !hello.cookie.isEmpty else { return nil }
        return flow.peer.withBytes { peer in
            flow.local.withBytes { local in verify(hello, peer: peer, local: local, minute: minute) }
        }
    }

    /// Writes the HelloVerifyRequest for a hello of a flow.
    /// - Returns: its size in bytes, or 0 where none is to be sent.
    package func writeHelloVerifyRequest(
        answering hello: ClientHello, for flow: FlowKey, minute: Minute, into buffer: UnsafeMutableRawBufferPointer
    ) -> Int {
        flow.peer.withBytes { peer in
            flow.local.withBytes { local in
                writeHelloVerifyRequest(answering: hello, peer: peer, local: local, minute: minute, into: buffer)
            }
        }
    }
}
