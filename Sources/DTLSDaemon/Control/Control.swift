import ControlProtocol
import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Primitives

/// The control socket of a configuration cannot be made.
struct ControlSocketError: Error, CustomStringConvertible {
    let error: SystemError

    var description: String {
        let hint =
            switch error.errno {
            case EADDRINUSE: " (another process answers there: does another dtlsd use it?)"
            case EEXIST: " (there is something else than a socket)"
            default: ""
            }
        return "control.path: \(error)\(hint)"
    }
}

/// Carries out what clients of the control socket ask for (docs/control-protocol.md), in the main process.
final class Control {
    unowned let acceptor: Acceptor
    let server: ControlServer
    private let loop: EventLoop
    private let logger = Logger(label: "dtlsd")

    /// Requests that wait for the end of a reload or an upgrade.
    private var reloads: [ControlReply] = []
    private var upgrades: [ControlReply] = []
    /// When the active configuration was activated.
    private(set) var loadedAt: UnixTime?
    /// When the last reload or upgrade has failed; `nil` once one has succeeded.
    private(set) var failedAt: UnixTime?
    let startedAt = UnixTime.now()
    /// The level of the log that holds for a time, in place of the configuration's.
    private(set) var level: (level: LogLevel, until: UnixTime)?
    private(set) var traces: [Trace] = []
    struct Trace {
        let pattern: AddressPattern
        let end: Instant
        let until: UnixTime
    }
    /// The most networks that are traced at a time.
    static let maximumTraces = 16

    private lazy var traceLog = TraceLog(loop: loop)
    private lazy var levelTimer = CallbackTimer { [unowned self] _ in levelTimeIsOver() }
    private var levelEnd = Instant.distantFuture
    private lazy var traceTimer = CallbackTimer { [unowned self] now in endTraces(now: now) }
    /// Passes over all connections that are under way.
    private var walks: [ObjectIdentifier: Walk] = [:]
    /// Requests that make the daemon look at all connections. Others have to wait, so that they do not take all of its
    /// time.
    private static let maximumWalks = 2

    init(_ acceptor: Acceptor) {
        self.acceptor = acceptor
        loop = acceptor.loop
        server = ControlServer(loop: acceptor.loop)
        server.onRequest = { [unowned self] in perform($0, $1) }
    }

    private var configuration: Configuration? { acceptor.lifecycle.active?.configuration }

    // MARK: What the acceptor tells

    /// Makes the socket of a configuration, which takes the place of the present one by ``activate(_:_:)``.
    func prepare(_ configuration: Configuration) throws(ControlSocketError) -> ControlServer.Plan {
        do throws(SystemError) { return try server.prepare(configuration.control) } catch {
            throw ControlSocketError(error: error)
        }
    }

    /// A configuration is active.
    func activate(_ configuration: Configuration, _ plan: ControlServer.Plan) {
        loadedAt = .now()
        if let warning = plan.warning, !acceptor.isSuccessor { logger.log(.configurationWarning, "\(warning)") }
        do throws(SystemError) { try server.commit(plan) } catch {
            logger.log(.configurationWarning, "the access to the control socket cannot be changed: \(error)")
        }
        if level == nil { LogBootstrap.setLevel(configuration.logLevel) }
    }

    /// The lifecycle has handled an event.
    func lifecycleChanged() {
        let lifecycle = acceptor.lifecycle
        if lifecycle.problems.isEmpty { failedAt = nil } else if failedAt == nil { failedAt = .now() }
        if !reloads.isEmpty, !lifecycle.isReloading { endReloads(lifecycle.problems) }
        if !upgrades.isEmpty, !lifecycle.isUpgrading, !lifecycle.isUpgradeRequested, !lifecycle.isStopping {
            fail(&upgrades, "The upgrade has failed, and the daemon goes on as it was.", lifecycle.problems)
        }
    }

