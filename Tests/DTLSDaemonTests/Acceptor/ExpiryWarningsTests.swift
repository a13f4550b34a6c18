import Primitives
import Testing

@testable import DTLSDaemon

@Suite struct ExpiryWarningsTests {
    private static let day: Int64 = 86_400
    private let end = UnixTime(seconds: 1_800_000_000)

    private func certificate(_ owner: String = "web", file: String = "web.pem") -> ExpiringCredential {
        ExpiringCredential(
            kind: .service, owner: owner, host: nil, file: file, subject: "\"CN=\(owner)\"", notAfter: end)
    }

    /// So many seconds before the end.
    private func before(_ seconds: Int64) -> UnixTime { UnixTime(seconds: end.seconds - seconds) }

    @Test func `each step is told once, when it comes`() {
        var warnings = ExpiryWarnings()
        let web = certificate()
        var told: [(hour: Int64, ExpiryWarnings.Warning)] = []
        for hour in stride(from: Int64(32 * 24), through: -48, by: -1) {
            for warning in warnings.warnings(of: [web], now: before(hour * 3_600)) { told.append((hour, warning)) }
        }
        #expect(told.map(\.hour) == [30 * 24, 7 * 24, 24, 0])
        #expect(
            told.map(\.1) == [
                .expires(web, daysLeft: 30), .expires(web, daysLeft: 7), .expires(web, daysLeft: 1), .expired(web),
            ])
    }

    @Test func `a certificate that is configured late is told of by its last step alone`() {
        var warnings = ExpiryWarnings()
        let web = certificate()
        #expect(warnings.warnings(of: [web], now: before(3 * Self.day)) == [.expires(web, daysLeft: 3)])
        #expect(warnings.warnings(of: [web], now: before(3 * Self.day - 5)).isEmpty, "the same after a reload")
        #expect(warnings.warnings(of: [web], now: before(10)) == [.expires(web, daysLeft: 0)])
    }

    @Test func `a new certificate in the same file begins anew, and others are not told of again`() {
        var warnings = ExpiryWarnings()
        let (web, coap) = (certificate(), certificate("coap", file: "coap.pem"))
        #expect(warnings.warnings(of: [web, coap], now: before(6 * Self.day)).count == 2)
        var renewed = web
        renewed.notAfter = UnixTime(seconds: end.seconds + 90 * Self.day)
        #expect(warnings.warnings(of: [renewed, coap], now: before(6 * Self.day)).isEmpty)
        #expect(
            warnings.warnings(of: [renewed, coap], now: UnixTime(seconds: end.seconds + 60 * Self.day))
                == [.expires(renewed, daysLeft: 30), .expired(coap)])
    }

    @Test func `a certificate that had expired when it was read was warned of then`() {
        var warnings = ExpiryWarnings()
        #expect(warnings.warnings(of: [certificate()], now: before(-5)).isEmpty)
        #expect(warnings.warnings(of: [certificate()], now: before(-Self.day)).isEmpty)
    }

    @Test func `the clock that is set back tells nothing twice`() {
        var warnings = ExpiryWarnings()
        let web = certificate()
        #expect(warnings.warnings(of: [web], now: before(5 * Self.day)).count == 1)
        #expect(warnings.warnings(of: [web], now: before(20 * Self.day)).isEmpty)
        #expect(warnings.warnings(of: [web], now: before(5 * Self.day)).isEmpty)
        #expect(warnings.warnings(of: [web], now: before(Self.day / 2)) == [.expires(web, daysLeft: 0)])
    }

    @Test(arguments: [(Int64(86_400), 1), (86_399, 0), (0, 0), (-1, -1), (-86_400, -1), (-86_401, -2)])
    func `days are whole ones, rounded down`(_ seconds: Int64, _ days: Int) {
        #expect(certificate().daysLeft(at: before(seconds)) == days)
    }

    @Test func `one certificate for several services is told of for each`() {
        var warnings = ExpiryWarnings()
        #expect(warnings.warnings(of: [certificate(), certificate("b")], now: before(Self.day)).count == 2)
    }

    // MARK: Revocation lists and OCSP responses

    /// What is told in the hours from `days` before the end until two days after it.
    private func told(
        _ content: ExpiringCredential.Content, days: Int64, from first: Int64? = nil
    ) -> [(hour: Int64, ExpiryWarnings.Warning)] {
        var credential = certificate()
        credential.content = content
        credential.issuedAt = before(days * Self.day)
        var warnings = ExpiryWarnings()
        var told: [(hour: Int64, ExpiryWarnings.Warning)] = []
        for hour in stride(from: first ?? days * 24, through: -48, by: -1) {
            for warning in warnings.warnings(of: [credential], now: before(hour * 3_600)) {
                told.append((hour, warning))
            }
        }
        return told
    }

    @Test func `a revocation list is told of in the last quarter of its life`() {
        let expected: [Int64: [Int64]] = [
            365: [720, 168, 24, 0], 120: [720, 168, 24, 0], 30: [168, 24, 0], 7: [24, 0], 3: [0],
        ]
        for (days, hours) in expected {
            #expect(told(.revocationList, days: days).map(\.hour) == hours, "a life of \(days) days")
        }
    }

    @Test func `a revocation list that had expired when it was read was warned of then`() {
        #expect(told(.revocationList, days: 3, from: -1).isEmpty)
    }

    /// Where responses are read again, it is said of each that has expired.
    @Test func `an OCSP response is told of before its end alone`() {
        let expected: [Int64: [Int64]] = [30: [168, 24], 7: [24], 1: []]
        for (days, hours) in expected {
            #expect(told(.ocspResponse, days: days).map(\.hour) == hours, "a life of \(days) days")
        }
    }
}
