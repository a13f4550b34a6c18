import DTLSEngine
import Foundation
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

@Suite struct QuestionQueueTests {
    private let start = Instant(nanoseconds: 1_000_000_000)

    private func sent(_ queue: inout QuestionQueue<Int>, room: Int = .max) -> [[UInt8]] {
        var sent: [[UInt8]] = []
        queue.sendAll {
            guard sent.count < room else { return false }
            sent.append($0)
            return true
        }
        return sent
    }

    @Test func `questions leave in their order, as room comes`() {
        var queue = QuestionQueue<Int>()
        for number in 1...5 { queue.add(UInt64(number), [UInt8(number)], number, now: start, timeout: .seconds(4)) }
        #expect(sent(&queue, room: 2) == [[1], [2]] && queue.hasUnsent)
        // Answered before it was asked: nobody asks it any more.
        #expect(queue.takeAnswered(3) == 3)
        #expect(sent(&queue) == [[4], [5]] && !queue.hasUnsent)
        #expect(queue.takeAnswered(1) == 1 && queue.takeAnswered(1) == nil && queue.takeAnswered(9) == nil)
    }

    @Test func `a question is asked once more, and then its time is over`() {
        var queue = QuestionQueue<Int>()
        queue.add(1, [1], 1, now: start, timeout: .seconds(4))
        queue.add(2, [2], 2, now: start + .seconds(1), timeout: .seconds(4))
        _ = sent(&queue)
        #expect(queue.deadline == start + .seconds(2))
        #expect(queue.takeExpired(now: start + .seconds(2)).isEmpty)
        #expect(sent(&queue) == [[1]])
        #expect(queue.takeExpired(now: start + .seconds(3)).isEmpty)
        #expect(sent(&queue) == [[2]])
        #expect(queue.takeExpired(now: start + .milliseconds(3_900)).isEmpty && sent(&queue).isEmpty)
        #expect(queue.takeExpired(now: start + .seconds(4)) == [1])
        #expect(queue.deadline == start + .seconds(5))
        #expect(queue.takeExpired(now: start + .seconds(5)) == [2])
        #expect(queue.isEmpty && queue.deadline == .distantFuture)
    }

    @Test func `another authorizer is asked everything again`() {
        var queue = QuestionQueue<Int>()
        for number in 1...3 {
            queue.add(
                UInt64(number), [UInt8(number)], number, now: start + .seconds(number), timeout: .seconds(4))
        }
        _ = sent(&queue)
        _ = queue.takeAnswered(2)
        queue.sendAllAgain()
        #expect(sent(&queue) == [[1], [3]])
    }

    @Test func `a full queue takes no more`() {
        var queue = QuestionQueue<Int>(capacity: 2)
        for number in 1...3 { queue.add(UInt64(number), [], number, now: start, timeout: .seconds(4)) }
        #expect(queue.isFull && queue.takeAnswered(3) == nil)
        #expect(queue.takeAnswered(1) == 1 && !queue.isFull)
    }
}

@Suite struct AnswerCacheTests {
    private let start = Instant(nanoseconds: 1_000_000_000)

    @Test func `an answer holds until its time is over`() {
        var cache = AnswerCache(capacity: 10)
        cache.keep(.allowed(label: "gold"), to: [1], until: start + .seconds(2))
        #expect(cache.answer(to: [1], now: start + .seconds(1)) == .allowed(label: "gold"))
        #expect(cache.answer(to: [2], now: start) == nil)
        #expect(cache.answer(to: [1], now: start + .seconds(2)) == nil && cache.count == 0)
    }

    @Test func `the oldest answers make room`() {
        var cache = AnswerCache(capacity: 100)
        for number in 0..<1_000 {
            cache.keep(
                .allowed(label: "\(number)"), to: [UInt8(number % 256), UInt8(number / 256)], until: .distantFuture)
            #expect(cache.count <= 100)
        }
        #expect(cache.answer(to: [UInt8(899 % 256), 3], now: start) == nil)
        #expect(cache.answer(to: [UInt8(900 % 256), 3], now: start) == .allowed(label: "900"))
        cache.keep(.refused(reason: "no"), to: [UInt8(999 % 256), 3], until: .distantFuture)
        #expect(cache.answer(to: [UInt8(999 % 256), 3], now: start) == .refused(reason: "no") && cache.count == 100)
        var none = AnswerCache(capacity: 0)
        none.keep(.allowed(), to: [1], until: .distantFuture)
        #expect(none.answer(to: [1], now: start) == nil)
    }
}

/// The socket of a worker to an authorizer, which the test is.
@Suite final class AuthorizerLinkTests {
    private let folder: String
    private let loop: EventLoop
    private var dropped: [DroppedAnswer] = []
    private lazy var link = AuthorizerLink(
        path, loop: loop, logs: WorkerLogs(worker: 0, loop: loop), onDropped: { [unowned self] in dropped.append($0) })
    private var outcomes: [String] = []

    private var path: String { "\(folder)/authorizer" }

