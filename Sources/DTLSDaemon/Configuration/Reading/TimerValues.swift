import DTLSTransport
import Primitives
import TOMLKit

extension TableReader {
    /// Reports a first timeout of flights after which no handshake is left to be saved.
    func checkRetransmission(
        _ property: PartialKeyPath<Section>, _ timeout: Duration, within handshake: Duration
    ) {
        guard has(property), timeout >= handshake else { return }
        report(
            property,
            "nothing is ever sent again, since a handshake may take \(handshake.seconds) s; expected less than"
                + " handshake_timeout")
    }
}

extension ValueType where Value == Duration {
    /// The longest `idle_timeout`, for devices that report once a year.
    private static var longestIdleTime: Int { 400 * 86_400 }

    /// How long nothing need come: a number of seconds, also as a decimal, or a time with its unit, such as "7d"; 0 means
    /// no limit.
    /// - Parameter least: the smallest number of seconds but 0.
    static func idleTime(_ least: Int) -> Self {
        let range = 0...longestIdleTime
        let number = seconds(range)
        return Self(
            "\(number.expected), or a time such as \"7d\"", text: number.text,
            read: { field in
                guard
                    let value = field.value.flatMap({ value in
                        value.string.map { text in seconds(text).flatMap { range.contains($0) ? .seconds($0) : nil } }
                            ?? fraction(value, range)
                    })
                else {
                    field.reportMismatch()
                    return nil
                }
                if value > .zero, value < .seconds(least) {
                    field.report(
                        "expected a number of seconds, \(least) to \(range.upperBound), or 0 for no limit, found less"
                            + " than \(least)")
                }
                return value
            })
    }
}

extension ValueType where Value == Connection.RecordBound {
    static var recordMTU: Self {
        let sizes = 256...65_535
        return Self(
            scalar: "an integer of bytes, \(sizes.lowerBound) to \(sizes.upperBound), or \"handshake\"",
            text: { bound in
                switch bound {
                case .none: nil
                case .handshake: "\"handshake\""
                case .size(let size): "\(size)"
                }
            },
            { value in
                if value.string == "handshake" { return .handshake }
                return value.int.flatMap { sizes.contains($0) ? .size($0) : nil }
            })
    }
}