    private func endReloads(_ problems: [String]) {
        guard problems.isEmpty else {
            // A later failure is another one, also where one has failed before.
            failedAt = .now()
            return fail(
                &reloads, "The reload has failed, and the configuration and certificates from before stay active.",
                problems)
        }
        let replies = reloads
        reloads = []
        let result = ReloadResult(
            file: acceptor.configurationFile, warnings: configuration?.warnings.map { "\($0)" } ?? [])
        for reply in replies { reply.succeed(result) }
    }

    private func fail(_ waiting: inout [ControlReply], _ message: String, _ problems: [String]) {
        let replies = waiting
        waiting = []
        for reply in replies { reply.fail(ControlError(.failed, message, problems: problems)) }
    }

    /// Another process serves.
    func upgraded(to process: Int32) {
        let replies = upgrades
        upgrades = []
        for reply in replies { reply.succeed(UpgradeResult(pid: process)) }
    }

    /// The daemon is about to end.
    func stopping() {
        for reply in reloads + upgrades { reply.fail(ControlError(.refused, "The daemon is stopping.")) }
        reloads = []
        upgrades = []
    }

    // MARK: Commands

    private func perform(_ command: ControlCommand, _ reply: ControlReply) {
        switch command {
        case .status: reply.succeed(status)
        case .counters: reply.succeed(counters)
        case .connections(let query): list(query, reply)
        case .connection(let text): show(text, reply)
        case .close(let selection): close(selection, reply)
        case .reload: reload(reply)
        case .drain(let worker): drain(worker, reply)
        case .upgrade: upgrade(reply)
        case .logLevel(let change): setLevel(change, reply)
        case .trace(let change): trace(change, reply)
        }
    }

    /// Why the daemon cannot do now what only one that serves can.
    private var busy: ControlError? {
        switch acceptor.lifecycle.phase {
        case .serving, .reading, .distributing: nil
        case .loading, .starting: ControlError(.busy, "The daemon is starting; try again when it is ready.")
        case .upgrading: ControlError(.busy, "An upgrade is under way; try again when it is done.")
        case .stopping: ControlError(.refused, "The daemon is stopping.")
        }
    }

    private func reload(_ reply: ControlReply) {
        if let busy { return reply.fail(busy) }
        reloads.append(reply)
        acceptor.handle(.reloadRequested)
    }

    private func upgrade(_ reply: ControlReply) {
        if let busy { return reply.fail(busy) }
        upgrades.append(reply)
        acceptor.handle(.upgradeRequested)
    }

    private func drain(_ worker: Int?, _ reply: ControlReply) {
        if let busy { return reply.fail(busy) }
        let numbers = acceptor.workers.replaceWorkers(worker)
        guard !numbers.isEmpty else {
            return reply.fail(
                worker.map { ControlError(.unknownService, "There is no worker \($0) that serves clients.") }
                    ?? ControlError(.busy, "No worker serves clients at the moment."))
        }
        reply.succeed(DrainResult(workers: numbers))
    }

    // MARK: Log

    private func setLevel(_ change: LogLevelChange, _ reply: ControlReply) {
        guard let configured = configuration?.logLevel, let new = LogLevel(rawValue: change.level.rawValue) else {
            return reply.fail(ControlError(.busy, "The daemon is starting; try again when it is ready."))
        }
        guard change.seconds > 0 else {
            level = nil
            applyLevel(configured)
            return reply.succeed(logLevel)
        }
        let time = Duration.milliseconds(Int64(change.seconds * 1_000))
        level = (new, UnixTime(seconds: UnixTime.now().seconds + Int64(change.seconds.rounded(.up))))
        levelEnd = loop.now + time
        loop.timers.disarm(levelTimer)
        loop.timers.arm(levelTimer, at: levelEnd)
        applyLevel(new)
        reply.succeed(logLevel)
    }

    private func applyLevel(_ new: LogLevel) {
        LogBootstrap.setLevel(new)
        acceptor.workers.setLogLevel(level?.level)
    }

    private func levelTimeIsOver() {
        guard level != nil, loop.now >= levelEnd else { return }
        level = nil
        applyLevel(configuration?.logLevel ?? .info)
    }

