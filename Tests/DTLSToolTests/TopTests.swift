import ControlProtocol
import Primitives
import Testing

@testable import dtls

@Suite struct KeyTests {
    private func keys(_ chunks: String...) -> [Key] {
        var parser = KeyParser()
        return chunks.flatMap { parser.parse(Array($0.utf8)) }
    }

    @Test func `keys are read from a terminal's bytes, also where they arrive in pieces`() {
        #expect(keys("q\r\u{7f}\u{c}") == [.character("q"), .enter, .backspace, .redraw])
        #expect(
            keys("\u{1b}[A\u{1b}OB\u{1b}[5~\u{1b}[6~\u{1b}[H\u{1b}[4~") == [
                .up, .down, .pageUp, .pageDown, .home, .end,
            ])
        #expect(keys("\u{1b}", "[", "1;5", "B") == [.down])
    }

    @Test func `sequences and characters that are no keys are ignored`() {
        #expect(keys("\u{1b}[99X\u{1b}[?1;2cx\u{0}é") == [.character("x")])
        #expect(keys("\u{1b}[" + String(repeating: "1", count: 100_000) + "Ax") == [.up, .character("x")])
    }

    @Test func `ESC alone is a key once nothing has followed it`() {
        var parser = KeyParser()
        #expect(parser.parse([0x1b]) == [])
        #expect(parser.isUndecided)
        #expect(parser.pause() == .escape)
        #expect(parser.pause() == nil)
        #expect(parser.parse([0x61]) == [.character("a")])
    }
}

@Suite struct TopTests {
    private func at(_ seconds: UInt64) -> Instant { Instant(nanoseconds: (seconds + 1_000) * 1_000_000_000) }

    /// After two answers, two seconds apart.
    private func model() -> TopModel {
        var model = TopModel()
        model.add(
            Samples.status(
                services: [
                    Samples.service("coap", open: 1_200, Samples.counters(full: 10, denied: 5, messages: 100)),
                    Samples.service("syslog", open: 34, Samples.counters()),
                ], workers: [Samples.worker(0, Samples.counters(messages: 100))]), at: at(0))
        model.add(active: [Samples.connection(1), Samples.connection(2)], newest: [], at: at(0))
        model.add(
            Samples.status(
                services: [
                    Samples.service(
                        "coap", open: 1_201,
                        Samples.counters(
                            full: 17, timedOut: 1, denied: 9, forged: 3, messages: 300, receivedBytes: 4_096)),
                    Samples.service("syslog", open: 33, Samples.counters(messages: 3, sentBytes: 1_000_000)),
                ], workers: [Samples.worker(0, turns: [90, 60, 0], Samples.counters(messages: 303))]), at: at(2))
        model.add(
            active: [Samples.connection(1, received: 20_480), Samples.connection(2)],
            newest: [Samples.connection(3, age: 1, received: 100, sent: 0, identity: nil, state: .handshake)], at: at(2)
        )
        return model
    }

    private func screen(_ model: TopModel, columns: Int = 120, rows: Int = 24, after seconds: UInt64 = 2) -> String {
        TopScreen(model, size: TerminalSize(columns: columns, rows: rows), at: at(seconds)).lines.map(\.text)
            .joined(separator: "\n")
    }

