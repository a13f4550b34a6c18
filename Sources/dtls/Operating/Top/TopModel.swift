import ControlProtocol
import Primitives

/// What `dtls top` knows and shows: the daemon's last answers, the rates between them, and what its user has chosen. It is
/// a value without terminal, socket and clock.
struct TopModel {
    /// What the services, clients and workers are sorted by.
    enum Sort: String, CaseIterable {
        case traffic, connections, handshakes, refused, name

        fileprivate var next: Sort {
            let all = Self.allCases
            let index = all.firstIndex(of: self) ?? 0
            return all[(index + 1) % all.count]
        }
    }

    enum Mode: Equatable {
        case normal
        case help
        /// The name of a service is being typed.
        case filter(text: String)
    }

    /// How it is with the daemon.
    enum Link: Equatable {
        /// Nothing has come yet.
        case waiting
        case answering
        /// There is no answer any more, since a time; what is shown is old.
        case lost(since: Instant, reason: String)
    }

    /// What the keys have asked for.
    enum Command: Equatable {
        case quit
        /// Ask the daemon at once.
        case refresh
        /// Draw everything again.
        case redraw
    }

    /// A service or client that the connections are limited to.
    struct Target: Equatable {
        var name: String
        var isClient: Bool
    }

    private struct Sample {
        var status: StatusResult
        var at: Instant
    }

    /// Seconds between answers that rates are made of: over a shorter time one event would look like many.
    private static let shortestInterval = 0.25

    private var latest: Sample?
    private var previous: Sample?
    /// The bytes of connections, received and sent, by their numbers, when they were listed last.
    private var bytesBefore: [String: (received: UInt64, sent: UInt64)] = [:]
    private var connectionsAt: Instant?
    private(set) var busiest: [BusyConnection] = []
    private(set) var newest: [ConnectionSummary] = []
    private(set) var link = Link.waiting
    var sort = Sort.traffic
    private(set) var target: Target?
    private(set) var mode = Mode.normal
    private(set) var isPaused = false
    /// The first line of the document that is shown, as far as the keys know.
    private(set) var scroll = 0
    /// What the last key has led to, if that has to be said.
    private(set) var notice: String?

    var status: StatusResult? { latest?.status }
    /// Whether there are rates: two answers of the same process.
    var hasRates: Bool { elapsedSeconds != nil }

    // MARK: Answers

    mutating func add(_ status: StatusResult, at now: Instant) {
        // The counters of another process have begun at 0.
        let isSameProcess = latest.map { $0.status.pid == status.pid && $0.status.sinceAt == status.sinceAt } ?? false
        if !isSameProcess {
            previous = nil
        } else if let latest, Self.seconds(from: latest.at, to: now) >= Self.shortestInterval {
            previous = latest
        }
        latest = Sample(status: status, at: now)
        link = .answering
        if let target, !targets.contains(target) {
            self.target = nil
            notice = "\(target.name) is gone from the configuration"
        }
    }

    /// Connections that are probably busy, and the newest ones.
    mutating func add(active: [ConnectionSummary], newest: [ConnectionSummary], at now: Instant) {
        let elapsed = connectionsAt.map { Self.seconds(from: $0, to: now) }
        self.newest = newest
        if let elapsed, elapsed < Self.shortestInterval { return }
        var found: [String: BusyConnection] = [:]
        for connection in active + newest {
            guard found[connection.connection] == nil else { continue }
            let before = bytesBefore[connection.connection]
            let received = Self.difference(connection.receivedBytes, before?.received ?? 0)
            let sent = Self.difference(connection.sentBytes, before?.sent ?? 0)
            // One that was not listed before has a rate if it is young, over its whole life.
            let seconds = before == nil ? connection.ageSeconds : elapsed ?? 0
            guard let received, let sent, seconds > 0, before != nil || seconds <= elapsed ?? 0 else { continue }
            found[connection.connection] = BusyConnection(
                connection: connection, receivedRate: Double(received) / seconds, sentRate: Double(sent) / seconds)
        }
        busiest = found.values.filter { $0.rate > 0 }.sorted {
            ($1.rate, $0.connection.connection) < ($0.rate, $1.connection.connection)
        }
        bytesBefore = Dictionary(
            (active + newest).map { ($0.connection, ($0.receivedBytes, $0.sentBytes)) }, uniquingKeysWith: { $1 })
        connectionsAt = now
    }

    mutating func lose(_ reason: String, at now: Instant) {
        if case .lost(let since, _) = link {
            link = .lost(since: since, reason: reason)
        } else {
            link = .lost(since: now, reason: reason)
        }
    }

