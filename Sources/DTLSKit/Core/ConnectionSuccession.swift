import DTLSEngine
import LinuxSystem

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

    /// Whether it is the first hello of another handshake than the one that this connection is in.
    func beginsAnew(_ datagram: UnsafeRawBufferPointer) -> Bool {
        guard random != nil, case .hello(let hello) = ClientHello.parse(datagram) else { return false }
        return hello.randomValue != random
    }

    /// An alert in plain text, and then a new hello: the client has given this handshake up.
    func believeAlert() {
        datapath.claim(self)
        do throws(EngineError) { try engine.believeAlert() } catch { end(.failed(error)) }
    }

    func takeForSuccession(_ datagram: UnsafeRawBufferPointer) {
        let datagram = datapath.fragments.join(datagram)
        var material: RestartMaterial?
        let verdict = Successor.verdict(
            datagram, Newcomer.Key(peer: peer, local: local), current: random, successor: successor?.random,
            material: {
                material = delegate?.restartMaterial(for: self)
                return material
            },
            answer: { datapath.bio.outbox.append($0) })
        switch verdict {
        case .done: break
        case .forConnection:
            engine.deliver(datagram)
            advance()
        case .begins(let random):
            // The peer has left the handshake that it had begun before: that one's flight must not be sent again.
            successor = nil
            guard let material, restarts.take(now: datapath.loop.now),
                let engine = try? Self.makeEngine(
                    material.context, datagram, local: local, limits: limits, datapath: datapath)
            else { return }
            fitToPath(engine)
            successor = Successor(engine: engine, random: random, started: datapath.loop.now)
            advanceSuccessor()
        case .continues:
            successor?.engine.deliver(datagram)
            advanceSuccessor()
        }
    }

    private func advanceSuccessor() {
        guard let successor else { return }
        do throws(EngineError) {
            // Before it is established, an engine has nothing else to say.
            if case .established = try successor.engine.next() { succeed(successor) }
        } catch {
            self.successor = nil
        }
    }

    private func succeed(_ successor: Successor) {
        // What the lost life has said is its own: it must not be taken for the new one's.
        endBatch()
        delegate?.connectionRestarts(self)
        self.successor = nil
        engine = successor.engine
        random = successor.random
        started = successor.started
        lastReceived = datapath.loop.now
        counters = Counters()
        handshakeDuration = Clock.monotonic() &- started
        delegate?.connectionEstablished(self)
        advance()
    }
}