    /// The level that holds.
    var logLevel: LogLevelResult {
        LogLevelResult(
            level: (level?.level ?? configuration?.logLevel ?? .info).rawValue,
            untilAt: level.map { Timestamp.text($0.until) })
    }

    private func trace(_ change: TraceChange, _ reply: ControlReply) {
        switch change {
        case .end: traces = []
        case .begin(let address, let seconds):
            do throws(NetworkPrefix.Mistake) {
                let pattern = try AddressPattern(parsing: address)
                traces.removeAll { $0.pattern == pattern }
                guard traces.count < Self.maximumTraces else {
                    return reply.fail(
                        ControlError(.refused, "There are \(Self.maximumTraces) traces already; end them first."))
                }
                let until = UnixTime(seconds: UnixTime.now().seconds + Int64(seconds.rounded(.up)))
                traces.append(
                    Trace(
                        pattern: pattern, end: loop.now + .milliseconds(Int64(seconds * 1_000)), until: until))
            } catch {
                return reply.fail(Self.wrong("address", address, error))
            }
        }
        applyTraces()
        reply.succeed(TraceResult(traces: traceStatus))
    }

    private func endTraces(now: Instant) {
        traces.removeAll { $0.end <= now }
        applyTraces()
    }

    private func applyTraces() {
        let patterns = traces.map(\.pattern)
        acceptor.listeners.trace = traceLog.trace(patterns)
        acceptor.workers.trace(patterns)
        if let next = traces.map(\.end).min() { loop.timers.arm(traceTimer, at: next) }
    }

    var traceStatus: [TraceStatus] {
        traces.map { TraceStatus(address: "\($0.pattern)", untilAt: Timestamp.text($0.until)) }
    }

    // MARK: Connections

    private static func wrong(_ argument: String, _ text: String, _ mistake: NetworkPrefix.Mistake) -> ControlError {
        ControlError(.badRequest, "'\(argument)' is \(ControlProtocol.quoted(text)): \(mistake).")
    }

    private func condition(_ filter: ConnectionFilter) throws(ControlError) -> ConnectionCondition {
        var condition = ConnectionCondition()
        guard filter.service == nil || filter.client == nil else {
            throw ControlError(.badRequest, "A connection is of a service or of a client, not of both.")
        }
        if let name = filter.service {
            guard configuration?.services.contains(where: { $0.name == name }) == true else {
                throw ControlError(.unknownService, "There is no service \(ControlProtocol.quoted(name)).")
            }
            condition.target = SlotTarget.service(name)
        }
        if let name = filter.client {
            guard configuration?.clients.contains(where: { $0.name == name }) == true else {
                throw ControlError(.unknownService, "There is no client \(ControlProtocol.quoted(name)).")
            }
            condition.target = SlotTarget.client(name)
        }
        if let prefix = filter.prefix {
            do throws(NetworkPrefix.Mistake) { condition.peers = try AddressPattern(parsing: prefix) } catch {
                throw Self.wrong("prefix", prefix, error)
            }
        }
        condition.identity = filter.identity
        condition.state = filter.state
        return condition
    }

    private func condition(_ query: ConnectionsQuery) throws(ControlError) -> ConnectionCondition {
        var condition = try condition(query.filter)
        if let text = query.connectionID {
            guard let bytes = Hexadecimal.bytes(text.utf8), !bytes.isEmpty, let id = ConnectionID(bytes) else {
                throw ControlError(.badRequest, "'connection_id' is not 2 to 40 hexadecimal digits.")
            }
            condition.connectionID = id
        }
        return condition
    }

