import ControlProtocol
import Primitives
import Testing

@Suite struct RequestTests {
    private func request(_ line: String) -> Result<ControlRequest, RefusedRequest> {
        ControlProtocol.request(from: Array(line.utf8))
    }

    private func command(_ arguments: String) throws -> ControlCommand {
        try request("{\"version\":1,\(arguments)}").get().command
    }

    private func refusal(_ line: String) -> ControlError? {
        if case .failure(let refused) = request(line) { refused.error } else { nil }
    }

    static let commands: [ControlCommand] = {
        var query = ConnectionsQuery()
        query.filter = ConnectionFilter(
            service: "coap", client: "out", prefix: "192.0.2.0/24", identity: "sensor-7", state: .parked)
        query.connectionID = "c0ffee"
        query.sort = .traffic
        query.order = .ascending
        query.limit = 7
        query.cursor = "5.00000000000000aa"
        return [
            .status, .counters, .connections(ConnectionsQuery()), .connections(query), .connection("0000010000020003"),
            .close(.connection("0000010000020003")), .close(.matching(ConnectionFilter(prefix: "2001:db8::/32"))),
            .close(.all), .reload, .drain(worker: nil), .drain(worker: 3), .upgrade,
            .logLevel(LogLevelChange(level: .debug, seconds: 60)),
            .trace(.begin(address: "[2001:db8::1]:4711", seconds: 30)), .trace(.end),
        ]
    }()

    @Test(arguments: commands)
    func `a request reads as it was written`(_ command: ControlCommand) throws {
        for id in [nil, RequestID.number(-7), .text("a")] {
            let line = try ControlProtocol.encode(ControlRequest(command, id: id))
            #expect(!line.contains(10))
            let read = try ControlProtocol.request(from: line).get()
            #expect(read == ControlRequest(command, id: id))
        }
    }

