import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// When files that change are read again, by a clock that stands still.
@Suite struct ReloadPacingTests {
    private static func seconds(_ number: Double) -> Instant { at(UInt64(number * 1_000_000_000) + 1_000_000_000) }

    @Test func `nothing is due without a change`() {
        var pacing = ReloadPacing()
        #expect(pacing.due == nil)
        pacing.begin(now: Self.seconds(0))
        #expect(pacing.due == nil)
    }

    @Test func `a change is due after a second without another one`() {
        var pacing = ReloadPacing()
        pacing.noteChange(now: Self.seconds(0))
        #expect(pacing.due == Self.seconds(1))
        pacing.noteChange(now: Self.seconds(0.75))
        #expect(pacing.due == Self.seconds(1.75))
    }

    @Test func `changes that go on are due after ten seconds`() {
        var pacing = ReloadPacing()
        for tenth in 0..<200 { pacing.noteChange(now: Self.seconds(Double(tenth) / 10)) }
        #expect(pacing.due == Self.seconds(10))
    }

    @Test func `reloads are ten seconds apart whatever changes`() {
        var pacing = ReloadPacing()
        var reloads: [Instant] = []
        for tenth in 0..<1_000 {
            let now = Self.seconds(Double(tenth) / 10)
            pacing.noteChange(now: now)
            guard let due = pacing.due, due <= now else { continue }
            pacing.begin(now: now)
            reloads.append(now)
        }
        #expect(reloads.count == 9)
        for (one, next) in zip(reloads, reloads.dropFirst()) { #expect(next >= one + .seconds(10)) }
    }
}
