import LinuxSystem
import Primitives

/// When the network's word that nobody listens there is believed: an ICMP message may be forged, or come from a server
/// that is just starting, so another one has to follow after a flight was sent again.
package struct RefusalCheck {
    private enum State { case none, refused, sentAgain }
    private var state = State.none

    package init() {}

    package mutating func flightWasRepeated() { if state == .refused { state = .sentAgain } }

    /// - Returns: whether to give up.
    package mutating func wasRefused() -> Bool {
        if state == .sentAgain { return true }
        state = .refused
        return false
    }
}

/// Whether a connection's peer is there, asked until there is an answer or the time is over.
final class PeerQuestion {
    private weak var connection: DtlsConnection?
    private let loop: EventLoop
    private let deadline: Instant
    private var completion: ((PeerQuestion, Bool?) -> Void)?
    private var timer: CallbackTimer?
    private var refusals = RefusalCheck()
    private var isAnsweredWhereHeard = false

    /// What was asked, or the answer, may be lost.
    private static let interval = Duration.seconds(1)
    private static let intervalAfterRefusal = Duration.milliseconds(100)

    init(_ connection: DtlsConnection, timeout: Duration, _ completion: @escaping (PeerQuestion, Bool?) -> Void) {
        self.connection = connection
        loop = connection.scheduler.loop
        deadline = Instant.now() + timeout
        self.completion = completion
    }

    func ask() {
        guard let connection else { return }
        isAnsweredWhereHeard = connection.sendQuestion()
        // Sending may have shown that the connection is over.
        if completion != nil { wait(Self.interval) }
    }

    private func wait(_ interval: Duration) {
        let timer = self.timer ?? CallbackTimer { [weak self] _ in self?.timePassed() }
        self.timer = timer
        loop.timers.arm(timer, at: min(deadline, Instant.now() + interval))
    }

    private func timePassed() {
        if Instant.now() >= deadline { return answer(isAnsweredWhereHeard ? false : nil) }
        refusals.flightWasRepeated()
        ask()
    }

    func peerWasHeard() { answer(true) }

    func peerIsGone() { answer(false) }

    func peerWasRefused() {
        if refusals.wasRefused() { answer(false) } else { wait(Self.intervalAfterRefusal) }
    }

    private func answer(_ answer: Bool?) {
        if let timer { loop.timers.disarm(timer) }
        timer = nil
        let completion = completion
        self.completion = nil
        completion?(self, answer)
    }
}
