import ControlProtocol
import Primitives

/// What the daemon has said in the last minutes, so that a page which is opened shows them at once.
///
/// A sample has the form of `/status.json`, but one target stands for all services and clients, and it has the counters
/// that are plotted alone: so a sample takes some kilobytes, whatever the daemon has.
struct RecentSamples {
    /// Between two samples.
    static let interval = Duration.seconds(5)
    /// Ten minutes of them.
    static let limit = 120

    /// The counters that the page plots.
    private static let plotted: Set<String> = [
        "handshakes_total", "refusals_total", "datagrams_dropped_total", "messages_received_total",
        "messages_sent_total", "message_received_bytes_total", "message_sent_bytes_total",
        "handshake_duration_seconds",
    ]

    struct Sample: Encodable {
        struct Status: Encodable {
            struct Target: Encodable { var counters: CounterValues }

            var pid: Int32
            var sinceAt: String
            var connections: ConnectionCounts
            var services: [Target]
            var clients: [Target] = []

            private enum CodingKeys: String, CodingKey {
                case pid
                case sinceAt = "since_at"
                case connections, services, clients
            }
        }

        /// By a clock that nobody sets, as in `/status.json`.
        var clockSeconds: Double
        var isUp: Bool
        /// `nil` where the daemon was away.
        var status: Status?

        private enum CodingKeys: String, CodingKey {
            case clockSeconds = "clock_seconds"
            case isUp = "up"
            case status
        }
    }

    /// The oldest first.
    private(set) var samples: [Sample] = []
    /// When the daemon is to be asked for the next one.
    private(set) var nextAt = Instant.distantPast

    /// Takes a sample, if it is time for one.
    mutating func note(_ state: DaemonState, at now: Instant) {
        guard now >= nextAt else { return }
        nextAt = now + Self.interval
        if samples.count >= Self.limit { samples.removeFirst(samples.count - Self.limit + 1) }
        let status = state.answer?.status
        samples.append(
            Sample(
                clockSeconds: Double(now.nanoseconds) / 1e9, isUp: status != nil, status: status.map(Self.summary(of:))
            ))
    }

    private static func summary(of status: StatusResult) -> Sample.Status {
        var sums: CounterValues = [:]
        for target in status.services + status.clients {
            for (name, value) in target.counters where plotted.contains(name) {
                sums[name] = sums[name].map { $0.adding(value) } ?? value
            }
        }
        return Sample.Status(
            pid: status.pid, sinceAt: status.sinceAt, connections: status.connections,
            services: [.init(counters: sums)])
    }
}

extension CounterValue {
    /// The sum of two values of one counter. What a daemon of another version says in another form is left out.
    fileprivate func adding(_ other: CounterValue) -> CounterValue {
        switch (self, other) {
        case (.number(let one), .number(let two)): return .number(one &+ two)
        case (.measure(let one), .measure(let two)): return .measure(one + two)
        case (.labelled(let one), .labelled(let two)): return .labelled(one.merging(two) { $0 &+ $1 })
        case (.histogram(let one), .histogram(let two)) where one.counts.count == two.counts.count:
            var sum = one
            sum.counts = zip(one.counts, two.counts).map { $0 &+ $1 }
            sum.sumSeconds += two.sumSeconds
            return .histogram(sum)
        default: return self
        }
    }
}
