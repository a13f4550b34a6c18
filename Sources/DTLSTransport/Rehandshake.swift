import DTLSEngine
import LinuxSystem
import Primitives

/// What a server's connection needs to let its client begin anew.
package struct RehandshakeMaterial {
    /// What its new handshake is done with, beside the connection that it lost. `nil`: a good cookie ends that one,
    /// which RFC 6347, section 4.2.8, allows too, and the client goes on as a newcomer.
    package let context: ServerContext?
    package let cookies: CookieAuthority

    package init(context: ServerContext?, cookies: CookieAuthority) {
        self.context = context
        self.cookies = cookies
    }
}

/// The handshake of a client that has lost its state and comes back on its old port, beside the connection that it
/// lost: that one is replaced only when this handshake is done (RFC 6347, section 4.2.8). So a forged ClientHello,
/// which cannot bring a good cookie, costs one small answer and changes nothing.
struct Rehandshake {
    /// What a datagram that reached an established connection means for its succession.
    enum Verdict: ~Copyable {
        /// It is the established connection's own.
        case forConnection
        /// It has been answered, or is not worth anything.
        case done
        /// Its cookie is good: a handshake may begin.
        case begins(VerifiedHello)
        /// It belongs to the handshake that has begun.
        case continues
    }

    let engine: Engine
    let random: ClientRandom
    let started: Instant

    /// Looks at a datagram that is not application data.
    /// - Parameters:
    ///   - current: the random that the established connection began with; a late copy of its own hello is no restart.
    ///   - successor: the random of the handshake that has begun, if one has.
    ///   - answer: is given the HelloVerifyRequest to send.
    static func verdict(
        _ datagram: UnsafeRawBufferPointer, _ key: FlowKey, current: ClientRandom?, successor: ClientRandom?,
        material: () -> RehandshakeMaterial?, answer: (UnsafeRawBufferPointer) -> Void
    ) -> Verdict {
        switch ClientHello.parse(datagram) {
        case .malformed: return .done
        case .notClientHello: return successor != nil && isHandshaking(datagram) ? .continues : .forConnection
        case .hello(let hello):
            let random = hello.randomValue
            if random == successor, !hello.cookie.isEmpty { return .continues }
            if random == current { return .forConnection }
            guard let material = material() else { return .done }
            let minute = Minute.now()
            if let verified = material.cookies.verify(hello, for: key, minute: minute) { return .begins(verified) }
            withUnsafeTemporaryAllocation(byteCount: CookieAuthority.helloVerifyRequestSize, alignment: 8) { buffer in
                let size = material.cookies.writeHelloVerifyRequest(
                    answering: hello, for: key, minute: minute, into: buffer)
                if size > 0 { answer(UnsafeRawBufferPointer(rebasing: buffer[..<size])) }
            }
            return .done
        }
    }

    /// Handshake and ChangeCipherSpec records, of whatever epoch, and all of epoch 0: with a handshake under way they
    /// are more likely its own than the lost connection's.
    private static func isHandshaking(_ datagram: UnsafeRawBufferPointer) -> Bool {
        guard datagram.count > 4 else { return false }
        return datagram[0] == 22 || datagram[0] == 20 || datagram[3] == 0 && datagram[4] == 0
    }
}
