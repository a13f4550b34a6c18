import Glibc
import LinuxSystem
import Logging
import Primitives

/// A Unix datagram socket that takes entries: journald's, or a syslog daemon's.
///
/// Its queue has few places (net.unix.max_dgram_qlen, 10 by default), fewer than a batch has messages. Entries that it
/// has no room for wait here in their order, up to a bound; those above it are lost.
final class UnixLogSocket: TimerTarget {
    static let maximumPending = 1_024
    static let maximumPendingBytes = 1 << 20

    private let path: String
    private let loop: EventLoop
    private let logs: WorkerLogs
    /// Made when it is first needed, and tried again where that fails for want of descriptors.
    private var sender: UnixDatagramSender?
    private var pending: PendingQueue
    /// The service that the last entry came from.
    private var service = ""
    /// While the worker is stopping: when entries that wait are given up, and what is called when none waits.
    private var finishing: (deadline: Instant, done: () -> Void)?
    /// Between tries to send the entries that wait. EPOLLOUT is of no use: a socket that is not connected always looks
    /// as if it had room (unix_dgram_poll() asks the connected receiver's queue alone; seen with Linux 6.18).
    private var backoff = Backoff(from: .milliseconds(2), to: .milliseconds(64))

    init(_ path: String, _ budget: PendingBudget, loop: EventLoop, logs: WorkerLogs) {
        self.path = path
        self.loop = loop
        self.logs = logs
        pending = PendingQueue(
            budget, maximumCount: Self.maximumPending, maximumBytes: Self.maximumPendingBytes)
        super.init()
    }

    /// Sends an entry, or keeps it where there is no room. It never waits for the reader.
    func send(_ entry: [UInt8], of service: String) {
        self.service = service
        sendPending()
        entry.withUnsafeBytes { entry in
            if pending.isEmpty {
                guard let error = deliver(entry) else { return }
                guard Self.isFull(error) else { return logLoss(of: 1, error.reason) }
            }
            if !pending.append(entry) {
                logLoss(
                    of: 1, "it has no room, and \(counted(pending.count, "message waits", "messages wait")) already")
            }
        }
        // Otherwise the timer is armed.
        if !pending.isEmpty, backoff.last == .zero { loop.timers.arm(self, at: loop.now + backoff.next()) }
    }

    private func deliver(_ entry: UnsafeRawBufferPointer) -> SystemError? {
        do throws(SystemError) {
            let sender: UnixDatagramSender
            if let made = self.sender { sender = made } else { sender = try UnixDatagramSender(to: path) }
            self.sender = sender
            return sender.send(entry)
        } catch {
            return error
        }
    }

    private static func isFull(_ error: SystemError) -> Bool { error.errno == EAGAIN || error.errno == ENOBUFS }

    private func sendPending() {
        let count = pending.count
        var failures = 0
        var reason = ""
        pending.removeWhile { entry in
            guard let error = deliver(entry) else { return true }
            if Self.isFull(error) { return false }
            failures += 1
            reason = error.reason
            return true
        }
        if failures > 0 { logLoss(of: failures, reason) }
        if pending.count < count { backoff.reset() }
    }

    private func logLoss(of count: Int, _ reason: String) {
        logs.onMessagesLost(count, service)
        logs.limited(
            .messageLost, "\(counted(count, "message was", "messages were")) not logged: \(path): \(reason)",
            fields: ["SERVICE": "\(service)"])
    }

    override func timerFired(now: Instant) {
        sendPending()
        if let finishing, now >= finishing.deadline {
            if !pending.isEmpty { logLoss(of: pending.count, "it had no room until the worker ended") }
            pending.removeAll()
            backoff.reset()
        }
        guard pending.isEmpty else {
            loop.timers.arm(self, at: now + backoff.next())
            return
        }
        let done = finishing?.done
        finishing = nil
        done?()
    }

    // MARK: Shutdown

    var isBusy: Bool { !pending.isEmpty }

    /// Waits for entries until `deadline`, then gives them up, and calls `done`. Call it only while it is busy.
    func finish(by deadline: Instant, _ done: @escaping () -> Void) { finishing = (deadline, done) }
}
