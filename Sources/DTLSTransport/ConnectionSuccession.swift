import DTLSEngine
import LinuxSystem
import Primitives

/// The peer begins anew.
extension Connection {
    /// One comparison for application data, which is nearly all that comes.
    @inline(__always)
    func concernsSuccession(_ datagram: UnsafeRawBufferPointer) -> Bool {
        guard let type = datagram.first, type != Self.applicationData else { return false }
        return random != nil && (successor != nil || ClientHello.couldBePart(of: datagram))
    }

    /// RFC 5246, section 6.2.1.
    private static let applicationData: UInt8 = 23

    /// Whether it is a hello of another handshake than the one that this connection is in.
    func beginsAnew(_ datagram: UnsafeRawBufferPointer) -> Bool {
        guard random != nil, case .hello(let hello) = ClientHello.parse(datapath.fragments.join(datagram)) else {
            return false
        }
        return hello.randomValue != random
    }

    /// A hello of another handshake. With a good cookie, the client has given this one up and begins anew, as a
    /// newcomer: there is no established connection to be kept beside it. Nobody else can bring one.
    func takeInPlaceOfHandshake(_ datagram: UnsafeRawBufferPointer) {
        datapath.claim(self)
        guard let material = delegate?.restartMaterial(for: self) else {
            // The listener is to ask for a cookie; an alert in plain text before the hello says as much as one would.
            guard engine.holdsAlert else { return }
            believeAlert()
            return giveBack(datagram, from: peer)
        }
        let verdict = Rehandshake.verdict(
            datapath.fragments.join(datagram), FlowKey(peer: peer, local: local), current: random, successor: nil,
            material: { material }, answer: { datapath.bio.outbox.append($0) })
        switch verdict {
        case .begins: break
        default: return
        }
        if engine.holdsAlert { believeAlert() } else { end(.restarted) }
        giveBack(datagram, from: peer)
    }

    func believeAlert() {
        datapath.claim(self)
        do throws(EngineError) { try engine.deliverHeldAlert() } catch { end(.failed(error)) }
    }

    func takeForSuccession(_ datagram: UnsafeRawBufferPointer) {
        let datagram = datapath.fragments.join(datagram)
        var material: RehandshakeMaterial?
        let verdict = Rehandshake.verdict(
            datagram, FlowKey(peer: peer, local: local), current: random, successor: successor?.random,
            material: {
                material = delegate?.restartMaterial(for: self)
                return material
            },
            answer: { datapath.bio.outbox.append($0) })
        switch consume verdict {
        case .done: break
        case .forConnection:
            engine.deliver(datagram)
            advance()
        case .begins(let hello):
            // The peer has left the handshake that it had begun before: that one's flight must not be sent again.
            successor = nil
            guard let material else { return }
            guard let context = material.context else {
                end(.restarted)
                return giveBack(datagram, from: peer)
            }
            if restarts.take(now: datapath.loop.now) { beginAnew(hello, context) }
        case .continues:
            successor?.engine.deliver(datagram)
            advanceSuccessor()
        }
    }

    private func beginAnew(_ hello: consuming VerifiedHello, _ context: ServerContext) {
        let random = hello.random
        do throws(OpenSSLError) {
            let engine = try Self.makeEngine(context, hello, local: local, limits: limits, datapath: datapath)
            fitToPath(engine)
            successor = Rehandshake(engine: engine, random: random, started: datapath.loop.now)
            advanceSuccessor()
        } catch {
            delegate?.connection(self, refusedRestart: .failed(.handshake(error, verification: nil)))
        }
    }

    private func advanceSuccessor() {
        guard let successor else { return }
        do throws(EngineError) {
            // Before it is established, an engine has nothing else to say.
            if case .established = try successor.engine.next() { succeed(successor) }
        } catch {
            refuseSuccessor(.failed(error))
        }
    }

    private func refuseSuccessor(_ ending: Ending) {
        successor = nil
        delegate?.connection(self, refusedRestart: ending)
    }

    /// Whether messages are dropped, since the peer, which begins anew, could read none. GnuTLS (3.7.9) waits for 50 ms
    /// after each such datagram: among some hundred a second, a handshake took 4 to 11 seconds.
    /// For a second only: the hello with the good cookie may be a copy of an earlier one, sent by somebody else.
    var isQuietForSuccessor: Bool {
        guard let successor else { return false }
        return datapath.loop.now < successor.started + .milliseconds(1_000)
    }

    /// Looks after the times of the handshake that the peer has begun anew.
    func lookAfterSuccessor(now: Instant) {
        guard let successor else { return }
        if now >= successor.started + limits.handshakeTimeout {
            return refuseSuccessor(.handshakeTimedOut)
        }
        datapath.claim(self)
        do throws(EngineError) { try successor.engine.handleTimeout() } catch { refuseSuccessor(.failed(error)) }
        flush()
    }

    private func succeed(_ successor: Rehandshake) {
        // What the lost life has said is its own: it must not be taken for the new one's.
        endBatch()
        delegate?.connectionRestarts(self)
        self.successor = nil
        engine = successor.engine
        random = successor.random
        started = successor.started
        lastReceived = datapath.loop.now
        counters = Counters()
        // The new cipher may add more to a message.
        knownToFit = Self.alwaysFits
        handshakeDuration = Instant.now() - started
        delegate?.connectionEstablished(self)
        advance()
    }
}
