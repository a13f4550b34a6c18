import LinuxSystem
import Primitives

/// All that the daemon has counted, at one moment: a tree by name.
struct CounterSnapshot: Equatable, Sendable {
    /// By the name of the family.
    typealias Values = [String: Value]

    enum Value: Equatable, Sendable {
        case number(UInt64)
        /// By the value of the family's label.
        case labelled([String: UInt64])
        case histogram(Histogram)
    }

    struct Histogram: Equatable, Sendable {
        /// How many were above the bound before, and not above this one; in the order of ``bounds``, and then how many
        /// were above the last one.
        var counts: [UInt64]
        var sumSeconds: Double

        static let boundsSeconds = SharedHistogram.bounds.map { Double($0) / 1e9 }
    }

    struct Listener: Equatable, Sendable {
        var address: SocketAddress
        /// The name of the service or client that listens there.
        var name: String
        var isService: Bool
        var values: Values
    }

    struct Worker: Equatable, Sendable {
        var number: Int
        var processID: Int32
        /// The number of its table of connections.
        var table: Int
        /// Of the process, and the sums over all services and clients of what it has counted for them. They are those of
        /// its table, so a worker goes on with the counts of the one that it has replaced.
        var values: Values
    }

    /// A bit for each of the first 64 backends of a service, by its number
    /// (``ForwardConfiguration/numberedBackends``).
    struct BackendStates: Equatable, Sendable {
        /// Those that refuse datagrams to a worker.
        var out: UInt64
        /// Those that a worker has sent to, and that refuse it none.
        var up: UInt64
    }

    /// By the names of services and clients. One that is gone from the configuration stays, since it may come back.
    var services: [String: Values] = [:]
    /// What workers have found out about the backends of each service.
    var backends: [String: BackendStates] = [:]
    var clients: [String: Values] = [:]
    /// With which clients' servers the newest handshake of some worker has failed.
    var serversOut: Set<String> = []
    var listeners: [Listener] = []
    var workers: [Worker] = []
    /// Of the main process.
    var main: Values = [:]

    /// What each name in a tree is: help, unit, kind and label.
    static let families: [CounterFamily] =
        TargetCounter.layout.families + ProcessCounter.layout.families + ListenerCounter.layout.families
}

extension CounterValues {
    /// The counters by the names of their families.
    /// - Parameter isIncluded: which families are wanted.
    func named(where isIncluded: (Schema) -> Bool = { _ in true }) -> CounterSnapshot.Values {
        var result: CounterSnapshot.Values = [:]
        for counter in Schema.allCases where isIncluded(counter) { result[counter.family.name] = value(counter) }
        return result
    }

    private func value(_ counter: Schema) -> CounterSnapshot.Value {
        let family = counter.family
        switch family.kind {
        case .counter, .gauge:
            guard family.label != nil else {
                return .number(family.isSet ? UInt64(self[counter].nonzeroBitCount) : self[counter])
            }
            return .labelled(
                Dictionary(
                    uniqueKeysWithValues: family.values.enumerated().map { ($1, self[counter, $0]) }))
        case .histogram:
            let count = SharedHistogram.wordCount - 1
            return .histogram(
                CounterSnapshot.Histogram(
                    counts: (0..<count).map { self[counter, $0] }, sumSeconds: Double(self[counter, count]) / 1e9))
        }
    }
}
