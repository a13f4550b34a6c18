/// The tasks that wait for one thing on the loop, in the order in which they came. Each is resumed once.
@DtlsLoop final class Waiters {
    private var waiting: [(number: UInt64, continuation: CheckedContinuation<Void, any Error>)] = []
    private var last: UInt64 = 0

    /// Returns when it is woken; throws `CancellationError` when the task is cancelled first. It may be woken for
    /// nothing: look again.
    func wait() async throws {
        last &+= 1
        let number = last
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
                if Task.isCancelled {
                    continuation.resume(throwing: CancellationError())
                } else {
                    waiting.append((number, continuation))
                }
            }
        } onCancel: {
            // Comes to the loop after the continuation was stored: nothing suspends before that.
            Task { @DtlsLoop in cancel(number) }
        }
    }

    func wakeAll() {
        let woken = waiting
        waiting = []
        for waiter in woken { waiter.continuation.resume() }
    }

    private func cancel(_ number: UInt64) {
        guard let index = waiting.firstIndex(where: { $0.number == number }) else { return }
        waiting.remove(at: index).continuation.resume(throwing: CancellationError())
    }
}