    @Test func `the screen shows rates between two answers, what was refused, and connections`() {
        #expect(
            screen(model()) == """
                dtlsd 0.1.0 serving, up 3h 12m, process 100
                1,234 connections, 1 handshaking, 900 parked; 1 worker

                SERVICE   OPEN  HANDSHAKING  PARKED  HANDSHAKES/s  FAILED/s  REFUSED/s  MSG IN/s  MSG OUT/s  RECEIVED/s   SENT/s
                syslog      33            1       1             0         0          0       1.5        1.5         0 B  488 KiB
                coap     1,201            1       1           3.5       0.5          2       100        100     2.0 KiB      0 B

                WORKER  PID  STATE    OPEN  SOCKETS  HANDSHAKES/s  MSG IN/s  MSG OUT/s  LOOP 99%    MEMORY     FILES
                     0  101  serving     2        1             0       102        102     ≤1 ms  12.0 MiB  31/1,024

                REFUSED, FAILED, DROPPED  OF    PER SECOND  IN ALL
                refused: denied           coap           2       9
                dropped: forged           coap         1.5       3
                handshake: timed_out      coap         0.5       1

                BUSIEST           SERVICE  PEER            RECEIVED/s  SENT/s    AGE  IDENTITY
                0000000000000001  coap     192.0.2.7:4701     5.0 KiB     0 B  1m 5s  sensor-7
                0000000000000003  coap     192.0.2.7:4703       100 B     0 B   1.0s

                NEWEST            SERVICE  PEER            STATE       AGE  IDLE  IDENTITY
                0000000000000003  coap     192.0.2.7:4703  handshake  1.0s  0.3s


                q quit   s sort: traffic   f filter: all   p pause   ? help
                """)
    }

    @Test(arguments: [(20, 5), (40, 10), (80, 24), (200, 60), (3, 2), (1, 1)])
    func `a screen has the size of its terminal whatever that is`(columns: Int, rows: Int) {
        let lines = TopScreen(model(), size: TerminalSize(columns: columns, rows: rows), at: at(2)).lines
        #expect(lines.count == rows)
        for line in lines { #expect(line.width <= columns) }
    }

    @Test func `what does not fit is reached by scrolling, and no further`() {
        var model = model()
        let size = TerminalSize(columns: 120, rows: 12)
        #expect(screen(model, rows: 12).contains("SERVICE"))
        _ = model.handle(.end)
        model.limitScroll(to: TopScreen(model, size: size, at: at(2)).mostScroll)
        let lines = screen(model, rows: 12)
        #expect(!lines.contains("HANDSHAKING"))
        #expect(lines.contains("NEWEST"))
        let most = model.scroll
        _ = model.handle(.down)
        model.limitScroll(to: TopScreen(model, size: size, at: at(2)).mostScroll)
        #expect(model.scroll == most)
        _ = model.handle(.up)
        #expect(model.scroll == most - 1)
        _ = model.handle(.home)
        #expect(model.scroll == 0)
    }

    @Test func `there are no rates before the second answer, nor across processes`() {
        var model = TopModel()
        let service = Samples.service("coap", Samples.counters(full: 5))
        model.add(Samples.status(services: [service]), at: at(0))
        #expect(!model.hasRates)
        #expect(model.targetRates.first?.rates.handshakes == nil)
        model.add(Samples.status(services: [service], pid: 200), at: at(2))
        #expect(!model.hasRates)
        model.add(Samples.status(services: [service], pid: 200), at: at(4))
        #expect(model.targetRates.first?.rates.handshakes == 0)
    }

    @Test func `rates are not made of answers that follow each other at once`() {
        var model = TopModel()
        func add(_ handshakes: UInt64, milliseconds: UInt64) {
            model.add(
                Samples.status(services: [Samples.service("coap", Samples.counters(full: handshakes))]),
                at: Instant(nanoseconds: milliseconds * 1_000_000))
        }
        add(0, milliseconds: 1_000)
        add(1, milliseconds: 1_001)
        #expect(!model.hasRates)
        add(5, milliseconds: 3_001)
        #expect(model.targetRates.first?.rates.handshakes == 2)
        add(6, milliseconds: 3_002)
        #expect(model.targetRates.first?.rates.handshakes ?? 0 < 3)
    }

    @Test func `a counter that has become smaller gives no rate`() {
        var model = TopModel()
        model.add(Samples.status(services: [Samples.service("coap", Samples.counters(full: 5))]), at: at(0))
        model.add(Samples.status(services: [Samples.service("coap", Samples.counters(full: 2))]), at: at(2))
        #expect(model.targetRates.first?.rates.handshakes == nil)
        #expect(model.targetRates.first?.rates.refusals == 0)
    }

    @Test func `a connection that was not listed before has a rate if it is younger than the last list`() {
        var model = TopModel()
        model.add(active: [Samples.connection(1)], newest: [], at: at(0))
        #expect(model.busiest.isEmpty)
        model.add(
            active: [
                Samples.connection(1, received: 12_240), Samples.connection(2, age: 1, received: 4_000, sent: 0),
                Samples.connection(3, age: 65),
            ], newest: [], at: at(2))
        #expect(model.busiest.map(\.connection.connection) == ["0000000000000002", "0000000000000001"])
        #expect(model.busiest.map(\.rate) == [4_000, 1_000])
    }

    @Test func `s goes through the orders of services`() {
        var model = model()
        #expect(model.targetRates.map(\.name) == ["syslog", "coap"])
        _ = model.handle(.character("s"))
        #expect(model.sort == .connections)
        #expect(model.targetRates.map(\.name) == ["coap", "syslog"])
        for _ in 0..<4 { _ = model.handle(.character("s")) }
        #expect(model.sort == .traffic)
    }

    @Test func `f limits what is shown to the service whose name was begun, and ESC ends that`() {
        var model = model()
        _ = model.handle(.character("f"))
        for character in "sysx" { _ = model.handle(.character(character)) }
        _ = model.handle(.backspace)
        #expect(screen(model).hasSuffix("Service or client (empty: all): sys_"))
        #expect(model.handle(.enter) == .refresh)
        #expect(model.targetRates.map(\.name) == ["syslog"])
        #expect(model.connectionQueries.newest.filter.service == "syslog")
        #expect(model.troubles == [])
        #expect(model.handle(.escape) == .refresh)
        #expect(model.targetRates.count == 2)
        #expect(model.connectionQueries.newest.filter.isEmpty)
    }

    @Test func `a name that no service has changes nothing, and is said so in safety`() {
        var model = model()
        model.filter(by: "x\u{1b}[2J")
        #expect(model.targetRates.count == 2)
        #expect(screen(model).hasSuffix(#"there is no service or client "x\u{1b}[2J""#))
    }

    @Test func `p pauses, and asks at once when it goes on`() {
        var model = model()
        #expect(model.handle(.character("p")) == nil)
        #expect(model.isPaused)
        #expect(screen(model).contains("PAUSED"))
        #expect(model.handle(.character("p")) == .refresh)
    }

    @Test func `the help says what each key does, and any key but q leads back`() {
        var model = model()
        _ = model.handle(.character("?"))
        #expect(screen(model).contains("Ctrl-L       draw the screen again"))
        #expect(model.handle(.character("x")) == nil)
        #expect(model.mode == .normal)
        _ = model.handle(.character("?"))
        #expect(model.handle(.character("q")) == .quit)
    }

    @Test func `a daemon that does not answer is shown as such, beside what was known last`() {
        var model = model()
        model.lose("Nobody listens.", at: at(3))
        model.lose("Nobody listens.", at: at(4))
        let lines = screen(model, after: 9).split(separator: "\n", omittingEmptySubsequences: false)
        #expect(lines[2] == "dtlsd does not answer (for 6s); trying again. Nobody listens.")
        #expect(screen(model, after: 9).contains("syslog"))
        model.add(Samples.status(), at: at(10))
        #expect(model.link == .answering)
    }

    @Test func `the snapshot has all that the screen has, without keys`() {
        let text = TopScreen.snapshot(of: model(), width: nil, at: at(2)).map(\.text).joined(separator: "\n")
        #expect(text.contains("NEWEST"))
        #expect(text.contains("syslog"))
        #expect(!text.contains("quit"))
    }
}
