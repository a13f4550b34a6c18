import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// The main process' side of the checker: keeps what is known of the backends that are checked, starts the process that
/// checks them as long as there are any, and starts it again when it has ended.
final class BackendChecker: TimerTarget, MessageChannelDelegate {
    private(set) var table = CheckTable()
    private let environment: [String: String]
    private let loop: EventLoop
    private var configuration: Configuration?
    /// The host names that checked addresses are of.
    private var hosts: [CheckTable.Target: String] = [:]
    private var process: (pid: pid_t, channel: MessageChannel)?
    private var backoff = Backoff(from: .seconds(1), to: .seconds(60))
    private var nextStart = Instant.distantPast
    private var isStopped = false

    /// Is called with what the table says, checks apart.
    var onAction: (CheckTable.Action) -> Void = { _ in }
    /// Is called with a host name all of whose addresses are down.
    var onHostDown: (String) -> Void = { _ in }
    /// Is called with the ends of checker processes.
    var onEnded: (_ reason: String, _ pause: Duration) -> Void = { _, _ in }

    init(environment: [String: String], loop: EventLoop) {
        self.environment = environment
        self.loop = loop
        super.init()
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
        startProcess()
        if process != nil { perform(table.advance(to: loop.now)) }
        let next = process == nil ? (table.isEmpty ? .distantFuture : nextStart) : table.deadline
        loop.timers.disarm(self)
        loop.timers.arm(self, at: next)
    }

    private func perform(_ actions: [CheckTable.Action]) {
        for action in actions {
            if case .check(let question) = action {
                process?.channel.send(BinaryCoding.encode(question))
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

    private func startProcess() {
        guard process == nil, !table.isEmpty, loop.now >= nextStart else { return }
        do throws(SystemError) {
            let ends = try UnixChannel.pair()
            let pid = try ChildProcess.spawn(
                arguments: Role.checker.arguments, environment: environment, channel: ends.other)
            process = (pid, try MessageChannel(ends.one, loop: loop, delegate: self))
        } catch {
            lost("it cannot be started: \(error)\(ChildProcess.hint(error))")
        }
    }

    private func endProcess() {
        process?.channel.close()
        process = nil
        table.checkerEnded(now: loop.now)
    }

    private func lost(_ reason: String) {
        endProcess()
        let pause = backoff.next()
        nextStart = loop.now + pause
        onEnded(reason, pause)
    }

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        // The checker reads what backends send, so what it says is checked.
        guard let answer: CheckAnswer = try? BinaryCoding.decode(from: message) else {
            if let pid = process?.pid { kill(pid, SIGABRT) }
            return
        }
        backoff.reset()
        perform(table.answered(answer, now: loop.now))
        update()
    }

    /// The process has ended, and SIGCHLD says how. One that goes on without its channel is of no use.
    func channelEnded(_ channel: MessageChannel) {
        if let process, process.channel === channel { kill(process.pid, SIGKILL) }
    }

    /// Records how a child ended; the main process reaps all children.
    func childEnded(_ pid: pid_t, _ ending: ChildProcess.Ending) {
        guard let process, process.pid == pid else { return }
        // Whatever it has said before still counts.
        process.channel.readToEnd()
        guard self.process?.pid == pid else { return }
        lost("its process \(ending)")
        update()
    }
}

extension Backend {
    /// Where datagrams for it go: the addresses of a host name, none before it is resolved, or its own.
    func addresses(_ names: NameTable) -> [Address] {
        guard let host else { return [address] }
        return names.addresses(of: host.name).map { .udp($0.with(port: host.port)) }
    }
}
