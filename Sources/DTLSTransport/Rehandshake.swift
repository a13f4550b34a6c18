import DTLSEngine
import Primitives

/// What a server's connection needs to let its client do a new handshake in place of the association that it has lost.
package struct RehandshakeMaterial {
    /// What the new handshake is done with, beside the association that was there. `nil`: a valid cookie ends that one,
    /// which RFC 6347, section 4.2.8, allows too, and the client goes on as a new one.
    package let context: ServerContext?
    package let cookies: CookieAuthority
    /// Whether a hello with a valid cookie begins a connection of its own at the listener, and the association stays: its
    /// peer is known by a connection ID (RFC 9146), and may be at another address by now, while a NAT has given its port
    /// to the peer that says hello.
    package let staysBeside: Bool
    package let keys: Keys

    /// Where the keys of the new handshake's sessions come from.
    package enum Keys {
        /// From the context, as far as it has any.
        case ofContext
        /// From another process, which is to be asked (``Association/Disposition/wantsKeys``).
        case wanted
        /// From another process, which has given them for the hello that is received.
        case given(ResumptionKeys)
    }

    package init(
        context: ServerContext?, cookies: CookieAuthority, staysBeside: Bool = false, keys: Keys = .ofContext
    ) {
        self.keys = keys
        self.context = context
        self.cookies = cookies
        self.staysBeside = staysBeside
    }
}

/// What an association is told when its peer asks for a new handshake.
package struct RehandshakeOffer {
    let material: RehandshakeMaterial
    /// The present minute, which cookies go by.
    let minute: Minute
    /// Bytes of the largest IP packet that the kernel knows the path to take; `nil` where it does not say.
    let pathMTU: Int?

    package init(material: RehandshakeMaterial, minute: Minute, pathMTU: Int?) {
        self.material = material
        self.minute = minute
        self.pathMTU = pathMTU
    }
}

/// The handshake of a client that has lost its state and comes back on its old port, beside the association that it
/// lost: that one is replaced only when this handshake is done (RFC 6347, section 4.2.8). So a forged ClientHello,
/// which cannot bring a valid cookie, costs one small answer and changes nothing.
final class Rehandshake {
    /// What a datagram means that has reached an established association and is no application data.
    enum Verdict: ~Copyable {
        /// It is the established association's own.
        case forAssociation
        /// It has been answered, or is of no use to anybody.
        case ignored
        /// Its cookie is valid: a new handshake may begin.
        case begins(VerifiedHello)
        /// It belongs to the new handshake that has begun.
        case continues
    }

    let engine: Engine
    let random: ClientRandom
    let started: Instant
    /// The number of the question that the engine waits for an answer to; 0 where it waits for none.
    var openQuestion: UInt32 = 0

    init(engine: Engine, random: ClientRandom, started: Instant) {
        self.engine = engine
        self.random = random
        self.started = started
    }

    /// How often the peer of one association may begin a new handshake. Each costs as much as any handshake, and a
    /// listener's limits do not see it. A hello above the limit is dropped, and the peer sends it again.
    static let limit = Rate(perSecond: 1, burst: 5)

    /// Looks at a datagram.
    /// - Parameters:
    ///   - current: the random that the association began with; a late copy of its own hello begins nothing.
    ///   - pending: the random of the new handshake that has begun, if one has.
    ///   - offer: asked only for a hello of a handshake that has not begun; `nil`: the peer cannot do one here.
    ///   - answer: is given the HelloVerifyRequest, or the alert, to send.
    static func verdict(
        _ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, current: ClientRandom?, pending: ClientRandom?,
        offer: () -> RehandshakeOffer?, answer: (UnsafeRawBufferPointer) -> Void
    ) -> Verdict {
        switch ClientHello.parse(datagram) {
        case .malformed: return .ignored
        case .notClientHello: return pending != nil && isOfHandshake(datagram) ? .continues : .forAssociation
        case .hello(let hello):
            let random = hello.randomValue
            if random == pending, !hello.cookie.isEmpty { return .continues }
            if random == current { return .forAssociation }
            guard let offer = offer() else { return .ignored }
            if hello.offersNoKnownVersion {
                ProtocolVersionAlert(answering: hello).withDatagram(answer)
                return .ignored
            }
            let cookies = offer.material.cookies
            if let verified = cookies.verify(hello, for: flow, minute: offer.minute) { return .begins(verified) }
            HelloVerifyRequest(hello: hello, flow: flow, cookies: cookies, minute: offer.minute).withDatagram(answer)
            return .ignored
        }
    }

    /// Handshake and ChangeCipherSpec records, of whatever epoch, and all of epoch 0: with a new handshake under way
    /// they are more likely its own than the lost association's.
    private static func isOfHandshake(_ datagram: UnsafeRawBufferPointer) -> Bool {
        guard let record = Record(of: datagram) else { return false }
        return record.contentType == .handshake || record.contentType == .changeCipherSpec || !record.isProtected
    }
}