    init() throws {
        folder = try makeTemporaryFolder()
        loop = try EventLoop()
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    private func ask(_ text: String, timeout: Duration = .seconds(30)) {
        loop.renewTime()
        func datagram(_ id: UInt64) -> [UInt8] { Array("\(AuthorizationText.text(of: id)) \(text)".utf8) }
        link.ask(datagram, timeout: timeout) {
            [unowned self] outcome in
            switch outcome {
            case .verdict(let verdict):
                outcomes.append("\(text): \(verdict.answer == .allowed() ? "allowed" : "refused")")
            case .malformed: outcomes.append("\(text): malformed")
            case .noAnswer: outcomes.append("\(text): no answer")
            case .unreachable: outcomes.append("\(text): unreachable")
            case .busy: outcomes.append("\(text): busy")
            }
        }
    }

    /// Turns the loop until something holds, for at most a minute.
    private func turn(until condition: () -> Bool) throws {
        for _ in 0..<3_000 {
            if condition() { return }
            try loop.poll(timeout: .milliseconds(20))
        }
        try #require(Bool(false), "this never happened; \(outcomes)")
    }

    /// The next question: its id, its text, and who asks.
    private func question(_ socket: DatagramSocket) throws -> (id: String, text: String, from: DatagramSocket.Sender) {
        var found: (bytes: [UInt8], from: DatagramSocket.Sender)?
        try turn {
            found = socket.receiveAtOnce()
            return found != nil
        }
        let words = String(decoding: try #require(found).bytes, as: UTF8.self).split(separator: " ")
        return (String(words[0]), String(words[1]), try #require(found).from)
    }

    private func answer(_ id: String, _ more: String, _ socket: DatagramSocket, to asker: DatagramSocket.Sender) {
        socket.send(Array("{\"id\":\"\(id)\",\(more)}".utf8), to: asker)
    }

    @Test func `answers find their questions, in any order`() throws {
        let server = try DatagramSocket(atPath: path)
        ask("one")
        ask("two")
        let (one, two) = (try question(server), try question(server))
        #expect(one.text == "one" && two.text == "two" && one.id != two.id)
        answer(two.id, "\"allow\":true", server, to: two.from)
        answer(one.id, "\"allow\":false", server, to: one.from)
        try turn { outcomes.count == 2 }
        #expect(outcomes == ["two: allowed", "one: refused"])
        // Once more, and to nobody.
        answer(one.id, "\"allow\":true", server, to: one.from)
        answer("0000000000000000", "\"allow\":true", server, to: one.from)
        server.send(Array("garbage".utf8), to: one.from)
        try turn { dropped.count == 3 }
        #expect(dropped == [.late, .late, .malformed] && outcomes.count == 2)
    }

    @Test func `a wrong answer ends its question`() throws {
        let server = try DatagramSocket(atPath: path)
        ask("one")
        let one = try question(server)
        answer(one.id, "\"allow\":1", server, to: one.from)
        try turn { !outcomes.isEmpty }
        #expect(outcomes == ["one: malformed"] && dropped.isEmpty)
    }

    @Test func `without an answer the time runs out, and the question is repeated once`() throws {
        let server = try DatagramSocket(atPath: path)
        ask("one", timeout: .milliseconds(200))
        try turn { !outcomes.isEmpty }
        #expect(outcomes == ["one: no answer"])
        let (first, second) = (try question(server), try question(server))
        #expect(first.id == second.id && server.receiveAtOnce() == nil)
    }

    @Test func `more than the authorizer's queue holds is asked as it makes room`() throws {
        let server = try DatagramSocket(atPath: path)
        let count = 2_000
        for number in 0..<count { ask("\(number)") }
        var asked: [String] = []
        while asked.count < count {
            let next = try question(server)
            asked.append(next.text)
            answer(next.id, "\"allow\":true", server, to: next.from)
            try loop.poll(timeout: .zero)
        }
        #expect(asked == (0..<count).map { "\($0)" })
        try turn { outcomes.count == count }
        #expect(outcomes.allSatisfy { $0.hasSuffix("allowed") })
    }

    @Test func `an authorizer that is not there, or not any more, is waited for`() throws {
        ask("early")
        try loop.poll(timeout: .zero)
        var server: DatagramSocket? = try DatagramSocket(atPath: path)
        let early = try question(try #require(server))
        answer(early.id, "\"allow\":true", try #require(server), to: early.from)
        try turn { outcomes == ["early: allowed"] }
        ask("lost")
        _ = try question(try #require(server))
        server = nil
        try FileManager.default.removeItem(atPath: path)
        // It has the question that the other one has not answered.
        let other = try DatagramSocket(atPath: path)
        ask("late")
        let questions = [try question(other), try question(other)]
        #expect(Set(questions.map(\.text)) == ["lost", "late"])
        for each in questions { answer(each.id, "\"allow\":true", other, to: each.from) }
        try turn { outcomes.count == 3 }
        #expect(outcomes.allSatisfy { $0.hasSuffix("allowed") })
    }

    @Test func `an authorizer that stays away is unreachable`() throws {
        ask("one", timeout: .milliseconds(150))
        try turn { !outcomes.isEmpty }
        #expect(outcomes == ["one: unreachable"])
    }

    @Test func `nobody but the authorizer can answer`() throws {
        let server = try DatagramSocket(atPath: path)
        let stranger = try DatagramSocket(atPath: "\(folder)/stranger")
        ask("one")
        let one = try question(server)
        answer(one.id, "\"allow\":true", stranger, to: one.from)
        answer(one.id, "\"allow\":false", server, to: one.from)
        try turn { !outcomes.isEmpty }
        #expect(outcomes == ["one: refused"])
        try loop.poll(timeout: .milliseconds(20))
        #expect(dropped.isEmpty)
    }

    @Test func `too many questions are refused at once`() throws {
        for number in 0...4_096 { ask("\(number)") }
        #expect(outcomes == ["4096: busy"])
    }
}
