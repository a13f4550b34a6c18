import ControlProtocol
import Primitives
import Testing

@testable import DTLSDaemon

/// What becomes of what a client of the control socket sends, without a socket or a clock.
@Suite struct ControlSessionTests {
    private let start = Instant(nanoseconds: 1_000_000_000)

    private func receive(_ session: inout ControlSession, _ text: String, at now: Instant? = nil)
        -> [ControlSession.Action]
    {
        Array(text.utf8).withUnsafeBytes { session.received($0, now: now ?? start) }
    }

    private func unsent(_ session: ControlSession) -> String { String(decoding: session.unsent, as: UTF8.self) }

    @Test func `requests are carried out one after the other, each once the answer before was read`() {
        var session = ControlSession(now: start)
        let status = #"{"version":1,"id":1,"command":"status"}"#
        let reload = #"{"version":1,"id":2,"command":"reload"}"#
        #expect(
            receive(&session, "\(status)\n\(reload)\n") == [.perform(ControlRequest(.status, id: .number(1)))])
        #expect(session.interest == .nothing)
        #expect(session.answered(Array("one".utf8), now: start) == [])
        #expect(session.interest == .output && unsent(session) == "one\n")
        #expect(session.written(3, now: start) == [])
        #expect(session.written(1, now: start) == [.perform(ControlRequest(.reload, id: .number(2)))])
        #expect(session.answered(Array("two".utf8), now: start) == [])
        #expect(session.written(4, now: start) == [])
        #expect(session.interest == .input)
    }

    @Test func `a line that is no request is answered, and the next one is carried out`() {
        var session = ControlSession(now: start)
        #expect(receive(&session, "garbage\r\n{\"version\":1,\"command\":\"status\"}\n") == [])
        #expect(unsent(session).contains(#""code":"bad_request""#))
        #expect(session.written(session.unsent.count, now: start) == [.perform(ControlRequest(.status))])
    }

    @Test func `a request that is too long is answered, and then the client is gone`() {
        var session = ControlSession(now: start)
        let long = String(repeating: "x", count: 40_000)
        #expect(receive(&session, long) == [])
        #expect(session.interest == .input)
        #expect(receive(&session, long) == [])
        #expect(unsent(session).contains("longer than 65536 bytes"))
        #expect(session.written(session.unsent.count, now: start) == [.close])
        #expect(receive(&session, "{\"version\":1,\"command\":\"status\"}\n") == [])
    }

    @Test func `a client that has said all gets its answers`() {
        var session = ControlSession(now: start)
        #expect(
            receive(&session, "{\"version\":1,\"command\":\"status\"}\nhalf") == [.perform(ControlRequest(.status))])
        #expect(session.inputEnded(now: start) == [])
        #expect(session.answered([1], now: start) == [])
        #expect(session.written(2, now: start) == [.close])
        var silent = ControlSession(now: start)
        #expect(silent.inputEnded(now: start) == [.close])
    }

    @Test func `a client has its time for a request and for an answer, and the daemon its own`() {
        let late = start + ControlSession.patience
        var slow = ControlSession(now: start)
        // A byte now and then is no request.
        #expect(receive(&slow, "{", at: late - .seconds(1)) == [])
        #expect(slow.advance(to: late - .nanoseconds(1)) == [])
        #expect(slow.advance(to: late) == [.close])

        var working = ControlSession(now: start)
        _ = receive(&working, "{\"version\":1,\"command\":\"reload\"}\n")
        #expect(working.advance(to: start + .seconds(3_600)) == [])
        #expect(working.answered([1, 2, 3], now: start + .seconds(3_600)) == [])
        #expect(working.written(1, now: start + .seconds(3_600)) == [])
        #expect(working.advance(to: start + .seconds(3_629)) == [])
        #expect(working.advance(to: start + .seconds(3_630)) == [.close])
        #expect(working.unsent.isEmpty && working.interest == .nothing)
    }

    @Test func `an answer to a client that is gone goes nowhere`() {
        var session = ControlSession(now: start)
        _ = receive(&session, "{\"version\":1,\"command\":\"reload\"}\n")
        #expect(session.failed() == [.close])
        #expect(session.failed() == [])
        #expect(session.answered([1], now: start) == [])
        #expect(session.unsent.isEmpty)
    }
}
