import Glibc
import LinuxSystem
import Logging
import Primitives

/// A Unix datagram socket that takes entries: journald's, or a syslog daemon's.
///
/// Its queue has few places (net.unix.max_dgram_qlen, 10 by default), fewer than a batch has messages. What there is no
/// room for waits here, in its order, and is lost above a bound.
final class UnixLogSocket: TimerTarget {
    static let maximumWaiting = 1_024
    static let maximumWaitingBytes = 1 << 20

    private let path: String
    private let loop: EventLoop
    private let logs: WorkerLogs
    /// Made when it is first needed, and tried again where that fails for want of descriptors.
    private var sender: UnixDatagramSender?
    private var waiting: PendingQueue
    /// Whose the last entry was.
    private var service = ""
    /// When to give up what waits, and what is called when nothing does; while the worker is ending.
    private var ending: (deadline: Instant, done: () -> Void)?

    /// EPOLLOUT is of no use: a socket that is not connected always looks as if it had room (unix_dgram_poll() asks the
    /// connected receiver's queue alone; seen with Linux 6.18).
    private static let firstPause = Duration.milliseconds(2)
    /// Of a reader that takes nothing at all.
    private static let longestPause = Duration.milliseconds(64)
    private var pause = firstPause

    init(_ path: String, _ budget: PendingBudget, loop: EventLoop, logs: WorkerLogs) {
        self.path = path
        self.loop = loop
        self.logs = logs
        waiting = PendingQueue(
            budget, maximumCount: Self.maximumWaiting, maximumBytes: Self.maximumWaitingBytes)
        super.init()
    }

    /// Never waits for the reader.
    func send(_ entry: [UInt8], of service: String) {
        self.service = service
        sendWaiting()
        entry.withUnsafeBytes { entry in
            if waiting.isEmpty {
                guard let error = deliver(entry) else { return }
                guard Self.isFull(error) else { return lost(1, error.reason) }
            }
            if !waiting.append(entry) { lost(1, "it has no room, and \(waiting.count) messages wait already") }
        }
        if !waiting.isEmpty { loop.timers.arm(self, at: loop.now + pause) }
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

    private func sendWaiting() {
        let count = waiting.count
        var failures = 0
        var reason = ""
        waiting.removeWhile { entry in
            guard let error = deliver(entry) else { return true }
            if Self.isFull(error) { return false }
            failures += 1
            reason = error.reason
            return true
        }
        if failures > 0 { lost(failures, reason) }
        if waiting.count < count { pause = Self.firstPause }
    }

    private func lost(_ count: Int, _ reason: String) {
        logs.limited(
            .messageLost, "\(count) messages were not logged: \(path): \(reason)", fields: ["SERVICE": "\(service)"])
    }

    override func timerFired(now: Instant) {
        sendWaiting()
        if let ending, now >= ending.deadline {
            if !waiting.isEmpty { lost(waiting.count, "it had no room until the end") }
            waiting.removeAll()
        }
        guard waiting.isEmpty else {
            loop.timers.arm(self, at: now + pause)
            pause = min(pause * 2, Self.longestPause)
            return
        }
        let done = ending?.done
        ending = nil
        done?()
    }

    // MARK: The worker's end

    var isBusy: Bool { !waiting.isEmpty }

    /// To be called while it is busy.
    func finish(by deadline: Instant, _ done: @escaping () -> Void) { ending = (deadline, done) }
}
