import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// How often a worker may have a private key used.
@Suite struct SignatureAllowanceTests {
    private let start = Instant(nanoseconds: 1_000_000_000_000)

    private func known(_ handedOver: UInt64, _ connections: UInt64 = 0) -> SignatureAllowance.Known {
        SignatureAllowance.Known(handedOver: handedOver, connections: connections)
    }

    /// How many uses there are at this moment.
    private func uses(
        _ allowance: inout SignatureAllowance, _ known: SignatureAllowance.Known, at now: Instant
    ) -> Int {
        var count = 0
        while count < 100_000, allowance.use(known, now: now) { count += 1 }
        return count
    }

    @Test func `each client that was handed over explains one use`() {
        var allowance = SignatureAllowance(known(40), now: start)
        #expect(uses(&allowance, known(40), at: start) == SignatureAllowance.smallest)
        #expect(uses(&allowance, known(47), at: start) == 7)
        #expect(uses(&allowance, known(47), at: start) == 0)
    }

    @Test func `what was not used is lost after some minutes`() {
        var allowance = SignatureAllowance(known(0), now: start)
        #expect(uses(&allowance, known(0), at: start) == SignatureAllowance.smallest)
        let first = allowance.use(known(1_000), now: start)
        #expect(first)
        // In the next window, and in the one after it.
        let next = start + .seconds(121)
        let second = allowance.use(known(1_000), now: next)
        #expect(second)
        #expect(uses(&allowance, known(1_000), at: next) == 998 + SignatureAllowance.smallest)
        _ = allowance.use(known(2_000), now: next)
        let late = start + .seconds(1_000)
        #expect(uses(&allowance, known(2_000), at: late) == SignatureAllowance.smallest)
    }

    @Test func `connections explain handshakes that the main process does not see`() {
        var allowance = SignatureAllowance(known(0), now: start)
        #expect(uses(&allowance, known(0, 5_000), at: start) == 5_000)
        #expect(uses(&allowance, known(0, 5_000), at: start + .seconds(1)) == 500)
        #expect(uses(&allowance, known(0, 5_000), at: start + .seconds(11)) == 5_000)
    }

    @Test func `a process that has mapped the memory knows what is written there`() throws {
        let written = try KeyAllowances()
        let mapped = try KeyAllowances(try written.descriptor())
        written.noteHandOver(3, connections: 7)
        written.noteHandOver(3, connections: 8)
        written.setConnections(4, 9)
        #expect(mapped[3] == known(2, 8) && mapped[4] == known(0, 9) && mapped[5] == known(0))
        // Beyond its end there is nothing.
        written.noteHandOver(KeyAllowances.places, connections: 1)
        #expect(mapped[KeyAllowances.places] == known(0))
    }

    @Test(
        arguments: [
            .begin(user: nil), .begin(user: UserAccount(name: "a", user: 1, group: 2, groups: [2, 3])), .keys(set: 1),
            .forget(set: .max), .worker(number: 5, place: 6), .ping,
        ] as [MessageToKeyProcess])
    func `what the key process is told arrives`(_ message: MessageToKeyProcess) throws {
        let decoded: MessageToKeyProcess = try BinaryCoding.decode(from: BinaryCoding.encode(message))
        #expect(decoded == message)
    }

    @Test(
        arguments: [
            .ready(set: 1), .unusable(set: 2, reason: "ä"), .wallsMissing(["a", "b"]),
            .violation(worker: 1, reason: "x"),
            .tooMany(worker: 3), .pong,
        ] as [MessageFromKeyProcess])
    func `what the key process says arrives`(_ message: MessageFromKeyProcess) throws {
        let decoded: MessageFromKeyProcess = try BinaryCoding.decode(from: BinaryCoding.encode(message))
        #expect(decoded == message)
    }
}
