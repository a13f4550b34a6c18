import DTLSEngine
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSTransport

/// What a datagram means that reaches an established association and is no application data (RFC 6347, section 4.2.8).
@Suite struct RehandshakeTests {
    private let cookies: CookieAuthority
    private let flow = FlowKey(peer: .anyAddress(.ipv4, port: 40_000), local: .anyAddress(.ipv4, port: 4_433))
    private let minute = Minute(number: 30_000_000)
    private let current = ClientHelloBytes()
    private let new = ClientHelloBytes()

    init() throws { cookies = try CookieAuthority(secret: Array(0..<32)) }

    private enum Verdict: Equatable { case forAssociation, ignored, begins, continues }

    private func random(of hello: ClientHelloBytes) -> ClientRandom? {
        hello.bytes().withUnsafeBytes {
            if case .hello(let hello) = ClientHello.parse($0) { hello.randomValue } else { nil }
        }
    }

    /// - Returns: the verdict, what was answered, and whether an offer was asked for.
    private func judge(
        _ datagram: [UInt8], pending: ClientHelloBytes? = nil, offers: Bool = true
    ) -> (verdict: Verdict, answer: [UInt8]?, hasAsked: Bool) {
        var answer: [UInt8]?
        var hasAsked = false
        let verdict = datagram.withUnsafeBytes { bytes in
            let verdict = Rehandshake.verdict(
                bytes, flow, current: random(of: current), pending: pending.flatMap { random(of: $0) },
                offer: {
                    hasAsked = true
                    guard offers else { return nil }
                    return RehandshakeOffer(
                        material: RehandshakeMaterial(context: nil, cookies: cookies), minute: minute, pathMTU: nil)
                },
                answer: { answer = [UInt8]($0) })
            switch consume verdict {
            case .forAssociation: return Verdict.forAssociation
            case .ignored: return .ignored
            case .continues: return .continues
            case .begins(let hello):
                #expect(Optional(hello.random) == random(of: new))
                return .begins
            }
        }
        return (verdict, answer, hasAsked)
    }

    private func cookie() throws -> [UInt8] {
        guard case .helloVerifyRequest(let cookie) = HelloAnswer(try #require(judge(new.bytes()).answer)) else {
            throw NoCookie()
        }
        return cookie
    }

    private struct NoCookie: Error {}

    /// A record of this type and epoch with 40 bytes behind its header.
    private func record(_ type: UInt8, epoch: UInt8) -> [UInt8] {
        [type, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 9, 0, 40] + Array(repeating: 2, count: 40)
    }

    @Test func `a new hello without a cookie is asked for one, and nothing begins`() throws {
        let (verdict, answer, _) = judge(new.bytes())
        #expect(verdict == .ignored)
        #expect(try #require(answer).count < new.bytes().count)
    }

    @Test func `a new hello with a forged cookie is asked for another`() {
        let (verdict, answer, _) = judge(new.bytes(cookie: Array(repeating: 7, count: 32), number: 1))
        #expect(verdict == .ignored && answer != nil)
    }

    @Test func `a new hello with a valid cookie begins`() throws {
        let (verdict, answer, _) = judge(new.bytes(cookie: try cookie(), number: 1))
        #expect(verdict == .begins && answer == nil)
    }

    @Test func `a hello of a third handshake begins in place of the second`() throws {
        let (verdict, _, _) = judge(new.bytes(cookie: try cookie(), number: 1), pending: ClientHelloBytes())
        #expect(verdict == .begins)
    }

    @Test func `where no new handshake is offered, a new hello is ignored`() throws {
        let (verdict, answer, hasAsked) = judge(new.bytes(cookie: try cookie(), number: 1), offers: false)
        #expect(verdict == .ignored && answer == nil && hasAsked)
    }

    @Test func `a late copy of the association's own hello is the association's`() {
        for pending in [nil, new] {
            let (verdict, _, hasAsked) = judge(current.bytes(cookie: [1], number: 1), pending: pending)
            #expect(verdict == .forAssociation && !hasAsked)
        }
    }

    @Test func `a copy of the pending hello continues its handshake, unless it has no cookie`() throws {
        #expect(judge(new.bytes(cookie: try cookie(), number: 1), pending: new).verdict == .continues)
        let (verdict, answer, _) = judge(new.bytes(), pending: new)
        #expect(verdict == .ignored && answer != nil)
    }

    @Test func `a hello that contradicts itself is ignored`() {
        var datagram = new.bytes()
        datagram[59] = 200
        #expect(judge(datagram).verdict == .ignored)
        #expect(judge(datagram, pending: new).verdict == .ignored)
    }

    struct Kind: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let type: UInt8
        let epoch: UInt8
        /// Whose it is while a new handshake goes on.
        let isOfNewHandshake: Bool

        static let all = [
            Kind(testDescription: "handshake in the clear", type: 22, epoch: 0, isOfNewHandshake: true),
            Kind(testDescription: "encrypted handshake", type: 22, epoch: 1, isOfNewHandshake: true),
            Kind(testDescription: "ChangeCipherSpec", type: 20, epoch: 0, isOfNewHandshake: true),
            Kind(testDescription: "encrypted ChangeCipherSpec", type: 20, epoch: 1, isOfNewHandshake: true),
            Kind(testDescription: "alert in the clear", type: 21, epoch: 0, isOfNewHandshake: true),
            Kind(testDescription: "encrypted alert", type: 21, epoch: 1, isOfNewHandshake: false),
            Kind(testDescription: "encrypted data", type: 23, epoch: 1, isOfNewHandshake: false),
            Kind(testDescription: "unknown type", type: 99, epoch: 1, isOfNewHandshake: false),
        ]
    }

    @Test(arguments: Kind.all) func `a record that is no hello goes where it belongs`(_ kind: Kind) {
        let datagram = record(kind.type, epoch: kind.epoch)
        #expect(judge(datagram).verdict == .forAssociation)
        let pending = judge(datagram, pending: new)
        #expect(pending.verdict == (kind.isOfNewHandshake ? .continues : .forAssociation) && !pending.hasAsked)
    }

    @Test func `a fragment of a datagram is the association's`() {
        #expect(judge([], pending: new).verdict == .forAssociation)
        #expect(judge([22, 0xfe], pending: new).verdict == .forAssociation)
    }

    /// Each new handshake costs as much as any, and a listener's limits do not see it.
    @Test func `five new handshakes may come at once, and one a second after that`() {
        var bucket = TokenBucket()
        var now = Instant(nanoseconds: 1_000_000_000_000)
        let atOnce = (0..<10).filter { _ in bucket.takeIfHeld(of: Rehandshake.limit, now: now) }
        #expect(atOnce.count == 5)
        now = now + .milliseconds(999)
        let early = bucket.takeIfHeld(of: Rehandshake.limit, now: now)
        now = now + .milliseconds(1)
        let inTime = (0..<2).map { _ in bucket.takeIfHeld(of: Rehandshake.limit, now: now) }
        #expect(!early && inTime == [true, false])
        now = now + .seconds(3_600)
        let muchLater = (0..<10).filter { _ in bucket.takeIfHeld(of: Rehandshake.limit, now: now) }
        #expect(muchLater.count == 5)
    }
}
