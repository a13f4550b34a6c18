import ControlProtocol
import Testing

@testable import dtls

@Suite struct ReportTests {
    @Test func `the status of a daemon that serves fits one page`() {
        #expect(
            StatusReport(Samples.status()).lines(width: nil).map(\.text).joined(separator: "\n") == """
                dtlsd 0.1.0 is ready, up 3h 12m
                Process         100, since 2026-11-28T09:00:00Z; OpenSSL 3.0.19 27 Jan 2026
                Configuration   /etc/dtlsd/dtlsd.toml, loaded 2026-11-28T09:00:00Z
                Log level       info
                Connections     1,234, of which 1 is in a handshake and 900 are parked

                Services
                NAME  HANDLER  LISTEN                  OPEN  HANDSHAKING  PARKED  HANDSHAKES  FAILED  REFUSED  DROPPED  RECEIVED  SENT
                coap  forward  0.0.0.0:5684 [::]:5684     3            1       1       1,234       2        5        0       0 B   0 B

                Backends
                OF    BACKEND             STATE
                coap  udp:127.0.0.1:5683  down

                Workers
                WORKER  PID  STATE    SINCE                 CONNECTIONS  SOCKETS    MEMORY  FILES     OF  LOOP 99%
                     0  101  serving  2026-11-28T09:00:01Z            2        1  12.0 MiB     31  1,024     ≤1 ms

                Listeners
                ADDRESS       OF    HELLOS  COOKIES  ADMITTED  REFUSED  DROPPED  LOST IN QUEUE
                0.0.0.0:5684  coap      20       10         9        1        2              0

                Certificates
                OF    NAME  SUBJECT              NOT AFTER             DAYS LEFT
                coap        CN=coap.example.org  2026-12-10T00:00:00Z         11
                """)
    }

    @Test func `every problem of a failed reload is named, and what is changed for a time`() {
        var status = Samples.status(services: [], workers: [], isReady: true, phase: "serving")
        status.configuration.failedAt = "2026-11-28T10:00:00Z"
        status.configuration.problems = ["dtlsd.toml:3: one", "dtlsd.toml:4: two"]
        status.configuration.warnings = ["three"]
        status.logLevel = LogLevelResult(level: "debug", untilAt: "2026-11-28T10:10:00Z")
        status.traces = [TraceStatus(address: "192.0.2.7", untilAt: "2026-11-28T10:05:00Z")]
        #expect(
            Array(StatusReport(status).lines(width: nil).map(\.text)[2...8]) == [
                "Configuration   /etc/dtlsd/dtlsd.toml, loaded 2026-11-28T09:00:00Z",
                "Reload failed   2026-11-28T10:00:00Z: the configuration above still holds",
                "                dtlsd.toml:3: one",
                "                dtlsd.toml:4: two",
                "Warning         three",
                "Log level       debug, until 2026-11-28T10:10:00Z",
                "Trace           192.0.2.7, until 2026-11-28T10:05:00Z",
            ])
    }

    @Test func `host names of backends are listed with their addresses`() {
        var service = Samples.service("coap", [:])
        service.backends = [
            BackendStatus(address: "udp:be.example:53", state: "up", resolved: ["192.0.2.1", "2001:db8::1"]),
            BackendStatus(address: "udp:none.example:53", state: "unknown", resolved: []),
            BackendStatus(address: "unix:/run/be", state: "up"),
        ]
        let lines = StatusReport(Samples.status(services: [service])).lines(width: nil).map(\.text)
        guard let start = lines.firstIndex(of: "Backends") else {
            Issue.record("no backends in \(lines)")
            return
        }
        #expect(
            lines[(start + 1)...(start + 4)].map { String($0.reversed().drop { $0 == " " }.reversed()) } == [
                "OF    BACKEND              STATE    ADDRESSES",
                "coap  udp:be.example:53    up       192.0.2.1 2001:db8::1",
                "coap  udp:none.example:53  unknown  unresolved",
                "coap  unix:/run/be         up",
            ])
    }

    @Test func `no line of a status is wider than the terminal`() {
        for width in [20, 40, 80, 100] {
            for line in StatusReport(Samples.status()).lines(width: width) { #expect(line.width <= width) }
        }
    }

    @Test func `connections are listed with who they are and what they do`() {
        let table = ConnectionReport.table([
            Samples.connection(1), Samples.connection(0xabc, age: 90_000, identity: "\u{1b}]0;x\u{7}", state: .parked),
        ])
        #expect(
            table.lines(width: nil).map(\.text).joined(separator: "\n") == #"""
                CONNECTION        OF    PEER            STATE        WORKER    AGE  IDLE  RECEIVED   SENT  IDENTITY
                0000000000000001  coap  192.0.2.7:4701  established       0  1m 5s  0.3s  10.0 KiB  512 B  sensor-7
                0000000000000abc  coap  192.0.2.7:7448  parked            0  1d 1h  0.3s  10.0 KiB  512 B  \u{1b}]0;x\u{7}
                """#)
    }

    @Test func `one connection is shown in full`() {
        var connection = ConnectionResult(summary: Samples.connection(1), startedAt: "2026-11-28T09:00:00Z")
        connection.handshakeSeconds = 0.0125
        connection.isResumed = false
        connection.backend = "127.0.0.1:5683"
        connection.epoch = 1
        connection.sentRecords = 1_500
        #expect(
            ConnectionReport.lines(connection).map(\.text).joined(separator: "\n") == """
                Connection        0000000000000001
                Service           coap
                Peer              192.0.2.7:4701
                Local address     192.0.2.1:5684
                State             established
                Worker            0
                Began             2026-11-28T09:00:00Z, 1m 5s ago
                Idle              0.3s
                Handshake         12.5 ms, full
                Protocol          DTLSv1.2, ECDHE-ECDSA-AES128-GCM-SHA256
                Identity          sensor-7
                Backend           127.0.0.1:5683
                Received          10 messages, 10.0 KiB
                Sent              5 messages, 512 B
                Records           epoch 1, 1,500 sent
                """)
    }

    @Test func `counters that are 0 are left out unless they are asked for, and words choose among the others`() {
        let result = CountersResult(
            sinceAt: "2026-11-28T09:00:00Z",
            services: ["coap": Samples.counters(full: 1_200, denied: 5, receivedBytes: 2_048)], clients: [:],
            listeners: [],
            workers: [
                WorkerCounters(
                    number: 0,
                    counters: [
                        "loop_turn_duration_seconds": .histogram(
                            CounterHistogram(boundsSeconds: [0.001], counts: [98, 2], sumSeconds: 1))
                    ])
            ],
            main: ["workers_died_total": .number(0)],
            descriptions: [
                "refusals_total": CounterDescription(kind: .counter, help: "Clients refused", label: "reason"),
                "message_received_bytes_total": CounterDescription(kind: .counter, help: "Bytes", unit: "bytes"),
            ])
        #expect(
            CounterReport(result).lines(width: nil).map(\.text).joined(separator: "\n") == """
                Since 2026-11-28T09:00:00Z

                service coap
                  handshakes_total{label=abandoned}        7
                  handshakes_total{label=full}         1,200
                  message_received_bytes_total       2.0 KiB
                  refusals_total{reason=denied}            5

                worker 0
                  loop_turn_duration_seconds    100
                    50%                       ≤1 ms
                    99%                       >1 ms
                """)
        #expect(
            CounterReport(result, words: ["refusals", "died"], includesZero: true).lines(width: nil).map(\.text)
                .joined(separator: "\n") == """
                    Since 2026-11-28T09:00:00Z

                    service coap
                      refusals_total{reason=denied}  5
                      refusals_total{reason=full}    0

                    main process
                      workers_died_total  0
                    """)
    }
}
