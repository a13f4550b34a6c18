/// The value of a counter, in one of the forms that there are.
package enum CounterValue: Codable, Equatable, Sendable {
    /// A number of events, bytes or things.
    case number(UInt64)
    /// A measure that is no whole number, such as seconds.
    case measure(Double)
    /// Numbers by the value of one label: `{"denied":3,"full":0}`.
    case labelled([String: UInt64])
    case histogram(CounterHistogram)

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let number = try? container.decode(UInt64.self) {
            self = .number(number)
        } else if let measure = try? container.decode(Double.self) {
            self = .measure(measure)
        } else if let histogram = try? container.decode(CounterHistogram.self) {
            self = .histogram(histogram)
        } else {
            self = .labelled(try container.decode([String: UInt64].self))
        }
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .number(let number): try container.encode(number)
        case .measure(let measure): try container.encode(measure)
        case .labelled(let numbers): try container.encode(numbers)
        case .histogram(let histogram): try container.encode(histogram)
        }
    }
}

/// How often a duration was how long.
package struct CounterHistogram: Codable, Equatable, Sendable {
    /// The upper bounds of the buckets but the last one, rising. The last one has no bound.
    package var boundsSeconds: [Double]
    /// How many durations were above the bound before and at most at this one: one more than there are bounds.
    package var counts: [UInt64]
    /// The sum of all durations.
    package var sumSeconds: Double

    package init(boundsSeconds: [Double], counts: [UInt64], sumSeconds: Double) {
        self.boundsSeconds = boundsSeconds
        self.counts = counts
        self.sumSeconds = sumSeconds
    }

    private enum CodingKeys: String, CodingKey {
        case boundsSeconds = "bounds_seconds"
        case counts
        case sumSeconds = "sum_seconds"
    }
}

/// Counters by their names, as Prometheus would call them without a prefix: `handshakes_total`.
package typealias CounterValues = [String: CounterValue]

/// What a counter says, for programs that show counters without knowing them.
package struct CounterDescription: Codable, Equatable, Sendable {
    package enum Kind: String, Codable, Sendable { case counter, gauge, histogram }

    package var kind: Kind
    /// One sentence.
    package var help: String
    /// "seconds", "bytes"; `nil` for numbers of events and things.
    package var unit: String?
    /// The name of the label where the value is ``CounterValue/labelled(_:)``.
    package var label: String?

    package init(kind: Kind, help: String, unit: String? = nil, label: String? = nil) {
        self.kind = kind
        self.help = help
        self.unit = unit
        self.label = label
    }
}

/// The result of ``ControlCommand/counters``.
package struct CountersResult: Codable, Equatable, Sendable {
    /// When they began at 0 (RFC 3339).
    package var sinceAt: String
    /// By the names of services.
    package var services: [String: CounterValues]
    /// By the names of clients.
    package var clients: [String: CounterValues]
    package var listeners: [ListenerCounters]
    package var workers: [WorkerCounters]
    /// Those of the main process.
    package var main: CounterValues
    /// By the names of counters, of all places above.
    package var descriptions: [String: CounterDescription]

    package init(
        sinceAt: String, services: [String: CounterValues], clients: [String: CounterValues],
        listeners: [ListenerCounters], workers: [WorkerCounters], main: CounterValues,
        descriptions: [String: CounterDescription]
    ) {
        self.sinceAt = sinceAt
        self.services = services
        self.clients = clients
        self.listeners = listeners
        self.workers = workers
        self.main = main
        self.descriptions = descriptions
    }

    private enum CodingKeys: String, CodingKey {
        case sinceAt = "since_at"
        case services, clients, listeners, workers, main, descriptions
    }
}

/// The counters of one listening address.
package struct ListenerCounters: Codable, Equatable, Sendable {
    /// "[::]:5684"
    package var address: String
    /// The service or client that it is of.
    package var service: String?
    package var client: String?
    package var counters: CounterValues

    package init(address: String, service: String?, client: String?, counters: CounterValues) {
        self.address = address
        self.service = service
        self.client = client
        self.counters = counters
    }
}

/// The counters of one worker number, whose process may have been replaced meanwhile.
package struct WorkerCounters: Codable, Equatable, Sendable {
    package var number: Int
    package var counters: CounterValues

    package init(number: Int, counters: CounterValues) {
        self.number = number
        self.counters = counters
    }
}
