import Primitives

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// What a measurement has found, for programs (`--json`) and for people.
struct BenchResult: Codable, Equatable {
    enum Scenario: String, Codable { case handshake, echo, idle }

    struct Latency: Codable, Equatable {
        var meanSeconds: Double
        var p50Seconds: Double
        var p90Seconds: Double
        var p99Seconds: Double
        var p999Seconds: Double
        var maxSeconds: Double
    }

    struct Tick: Codable, Equatable {
        var percentile: Double
        var seconds: Double
    }

    var scenario: Scenario
    var server: String
    var address: String
    var protocolVersion: String
    var cipher: String
    var group: String?
    /// Connections at once.
    var connections: Int
    var messageBytes: Int?
    var window: Int?
    /// Messages a second that were asked for.
    var targetPerSecond: Double?
    var handshakesOpened: Int
    var handshakesFailed: Int
    var handshakesResumed: Int
    var connectionsBroken: Int
    var messagesSent: Int?
    var messagesReceived: Int?
    var messagesLost: Int?
    /// Of idle connections: those that have answered at the end.
    var connectionsAlive: Int?
    var durationSeconds: Double
    /// Handshakes or echoes.
    var perSecond: Double
    /// Processor time of this program for each second of the measurement; near 1, it is the bottleneck and not the server.
    var clientProcessorShare: Double
    /// Of handshakes or echoes.
    var latency: Latency
    var distribution: [Tick]
    var timeline: [LatencyRecord.Slice]
    var failures: [String: Int]

    /// Whether the load generator may be what limits the figures.
    var isLimitedByClient: Bool { clientProcessorShare > 0.9 }

    func json() throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return Array(try encoder.encode(self)) + [UInt8(ascii: "\n")]
    }

    var text: String {
        var lines = ["\(server) (\(address)): \(protocolVersion), \(cipher)\(group.map { ", group \($0)" } ?? "")"]
        func add(_ title: String, _ text: String) {
            lines.append("  \(title)\(String(repeating: " ", count: max(1, 14 - title.count)))\(text)")
        }
        let duration = "\(durationSeconds.text(digits: 2)) s"
        switch scenario {
        case .handshake:
            let kind =
                handshakesResumed == 0
                ? "full" : handshakesResumed == handshakesOpened ? "resumed" : "\(handshakesResumed) of them resumed"
            add("handshakes", "\(perSecond.text(digits: 0)) a second, \(kind), \(connections) at once")
            add("done", "\(handshakesOpened) in \(duration), \(handshakesFailed) failed")
        case .echo:
            let load = window.map { "window \($0)" } ?? "\((targetPerSecond ?? 0).text(digits: 0)) a second asked for"
            add(
                "echoes",
                "\(perSecond.text(digits: 0)) a second, \(counted(connections, "connection")), \(counted(messageBytes ?? 0, "byte")), \(load)"
            )
            add(
                "done",
                "\(messagesReceived ?? 0) of \(messagesSent ?? 0) messages in \(duration), \(messagesLost ?? 0) lost"
            )
        case .idle:
            add(
                "connections",
                "\(handshakesOpened) opened at \(perSecond.text(digits: 0)) a second, \(handshakesFailed) failed")
            add("idle", "\(duration) without a word; \(connectionsAlive ?? 0) answered after it")
        }
        if connectionsBroken > 0 { add("broken", counted(connectionsBroken, "connection")) }
        func milliseconds(_ seconds: Double) -> String { (seconds * 1_000).text(digits: 3) }
        add(
            scenario == .idle ? "opening" : "latency",
            "p50 \(milliseconds(latency.p50Seconds)) ms, p90 \(milliseconds(latency.p90Seconds)),"
                + " p99 \(milliseconds(latency.p99Seconds)), p99.9 \(milliseconds(latency.p999Seconds)),"
                + " worst \(milliseconds(latency.maxSeconds)), mean \(milliseconds(latency.meanSeconds))")
        add(
            "this program",
            "\((clientProcessorShare * 100).text(digits: 0)) % of a processor"
                + (isLimitedByClient ? ": it may be the limit, and not the server" : ""))
        for (reason, count) in failures.sorted(by: { ($1.value, $0.key) < ($0.value, $1.key) }).prefix(5) {
            add("failure", "\(count) × \(TerminalText.printable(reason))")
        }
        return lines.joined(separator: "\n") + "\n"
    }
}

extension BenchResult.Latency {
    init(_ record: LatencyRecord) {
        meanSeconds = record.meanSeconds
        p50Seconds = record.percentile(50)
        p90Seconds = record.percentile(90)
        p99Seconds = record.percentile(99)
        p999Seconds = record.percentile(99.9)
        maxSeconds = record.percentile(100)
    }
}