    /// The requests whose answers are to be added next: those that may be busy, and the newest ones.
    var connectionQueries: (active: [ConnectionsQuery], newest: ConnectionsQuery) {
        var query = ConnectionsQuery()
        if let target {
            if target.isClient { query.filter.client = target.name } else { query.filter.service = target.name }
        }
        var recent = query
        recent.sort = .idle
        recent.order = .ascending
        recent.limit = 200
        var large = recent
        large.sort = .traffic
        large.order = .descending
        var newest = query
        newest.order = .ascending
        return ([recent, large], newest)
    }

    // MARK: Rates

    private static func seconds(from start: Instant, to end: Instant) -> Double {
        Double((end - start).nanoseconds) / 1e9
    }

    /// `nil` where the number has become smaller: it was counted from 0 again.
    private static func difference(_ after: UInt64, _ before: UInt64) -> UInt64? {
        after >= before ? after - before : nil
    }

    private var elapsedSeconds: Double? {
        guard let latest, let previous else { return nil }
        let seconds = Self.seconds(from: previous.at, to: latest.at)
        return seconds > 0 ? seconds : nil
    }

    /// Per second.
    private func rate(_ after: UInt64?, _ before: UInt64?) -> Double? {
        guard let elapsedSeconds, let after, let before else { return nil }
        return Self.difference(after, before).map { Double($0) / elapsedSeconds }
    }

    private var targets: [Target] {
        (status?.services ?? []).map { Target(name: $0.name, isClient: false) }
            + (status?.clients ?? []).map { Target(name: $0.name, isClient: true) }
    }

    /// The services and clients that are shown, sorted.
    var targetRates: [TargetRates] {
        func rows(_ path: KeyPath<StatusResult, [TargetStatus]>, isClient: Bool) -> [TargetRates] {
            (latest?.status[keyPath: path] ?? []).compactMap { target -> TargetRates? in
                let name = Target(name: target.name, isClient: isClient)
                guard self.target == nil || self.target == name else { return nil }
                let before = previous?.status[keyPath: path].first { $0.name == target.name }?.counters
                return TargetRates(
                    name: target.name, connections: target.connections, rates: rates(target.counters, before))
            }
        }
        return sorted(
            rows(\.services, isClient: false) + rows(\.clients, isClient: true), rates: \.rates,
            connections: \.connections.open
        ) { $0.name < $1.name }
    }

    var workerRates: [WorkerRates] {
        let all = (latest?.status.workers ?? []).map { worker in
            let before = previous?.status.workers.first { $0.number == worker.number }?.counters
            let name = "loop_turn_duration_seconds"
            let turns = worker.counters.histogram(name).flatMap { now in
                before?.histogram(name).flatMap { now.since($0) }
            }
            return WorkerRates(
                worker: worker, rates: rates(worker.counters, before), loopTurn: turns?.quantileText(0.99))
        }
        return sorted(all, rates: \.rates, connections: \.worker.connections) { $0.worker.number < $1.worker.number }
    }

    private func rates(_ after: CounterValues, _ before: CounterValues?) -> Rates {
        func rate(_ name: String) -> Double? { self.rate(after.total(name), before?.total(name)) }
        return Rates(
            handshakes: self.rate(after.handshakes, before?.handshakes),
            failures: self.rate(
                after["handshakes_total"].map { _ in after.failedHandshakes.values.reduce(0, &+) },
                before?.failedHandshakes.values.reduce(0, &+)),
            refusals: rate("refusals_total"), messagesReceived: rate("messages_received_total"),
            messagesSent: rate("messages_sent_total"), bytesReceived: rate("message_received_bytes_total"),
            bytesSent: rate("message_sent_bytes_total"))
    }

    private func sorted<Row>(
        _ rows: [Row], rates: (Row) -> Rates, connections: (Row) -> Int, byName isBefore: (Row, Row) -> Bool
    ) -> [Row] {
        func weight(_ row: Row) -> Double {
            let rates = rates(row)
            return switch sort {
            case .traffic: (rates.bytesReceived ?? 0) + (rates.bytesSent ?? 0)
            case .connections: Double(connections(row))
            case .handshakes: rates.handshakes ?? 0
            case .refused: (rates.refusals ?? 0) + (rates.failures ?? 0)
            case .name: 0
            }
        }
        return rows.sorted { one, other in
            let (first, second) = (weight(one), weight(other))
            return first == second ? isBefore(one, other) : first > second
        }
    }