    private func list(_ query: ConnectionsQuery, _ reply: ControlReply) {
        let condition: ConnectionCondition
        do throws(ControlError) { condition = try self.condition(query) } catch { return reply.fail(error) }
        var start: ConnectionPage.Place?
        if let cursor = query.cursor {
            start = ConnectionPage.Place(text: cursor)
            guard start != nil else {
                return reply.fail(ControlError(.badRequest, "'cursor' is none that an answer has had."))
            }
        }
        var page = ConnectionPage(query, after: start)
        walk(
            condition, reply, { connection, slot in page.add(connection, slot) },
            whenDone: { [unowned self] in
                reply.succeed(
                    ConnectionsResult(
                        matched: page.matched, total: acceptor.workers.connections.count,
                        connections: page.connections.compactMap(summary), nextCursor: page.nextCursor))
            })
    }

    private func connection(_ text: String) -> ConnectionNumber? {
        guard text.utf8.count == 16, text.utf8.allSatisfy({ Hexadecimal.value($0) != nil }),
            let number = UInt64(text, radix: 16)
        else { return nil }
        let connection = ConnectionNumber(rawValue: number)
        return acceptor.workers.connections.contains(connection) ? connection : nil
    }

    private static func unknown(_ text: String) -> ControlError {
        ControlError(
            .unknownConnection,
            "There is no connection \(ControlProtocol.quoted(text)): it has ended, or moved to another worker, which gives it"
                + " another number.")
    }

    private func show(_ text: String, _ reply: ControlReply) {
        guard let connection = connection(text), let result = details(of: connection) else {
            return reply.fail(Self.unknown(text))
        }
        reply.succeed(result)
    }

    private func close(_ selection: CloseSelection, _ reply: ControlReply) {
        if let busy { return reply.fail(busy) }
        switch selection {
        case .connection(let text):
            guard let connection = connection(text) else { return reply.fail(Self.unknown(text)) }
            reply.succeed(CloseResult(count: acceptor.workers.close([connection])))
        case .all: closeAll(ConnectionCondition(), reply)
        case .matching(let filter):
            do throws(ControlError) { closeAll(try condition(filter), reply) } catch { reply.fail(error) }
        }
    }

    private func closeAll(_ condition: ConnectionCondition, _ reply: ControlReply) {
        var count = 0
        var found: [ConnectionNumber] = []
        walk(
            condition, reply, { connection, _ in found.append(connection) },
            afterStep: { [unowned self] in
                count += acceptor.workers.close(found)
                found = []
            }, whenDone: { reply.succeed(CloseResult(count: count)) })
    }

    // MARK: Walking

    /// A pass over all connections, a step in each turn of the loop.
    private final class Walk {
        var walk = ConnectionWalk()
        let condition: ConnectionCondition
        let visit: (ConnectionNumber, ConnectionSlot) -> Void
        let afterStep: () -> Void
        let whenDone: () -> Void

        init(
            _ condition: ConnectionCondition, _ visit: @escaping (ConnectionNumber, ConnectionSlot) -> Void,
            _ afterStep: @escaping () -> Void, _ whenDone: @escaping () -> Void
        ) {
            self.condition = condition
            self.visit = visit
            self.afterStep = afterStep
            self.whenDone = whenDone
        }
    }

    private func walk(
        _ condition: ConnectionCondition, _ reply: ControlReply,
        _ visit: @escaping (ConnectionNumber, ConnectionSlot) -> Void, afterStep: @escaping () -> Void = {},
        whenDone: @escaping () -> Void
    ) {
        guard walks.count < Self.maximumWalks else {
            return reply.fail(
                ControlError(.busy, "The daemon is looking at all connections for others; try again in a second."))
        }
        let walk = Walk(condition, visit, afterStep, whenDone)
        walks[ObjectIdentifier(walk)] = walk
        step(walk)
    }

    private func step(_ walk: Walk) {
        let count =
            walk.condition.isCostly ? ConnectionWalk.costlySlotsPerStep : ConnectionWalk.slotsPerStep
        let goesOn = walk.walk.step(count, through: acceptor.workers.connections) { connection, slot, state in
            if walk.condition.holds(slot, state) { walk.visit(connection, slot) }
        }
        walk.afterStep()
        if goesOn { return loop.atEndOfTurn { [unowned self] in step(walk) } }
        walks[ObjectIdentifier(walk)] = nil
        walk.whenDone()
    }
}
