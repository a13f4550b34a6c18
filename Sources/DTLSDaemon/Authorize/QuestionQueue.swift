import Primitives

/// The questions that wait for an answer, without socket and clock: those that are still to be sent, in their order, and
/// those that were sent.
///
/// A question is sent once more when half of its time is over: an authorizer that was restarted has lost those that waited
/// in its socket, and nothing else tells of that.
struct QuestionQueue<Waiter> {
    private struct Question {
        let datagram: [UInt8]
        let waiter: Waiter
        let deadline: Instant
        /// When it is sent again; `nil` where it was.
        var repetition: Instant?
    }

    /// The most that wait at a time. The limit of handshakes is above them all.
    let capacity: Int
    private var questions: [UInt64: Question] = [:]
    /// Their ids; some may be answered already, and none is there twice.
    private var unsent: [UInt64] = []

    init(capacity: Int = 4_096) { self.capacity = capacity }

    var isEmpty: Bool { questions.isEmpty }
    var isFull: Bool { questions.count >= capacity }
    /// Whether there is a question to be sent.
    var hasUnsent: Bool { !unsent.isEmpty }
    /// When ``takeExpired(now:)`` has something to do; `Instant.distantFuture` where it never has.
    var deadline: Instant {
        questions.values.reduce(.distantFuture) { min($0, $1.deadline, $1.repetition ?? .distantFuture) }
    }

    /// Takes a question, unless the queue is full.
    mutating func add(_ id: UInt64, _ datagram: [UInt8], _ waiter: Waiter, now: Instant, timeout: Duration) {
        guard !isFull else { return }
        questions[id] = Question(
            datagram: datagram, waiter: waiter, deadline: now + timeout, repetition: now + timeout / 2)
        unsent.append(id)
    }

    /// Sends what is to be sent, in its order.
    /// - Parameter send: returns false where there is no room for the datagram now.
    mutating func sendAll(_ send: ([UInt8]) -> Bool) {
        var count = 0
        for id in unsent {
            if let question = questions[id], !send(question.datagram) { break }
            count += 1
        }
        unsent.removeFirst(count)
    }

    /// Has all questions sent again, to an authorizer that has got none of them.
    mutating func sendAllAgain() {
        unsent = questions.sorted { $0.value.deadline < $1.value.deadline }.map(\.key)
    }

    /// Ends a question that was answered.
    /// - Returns: who waits for the answer; `nil` where nobody does.
    mutating func takeAnswered(_ id: UInt64) -> Waiter? {
        guard let waiter = questions.removeValue(forKey: id)?.waiter else { return nil }
        if let index = unsent.firstIndex(of: id) { unsent.remove(at: index) }
        return waiter
    }

    /// Ends the questions whose time is over, and has others sent again whose time has come for that.
    /// - Returns: who has waited.
    mutating func takeExpired(now: Instant) -> [Waiter] {
        var waiters: [Waiter] = []
        for (id, question) in questions {
            if question.deadline <= now {
                waiters.append(question.waiter)
                questions[id] = nil
            } else if let repetition = question.repetition, repetition <= now {
                questions[id]?.repetition = nil
                if !unsent.contains(id) { unsent.append(id) }
            }
        }
        unsent.removeAll { questions[$0] == nil }
        return waiters
    }
}