    @Test func `arguments that are left out have their defaults`() throws {
        #expect(try command(#""command":"connections""#) == .connections(ConnectionsQuery()))
        #expect(
            try command(#""command":"log_level","level":"debug""#) == .logLevel(LogLevelChange(level: .debug)))
        #expect(
            try command(#""command":"trace","address":"::1""#) == .trace(.begin(address: "::1", seconds: 300)))
    }

    @Test(arguments: [
        "", "x", "{", "[]", "7", "null", "\"status\"", "{}", #"{"version":1}"#, #"{"command":"status"}"#,
        #"{"version":"1","command":"status"}"#, #"{"version":1,"command":7}"#, #"{"version":1.5,"command":"status"}"#,
        #"{"version":1,"command":"status","id":[]}"#, #"{"version":1,"command":"status","verbose":true}"#,
        #"{"version":1,"command":"connection"}"#, #"{"version":1,"command":"connection","connection":7}"#,
        #"{"version":1,"command":"connections","limit":0}"#, #"{"version":1,"command":"connections","limit":1001}"#,
        #"{"version":1,"command":"connections","limit":1e30}"#, #"{"version":1,"command":"connections","sort":"name"}"#,
        #"{"version":1,"command":"log_level"}"#, #"{"version":1,"command":"log_level","level":"loud"}"#,
        #"{"version":1,"command":"log_level","level":"debug","seconds":-1}"#,
        #"{"version":1,"command":"log_level","level":"debug","seconds":86401}"#,
        #"{"version":1,"command":"log_level","level":"debug","seconds":1e400}"#,
        #"{"version":1,"command":"trace"}"#, #"{"version":1,"command":"trace","address":"::1","off":true}"#,
        #"{"version":1,"command":"drain","worker":"1"}"#, "{\"version\":1,\"command\":\"status\"}\u{0}",
    ])
    func `what is no request is a bad one`(_ line: String) {
        #expect(refusal(line)?.knownCode == .badRequest)
    }

    @Test(arguments: [
        "", #","all":false"#, #","all":true,"service":"a""#, #","connection":"1","service":"a""#,
        #","connection":"1","all":true"#, #","prefx":"10.0.0.0/8","service":"a""#, #","state":"open""#,
    ])
    func `close closes nothing where it is not said clearly what`(_ arguments: String) {
        #expect(refusal("{\"version\":1,\"command\":\"close\"\(arguments)}")?.knownCode == .badRequest)
    }

    @Test func `the message says which argument is wrong`() {
        #expect(
            refusal(#"{"version":1,"command":"close","service":"a","prefx":"b"}"#)?.message
                == "The request cannot be read: close has no argument 'prefx'.")
        #expect(
            refusal(#"{"version":1,"command":"connection","connection":7}"#)?.message
                == "The request cannot be read: 'connection': the value is not a string.")
        #expect(
            refusal(#"{"version":1,"command":"connection"}"#)?.message
                == "The request cannot be read: 'connection' is missing.")
        #expect(refusal("{")?.message == "The request cannot be read: it is not valid JSON.")
    }

    @Test func `a request of another version and an unknown command are told apart, with the id given back`() {
        guard case .failure(let version) = request(#"{"version":2,"id":"a","command":"dance","with":[]}"#),
            case .failure(let command) = request(#"{"version":1,"id":9,"command":"dance"}"#)
        else {
            Issue.record("the requests were not refused")
            return
        }
        #expect(version.id == .text("a"))
        #expect(version.error.knownCode == .unsupportedVersion)
        #expect(command.id == .number(9))
        #expect(command.error.knownCode == .unknownCommand)
    }

    @Test func `a message repeats no control character and no long text of the request`() {
        let long = String(repeating: "x", count: 10_000)
        let message = refusal("{\"version\":1,\"command\":\"\\u001b[2J\(long)\"}")?.message ?? ""
        #expect(message.hasPrefix("There is no command '?[2Jxxx"))
        #expect(message.utf8.count < 400)
    }

    @Test func `deep nesting is refused without a deep stack`() {
        let deep = String(repeating: "[", count: 32_000) + String(repeating: "]", count: 32_000)
        #expect(refusal(deep)?.knownCode == .badRequest)
        #expect(refusal("{\"version\":1,\"command\":\"status\",\"x\":\(deep)}")?.knownCode == .badRequest)
        let objects = String(repeating: "{\"a\":", count: 10_000)
        #expect(refusal(objects)?.knownCode == .badRequest)
    }
}

@Suite struct AnswerTests {
    @Test func `an answer reads as it was written, with its id`() throws {
        let good = ControlAnswer(.success(CloseResult(count: 3)), id: .number(7))
        let line = try ControlProtocol.encode(good)
        #expect(
            String(decoding: line, as: UTF8.self) == #"{"id":7,"ok":true,"result":{"count":3},"version":1}"#)
        let read = try ControlProtocol.decode(ControlAnswer<CloseResult>.self, from: line)
        #expect(read.id == .number(7))
        #expect(read.result == .success(CloseResult(count: 3)))

        let error = ControlError(.failed, "The reload has failed.", problems: ["a.toml:3: no", "a.toml:4: nor this"])
        let bad = ControlAnswer<CloseResult>(.failure(error), id: nil)
        let answer = try ControlProtocol.decode(
            ControlAnswer<CloseResult>.self, from: try ControlProtocol.encode(bad))
        #expect(answer.result == .failure(error))
        #expect(answer.id == nil)
    }

    @Test func `counters of all forms read as they were written`() throws {
        let values: CounterValues = [
            "handshakes_total": .labelled(["full": 3, "resumed": .max]), "empty": .labelled([:]),
            "datagrams_total": .number(.max), "load": .measure(0.25),
            "handshake_seconds": .histogram(
                CounterHistogram(boundsSeconds: [0.001, 0.5], counts: [1, 2, 3], sumSeconds: 1.25)),
        ]
        let line = try ControlProtocol.encode(values)
        #expect(try ControlProtocol.decode(CounterValues.self, from: line) == values)
    }

    @Test func `a connection in full is one object with the fields of the list`() throws {
        let summary = ConnectionSummary(
            connection: "0000010000020003", service: "coap", client: nil, peer: "192.0.2.7:4711",
            local: "192.0.2.1:5684", state: .established, worker: 3, ageSeconds: 12.5, idleSeconds: 0.25,
            receivedBytes: 1, sentBytes: 2, receivedMessages: 3, sentMessages: 4, identity: nil, version: "DTLSv1.2",
            cipher: "x")
        var full = ConnectionResult(summary: summary, startedAt: "2026-11-28T09:30:00Z")
        full.ownConnectionID = "c0ffee"
        let line = try ControlProtocol.encode(full)
        #expect(try ControlProtocol.decode(ConnectionResult.self, from: line) == full)
        #expect(try ControlProtocol.decode(ConnectionSummary.self, from: line) == summary)
    }
}

@Suite struct TimestampTests {
    @Test(arguments: [
        (0, "1970-01-01T00:00:00Z"), (951_782_399, "2000-02-28T23:59:59Z"), (951_782_400, "2000-02-29T00:00:00Z"),
        (1_795_857_006, "2026-11-28T09:10:06Z"), (-1, "1969-12-31T23:59:59Z"), (4_107_542_400, "2100-03-01T00:00:00Z"),
        (Int64.max, "9999-12-31T23:59:59Z"), (Int64.min, "0000-01-01T00:00:00Z"),
    ])
    func `times are as date(1) writes them`(_ seconds: Int64, _ text: String) {
        #expect(Timestamp.text(UnixTime(seconds: seconds)) == text)
    }
}
