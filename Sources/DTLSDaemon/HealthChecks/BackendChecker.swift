import Glibc
import LinuxSystem
import Primitives

/// The main process' side of the checker: keeps what is known of the backends that are checked, starts the process that
/// checks them as long as there are any, and starts it again when it has ended.
final class BackendChecker: TimerTarget {
    private(set) var table = CheckTable()
    private let loop: EventLoop
    private var configuration: Configuration?
    /// The host names that checked addresses are of.
    private var hosts: [CheckTable.Target: String] = [:]
    private let process: AuxiliaryProcess
    private var isStopped = false

    /// Is called with what the table says, checks apart.
    var onAction: (CheckTable.Action) -> Void = { _ in }
    /// Is called with a host name all of whose addresses are down.
    var onHostDown: (String) -> Void = { _ in }
    /// Is called with the ends of checker processes.
    var onEnded: (_ reason: String, _ pause: Duration) -> Void = { _, _ in }

    init(environment: [String: String], loop: EventLoop) {
        self.loop = loop
        process = AuxiliaryProcess(.checker, environment: environment, loop: loop)
        super.init()
        process.onMessage = { [unowned self] in receive($0) }
        process.onLost = { [unowned self] reason, pause in
            table.checkerEnded(now: loop.now)
            onEnded(reason, pause)
        }
    }

    /// Checks the backends of a configuration from now on, and no others.
    func activate(_ configuration: Configuration, _ names: NameTable) {
        self.configuration = configuration
        findTargets(names)
    }

    /// Host names have other addresses.
    func addressesChanged(_ names: NameTable) { findTargets(names) }

    /// Ends the process. Nothing is checked any more.
    func stop() {
        isStopped = true
        loop.timers.disarm(self)
        endProcess()
    }

    private func findTargets(_ names: NameTable) {
        var wanted: [CheckTable.Target: HealthCheck] = [:]
        hosts = [:]
        for service in configuration?.services ?? [] {
            guard case .forward(let forward) = service.handler, let check = forward.effectiveHealthCheck else {
                continue
            }
            for (_, backend) in forward.numberedBackends {
                for address in backend.addresses(names) {
                    let target = CheckTable.Target(service: service.name, address: address)
                    wanted[target] = check
                    if let host = backend.host { hosts[target] = host.name }
                }
            }
        }
        perform(table.configure(wanted, now: loop.now))
        if table.isEmpty { endProcess() }
        update()
    }

    // MARK: Time and answers

    override func timerFired(now: Instant) { update() }

    private func update() {
        guard !isStopped else { return }
        if !table.isEmpty { process.start() }
        if process.isRunning { perform(table.advance(to: loop.now)) }
        let next = process.isRunning ? table.deadline : table.isEmpty ? .distantFuture : process.nextStart
        loop.timers.disarm(self)
        loop.timers.arm(self, at: next)
    }

    private func perform(_ actions: [CheckTable.Action]) {
        for action in actions {
            if case .check(let question) = action {
                process.send(BinaryCoding.encode(question))
            } else {
                onAction(action)
            }
            if case .publish(let target, isDown: true) = action, let host = hosts[target], isDown(host) {
                onHostDown(host)
            }
        }
    }

    /// Whether all addresses of a host name are down, by the checks of each service that has it.
    private func isDown(_ host: String) -> Bool {
        hosts.allSatisfy { target, other in
            guard other == host else { return true }
            if case .down = table.state(of: target) { return true }
            return false
        }
    }

    // MARK: The process

    private func endProcess() {
        process.end()
        table.checkerEnded(now: loop.now)
    }

    private func receive(_ message: UnsafeRawBufferPointer) -> Bool {
        // The checker reads what backends send, so what it says is checked.
        guard let answer: CheckAnswer = try? BinaryCoding.decode(from: message) else { return false }
        perform(table.answered(answer, now: loop.now))
        process.resetPause()
        update()
        return true
    }

    /// Records how a child ended; the main process reaps all children.
    func childEnded(_ pid: pid_t, _ ending: ChildProcess.Ending) {
        if process.childEnded(pid, ending) { update() }
    }
}

extension Backend {
    /// Where datagrams for it go: the addresses of a host name, none before it is resolved, or its own.
    func addresses(_ names: NameTable) -> [Address] {
        guard let host else { return [address] }
        return names.addresses(of: host.name).map { .udp($0.with(port: host.port)) }
    }
}
