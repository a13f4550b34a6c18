/// A network as `ADDRESS/LENGTH` (CIDR): all addresses that begin with the same bits. An IPv4-mapped IPv6 address
/// counts as its IPv4 address.
public struct NetworkPrefix: Hashable, Sendable {
    public let family: SocketAddress.Family
    /// The first address, in the form of ``SocketAddress/number``; the bits after `length` are 0.
    public let first: UInt128
    /// The number of leading bits that the addresses share: 0 to 32 for IPv4, 0 to 128 for IPv6.
    public let length: UInt8

    /// The network of an address.
    /// - Parameter lengths: the length of a network of each family; a longer one means a single address.
    public init(of address: SocketAddress, lengths: Lengths) {
        let (family, bits) = address.number
        self.init(family: family, bits: bits, length: family == .ipv4 ? lengths.ipv4 : lengths.ipv6)
    }

    private init(family: SocketAddress.Family, bits: UInt128, length: UInt8) {
        self.family = family
        self.length = min(length, Self.maximumLength(family))
        first = bits & ~Self.hostBits(family, self.length)
    }

    /// The lengths of a network, in bits, for each address family.
    public struct Lengths: Codable, Equatable, Sendable {
        /// 0 to 32.
        public var ipv4: UInt8
        /// 0 to 128.
        public var ipv6: UInt8

        public init(ipv4: UInt8 = 32, ipv6: UInt8 = 64) {
            self.ipv4 = ipv4
            self.ipv6 = ipv6
        }
    }

    /// The last address.
    public var last: UInt128 { first | Self.hostBits(family, length) }

    public static func maximumLength(_ family: SocketAddress.Family) -> UInt8 { family == .ipv4 ? 32 : 128 }

    /// The bits of an address that are not part of a network of this length. Swift's smart shift yields 0 for a shift
    /// by the whole width.
    private static func hostBits(_ family: SocketAddress.Family, _ length: UInt8) -> UInt128 {
        (family == .ipv4 ? UInt128(UInt32.max) : UInt128.max) >> Int(length)
    }
}

extension NetworkPrefix {
    /// Why a text is not a network.
    public enum Mistake: Error, Equatable, CustomStringConvertible {
        /// It is neither a numeric address nor a numeric address with a length.
        case notANetwork
        /// The length is out of range for the address family.
        case length(maximum: UInt8)
        /// The address has bits set after the length; the payload is the network that contains it.
        case hostBits(network: String, address: String)
        /// The network is part of ::ffff:0:0/96, whose addresses are IPv4.
        case ipv4Mapped

        public var description: String {
            switch self {
            case .notANetwork: "expected \"ADDRESS/LENGTH\" or \"ADDRESS\", the address in numbers"
            case .length(let maximum): "expected a length of 0 to \(maximum) after the /"
            case .hostBits(let network, let address):
                "the address has bits set after its length; expected the network \"\(network)\" or the address"
                    + " \"\(address)\""
            case .ipv4Mapped: "an IPv4 address inside an IPv6 one; expected the IPv4 address itself"
            }
        }
    }

    /// Parses `192.0.2.0/24`, `2001:db8::/32`, or a single address, which is a network of one address.
    public init(parsing text: String) throws(Mistake) {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        // An interface ("%eth0") belongs to the address of a socket, not to a network.
        guard !text.contains("%"), let address = SocketAddress(host: parts[0], port: 0) else { throw .notANetwork }
        if address.isIPv4Mapped { throw .ipv4Mapped }
        let (family, bits) = address.number
        let maximum = Self.maximumLength(family)
        var length = maximum
        if parts.count == 2 {
            let digits = parts[1].utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
            guard digits, let number = UInt8(parts[1]), number <= maximum else { throw .length(maximum: maximum) }
            length = number
        }
        self.init(family: family, bits: bits, length: length)
        if first != bits { throw .hostBits(network: description, address: address.host) }
    }
}

extension NetworkPrefix: CustomStringConvertible {
    public var description: String {
        var bytes = first.bigEndian
        let host = withUnsafeBytes(of: &bytes) { bytes -> String? in
            let own = family == .ipv4 ? UnsafeRawBufferPointer(rebasing: bytes[12...]) : UnsafeRawBufferPointer(bytes)
            return SocketAddress(family: family, addressBytes: own, port: 0)?.host
        }
        return "\(host ?? "?")/\(length)"
    }
}
