import DTLSTransport
import LinuxSystem
import Logging

/// Receives the listeners' newcomers: finds out whether there is a place for each, gives it to a worker, and logs why
/// it was refused.
final class ConnectionDispatcher {
    private let admission = Admission()
    private var refusals: RefusalLog
    private let loop: EventLoop
    private weak var listeners: ListenerSet?
    private weak var pool: WorkerPool?
    /// Of the listening tables of the configuration in force, by their numbers.
    private var names: [String] = []

    init(loop: EventLoop) {
        self.loop = loop
        refusals = RefusalLog(now: loop.now)
    }

    /// To be called once, before any listener is open.
    func connect(_ listeners: ListenerSet?, _ pool: WorkerPool?) {
        self.listeners = listeners
        self.pool = pool
    }

    /// Puts a configuration's limits in force, for newcomers.
    func apply(_ configuration: Configuration) {
        names = configuration.listeningTables.map(\.name)
        admission.apply(configuration, present: pool?.admitted ?? [])
    }

    /// Handshakes in progress, of all services.
    var handshakes: Int { admission.handshakes }

    /// Newcomers that a worker has turned away, which does not say who they were.
    func log(_ refused: Tally<Refusal>, by worker: Int) {
        for refusal in Refusal.allCases where refused[refusal] > 0 {
            refusals.log(
                refusal, as: refusal.event, now: loop.now,
                "worker \(worker) turns newcomers away (\(refused[refusal]))"
                    + (refusal == .descriptors ? " for want of descriptors" : "") + ": they have to try again",
                ["WORKER": "\(worker)"])
        }
    }

    /// Reports refusals that were held back, where their time has come.
    func flushLog(now: UInt64) { refusals.flush(now: now) }

    /// Reports all refusals that are still held back.
    func finishLog() { refusals.finish() }

    /// The listener's number among the configuration's `listeningTables`, when a worker has room for a newcomer.
    private func numberIfRoom(_ listener: any DatagramListener, _ peer: SocketAddress) -> UInt16? {
        guard let number = listeners?.service(of: listener), pool?.hasRoom == true else {
            refusals.log(
                .full, now: loop.now, "all workers are full: a newcomer has to try again", fields(peer, listener))
            return nil
        }
        return number
    }

    private func fields(_ peer: SocketAddress, _ listener: any DatagramListener) -> Logger.Metadata {
        var fields: Logger.Metadata = ["PEER": "\(peer)", "LISTENER": "\(listener.address)"]
        if let number = listeners?.service(of: listener), Int(number) < names.count {
            fields["SERVICE"] = "\(names[Int(number)])"
        }
        return fields
    }

    private func hasFailed(_ listener: any DatagramListener, _ error: SystemError, _ peer: SocketAddress) {
        let refusal = Refusal(error)
        refusals.log(
            refusal, as: refusal.event, now: loop.now, "a newcomer has to try again: \(error)", fields(peer, listener))
    }
}

extension Refusal {
    fileprivate var event: LogEvent { self == .descriptors ? .descriptorLimit : .newcomerRefused }
}

extension ConnectionDispatcher: DTLSListenerDelegate {
    func refusal(of key: FlowKey, on listener: DTLSListener) -> Refusal? {
        guard let service = numberIfRoom(listener, key.peer) else { return .full }
        guard let (refusal, scope) = admission.refusal(of: key.peer, service: service, now: loop.now) else {
            return nil
        }
        refusals.log(
            refusal, now: loop.now,
            "\(ReadContext.text(of: scope.table + [refusal.key]) ?? "") is reached: a newcomer has to try again",
            fields(key.peer, listener))
        return refusal
    }

    func listener(_ listener: DTLSListener, denied peer: SocketAddress) {
        refusals.log(
            .denied, now: loop.now, "a peer is not served: its address is denied, or not allowed",
            fields(peer, listener))
    }

    func listener(_ listener: DTLSListener, admitted newcomer: consuming IncomingConnection) -> UInt64? {
        guard let service = listeners?.service(of: listener),
            let admitted = admission.admit(newcomer.key.peer, service: service, now: loop.now)
        else { return nil }
        // The worker has its own descriptor once this returns; ours is closed with the newcomer (flyAway).
        return pool?.handOver(newcomer, service: service, admitted)
    }

    func listener(_ listener: DTLSListener, late datagram: UnsafeRawBufferPointer, of connection: UInt64) {
        pool?.late(datagram, of: connection)
    }

    func listener(_ listener: DTLSListener, failed error: SystemError, for peer: SocketAddress) {
        hasFailed(listener, error, peer)
    }
}

/// Local senders of clients: the operator's own programs, to which no limits apply.
extension ConnectionDispatcher: PlainListenerDelegate {
    func canAdmit(_ key: FlowKey, on listener: PlainListener) -> Bool {
        numberIfRoom(listener, key.peer) != nil
    }

    func listener(_ listener: PlainListener, admitted newcomer: consuming IncomingConnection) -> UInt64? {
        guard let number = listeners?.service(of: listener) else { return nil }
        return pool?.handOver(newcomer, service: number, nil)
    }

    func listener(_ listener: PlainListener, late datagram: UnsafeRawBufferPointer, of connection: UInt64) -> Bool {
        pool?.late(datagram, of: connection) ?? false
    }

    func listener(_ listener: PlainListener, failed error: SystemError, for peer: SocketAddress) {
        hasFailed(listener, error, peer)
    }
}
