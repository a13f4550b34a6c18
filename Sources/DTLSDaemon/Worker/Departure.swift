import DTLSTransport
import LinuxSystem
import Primitives

/// How a worker gives connections up to others: to the process that goes on with its slots when it has ended, or to
/// other workers, with their sockets.
final class Departure {
    private unowned let worker: Worker
    private let loop: EventLoop
    private var state = State.serving
    private lazy var timer = CallbackTimer { [unowned self] _ in step() }

    private enum State {
        case serving
        /// The connections are left as soon as the last handshake has ended, or at this time.
        case finishingHandshakes(until: Instant)
        /// So many connections are still to be released.
        case releasing(UInt32)
        /// So many connections without a socket are still to be released, after those with one. Of all: those with a
        /// socket whose handshake ends meanwhile are released, too.
        case releasingParked(Int, isAll: Bool)
        /// All are released, and those whose handshake ends from now on are, too.
        case released
        case left
    }

    /// Connections that are released in one turn.
    private static let connectionsPerTurn = 128
    /// How long programs get to end by themselves when their connections are left.
    private static let programGrace = Duration.milliseconds(500)

    init(_ worker: Worker) {
        self.worker = worker
        loop = worker.datapath.loop
    }

    private func step() {
        switch state {
        case .finishingHandshakes: leaveNow()
        case .releasing(let count): release(some: count)
        case .releasingParked(let count, let isAll): releaseParked(count, isAll)
        case .released: releaseLate()
        case .serving, .left: break
        }
    }

    /// A handshake has succeeded or failed.
    func handshakeEnded() {
        switch state {
        case .finishingHandshakes where !hasHandshakes, .releasingParked(_, isAll: true), .released:
            loop.timers.arm(timer, at: loop.now)
        default: break
        }
    }

    private var hasHandshakes: Bool { worker.connections.values.contains { !$0.isEstablished } }

    /// Whether the worker gives up what it has: a connection that it gets now was released, and no other took it.
    var isReleasing: Bool {
        switch state {
        case .releasing, .releasingParked, .released: true
        case .serving, .finishingHandshakes, .left: false
        }
    }

    // MARK: Leaving

    /// Leaves all connections in their slots as they are, and ends the process. Handshakes may end until `deadline`.
    func leave(by deadline: Instant) {
        if case .left = state { return }
        state = .finishingHandshakes(until: deadline)
        guard hasHandshakes, deadline > loop.now else { return leaveNow() }
        loop.timers.arm(timer, at: deadline)
    }

    private func leaveNow() {
        state = .left
        for served in Array(worker.connections.values) {
            served.readAll()
            guard served.isMovable else {
                served.close()
                continue
            }
            worker.forget(served)
            served.leave { _, _ in }
        }
        for tunnel in Array(worker.tunnels.values) { tunnel.leave { _, _ in } }
        worker.end(by: loop.now + Self.programGrace)
    }

    // MARK: Releasing

    /// Gives up to `count` connections to other workers; `UInt32.max`: all, also those whose handshake still goes on.
    func release(_ count: UInt32) {
        if case .left = state { return }
        for served in worker.connections.values { served.hasComeBack = false }
        state = .releasing(count)
        step()
    }

    private func release(some count: UInt32) {
        let isAll = count == .max
        var left = Int(count)
        var done = 0
        for served in Array(worker.connections.values) where left > 0 && done < Self.connectionsPerTurn {
            // Its program would be lost.
            guard served.isMovable, !served.hasComeBack, isAll || served.service.parking != .never else { continue }
            release(served)
            left -= 1
            done += 1
        }
        for tunnel in Array(worker.tunnels.values) where left > 0 && done < Self.connectionsPerTurn && tunnel.isMovable
        {
            release(tunnel)
            left -= 1
            done += 1
        }
        if left > 0, done == Self.connectionsPerTurn {
            state = .releasing(isAll ? .max : UInt32(clamping: left))
            return loop.timers.arm(timer, at: loop.now)
        }
        worker.parking.beginRelease()
        releaseParked(left, isAll)
    }

    private func releaseParked(_ count: Int, _ isAll: Bool) {
        if isAll { releaseLate() }
        switch worker.parking.release(upTo: count) {
        case .busy:
            state = .releasingParked(count, isAll: isAll)
            loop.timers.arm(timer, at: loop.now + .milliseconds(1))
        case .some(let ids):
            if !ids.isEmpty { worker.send(MessageFromWorker.encode(released: ids, hadSocket: false)) }
            state = .releasingParked(isAll ? count : count - ids.count, isAll: isAll)
            loop.timers.arm(timer, at: loop.now)
        case .done:
            worker.send(MessageFromWorker.releaseDoneBytes)
            state = isAll ? .released : .serving
        }
    }

    private func releaseLate() {
        for served in Array(worker.connections.values) where served.isMovable && !served.hasComeBack { release(served) }
    }

    private func release(_ served: ServedConnection) {
        worker.forget(served)
        served.leave { send($0, $1, of: served.id) }
    }

    private func release(_ tunnel: ClientTunnel) { tunnel.leave { send($0, $1, of: tunnel.id) } }

    private func send(
        _ socket: consuming FileDescriptor, _ far: consuming FileDescriptor, of id: ConnectionNumber
    ) {
        worker.parking.forget(id)
        if far.isOpen { worker.send(MessageFromWorker.encode(farSocketOf: id), far) }
        worker.send(MessageFromWorker.encode(released: [id], hadSocket: socket.isOpen), socket)
    }
}