    /// What clients were refused, which handshakes have failed, and what was dropped: the most frequent first.
    var troubles: [Trouble] {
        var troubles: [Trouble] = []
        func add(_ path: KeyPath<StatusResult, [TargetStatus]>, isClient: Bool) {
            for now in latest?.status[keyPath: path] ?? [] {
                guard target == nil || target == Target(name: now.name, isClient: isClient) else { continue }
                let before = previous?.status[keyPath: path].first { $0.name == now.name }?.counters
                for (kind, counters, old) in [
                    ("refused", now.counters.labelled("refusals_total"), before?.labelled("refusals_total")),
                    ("handshake", now.counters.failedHandshakes, before?.failedHandshakes),
                    (
                        "dropped", now.counters.labelled("datagrams_dropped_total"),
                        before?.labelled("datagrams_dropped_total")
                    ),
                ] {
                    for (reason, total) in counters where total > 0 {
                        troubles.append(
                            Trouble(
                                name: now.name, kind: kind, reason: reason,
                                rate: rate(total, old.map { $0[reason] ?? 0 }), total: total))
                    }
                }
            }
        }
        add(\.services, isClient: false)
        add(\.clients, isClient: true)
        return troubles.sorted { one, other in
            let (first, second) = (one.rate ?? 0, other.rate ?? 0)
            if first != second { return first > second }
            if one.total != other.total { return one.total > other.total }
            return (one.name, one.kind, one.reason) < (other.name, other.kind, other.reason)
        }
    }

    // MARK: Keys

    mutating func handle(_ key: Key) -> Command? {
        notice = nil
        if key == .redraw { return .redraw }
        switch mode {
        case .normal: return handleCommand(key)
        case .help:
            if key == .character("q") { return .quit }
            mode = .normal
            return nil
        case .filter(let text): return edit(text, key)
        }
    }

    private mutating func handleCommand(_ key: Key) -> Command? {
        switch key {
        case .character("q"), .character("Q"): return .quit
        case .character("s"): sort = sort.next
        case .character("f"): mode = .filter(text: "")
        case .character("?"), .character("h"): mode = .help
        case .character("p"):
            isPaused.toggle()
            return isPaused ? nil : .refresh
        case .character(" "): return .refresh
        case .up, .character("k"): scroll -= 1
        case .down, .character("j"): scroll += 1
        case .pageUp: scroll -= 10
        case .pageDown: scroll += 10
        case .home, .character("g"): scroll = 0
        case .end, .character("G"): scroll = .max
        case .escape: return setTarget(nil)
        default: break
        }
        return nil
    }

    /// The renderer alone knows how long the document is.
    mutating func limitScroll(to most: Int) { scroll = max(0, min(scroll, most)) }

    private mutating func edit(_ text: String, _ key: Key) -> Command? {
        switch key {
        case .character(let character): mode = .filter(text: String((text + [character]).prefix(64)))
        case .backspace: mode = .filter(text: String(text.dropLast()))
        case .escape: mode = .normal
        case .enter:
            mode = .normal
            guard !text.isEmpty else { return setTarget(nil) }
            let found =
                targets.first { $0.name == text } ?? targets.first { $0.name.hasPrefix(text) }
                ?? targets.first { $0.name.contains(text) }
            guard let found else {
                notice = "there is no service or client \(Printable.quoted(text))"
                return nil
            }
            return setTarget(found)
        default: break
        }
        return nil
    }

    private mutating func setTarget(_ target: Target?) -> Command? {
        guard target != self.target else { return nil }
        self.target = target
        busiest = []
        newest = []
        bytesBefore = [:]
        connectionsAt = nil
        return .refresh
    }

    /// Shows one service or client alone, as if its name had been typed.
    mutating func filter(by name: String) { _ = edit(name, .enter) }
}

/// Events and bytes a second; `nil` where nothing is known.
struct Rates {
    var handshakes: Double?
    var failures: Double?
    var refusals: Double?
    var messagesReceived: Double?
    var messagesSent: Double?
    var bytesReceived: Double?
    var bytesSent: Double?
}

struct TargetRates {
    var name: String
    var connections: ConnectionCounts
    var rates: Rates
}

struct WorkerRates {
    var worker: WorkerStatus
    var rates: Rates
    /// What 99 of 100 turns of its event loop have taken at most, lately.
    var loopTurn: String?
}

struct BusyConnection {
    var connection: ConnectionSummary
    /// Bytes a second.
    var receivedRate: Double
    var sentRate: Double

    var rate: Double { receivedRate + sentRate }
}

struct Trouble: Equatable {
    var name: String
    /// "refused", "handshake", "dropped"
    var kind: String
    var reason: String
    /// Per second.
    var rate: Double?
    var total: UInt64
}
