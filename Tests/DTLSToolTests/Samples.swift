import ControlProtocol

/// Answers of a daemon for tests.
enum Samples {
    static func counters(
        full: UInt64 = 0, resumed: UInt64 = 0, timedOut: UInt64 = 0, denied: UInt64 = 0, forged: UInt64 = 0,
        messages: UInt64 = 0, receivedBytes: UInt64 = 0, sentBytes: UInt64 = 0
    ) -> CounterValues {
        [
            "handshakes_total": .labelled([
                "full": full, "resumed": resumed, "timed_out": timedOut, "abandoned": 7,
            ]),
            "refusals_total": .labelled(["denied": denied, "full": 0]),
            "datagrams_dropped_total": .labelled(["forged": forged]),
            "messages_received_total": .number(messages), "messages_sent_total": .number(messages),
            "message_received_bytes_total": .number(receivedBytes), "message_sent_bytes_total": .number(sentBytes),
        ]
    }

    static func service(_ name: String, open: Int = 3, _ counters: CounterValues) -> TargetStatus {
        TargetStatus(
            name: name, handler: "forward", listen: ["0.0.0.0:5684", "[::]:5684"],
            connections: ConnectionCounts(open: open, handshaking: 1, parked: 1), counters: counters,
            backends: [BackendStatus(address: "udp:127.0.0.1:5683", state: "down")])
    }

    static func worker(_ number: Int, turns: [UInt64] = [90, 10, 0], _ counters: CounterValues) -> WorkerStatus {
        var counters = counters
        counters["loop_turn_duration_seconds"] = .histogram(
            CounterHistogram(boundsSeconds: [0.0001, 0.001], counts: turns, sumSeconds: 1))
        return WorkerStatus(
            number: number, pid: 101 + Int32(number), sinceAt: "2026-11-28T09:00:01Z", state: "serving",
            connections: 2, sockets: 1, memoryBytes: 12_582_912, openFiles: 31, openFilesLimit: 1_024,
            counters: counters)
    }

    static func status(
        services: [TargetStatus]? = nil, workers: [WorkerStatus]? = nil, isReady: Bool = true,
        phase: String = "serving", pid: Int32 = 100
    ) -> StatusResult {
        StatusResult(
            version: "0.1.0", pid: pid, sinceAt: "2026-11-28T09:00:00Z", uptimeSeconds: 11_530,
            openssl: "OpenSSL 3.0.19 27 Jan 2026", phase: phase, isReady: isReady,
            configuration: ConfigurationStatus(
                file: "/etc/dtlsd/dtlsd.toml", loadedAt: "2026-11-28T09:00:00Z", warnings: [], failedAt: nil,
                problems: []),
            logLevel: LogLevelResult(level: "info", untilAt: nil), traces: [],
            connections: ConnectionCounts(open: 1_234, handshaking: 1, parked: 900),
            listeners: [
                ListenerStatus(
                    address: "0.0.0.0:5684", service: "coap", client: nil,
                    counters: [
                        "listener_client_hellos_total": .number(20), "listener_cookies_sent_total": .number(10),
                        "listener_connections_total": .number(9), "listener_refusals_total": .number(1),
                        "listener_datagrams_dropped_total": .number(2), "listener_queue_drops_total": .number(0),
                    ])
            ],
            services: services ?? [service("coap", counters(full: 1_200, resumed: 34, timedOut: 2, denied: 5))],
            clients: [],
            workers: workers ?? [worker(0, counters())],
            certificates: [
                CertificateStatus(
                    service: "coap", client: nil, name: nil, subject: "CN=coap.example.org",
                    notAfterAt: "2026-12-10T00:00:00Z", daysLeft: 11)
            ],
            main: [:])
    }

    static func connection(
        _ number: Int, age: Double = 65, received: UInt64 = 10_240, sent: UInt64 = 512,
        identity: String? = "sensor-7", state: ConnectionState = .established
    ) -> ConnectionSummary {
        let digits = String(number, radix: 16)
        return ConnectionSummary(
            connection: String(repeating: "0", count: 16 - digits.count) + digits, service: "coap", client: nil,
            peer: "192.0.2.7:\(4_700 + number)", local: "192.0.2.1:5684", state: state, worker: 0, ageSeconds: age,
            idleSeconds: 0.25, receivedBytes: received, sentBytes: sent, receivedMessages: 10, sentMessages: 5,
            identity: identity, version: "DTLSv1.2", cipher: "ECDHE-ECDSA-AES128-GCM-SHA256")
    }

    static func page(_ connections: [ConnectionSummary], next: String? = nil) -> ConnectionsResult {
        ConnectionsResult(matched: 1_234, total: 1_300, connections: connections, nextCursor: next)
    }
}
