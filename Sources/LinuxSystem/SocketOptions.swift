/// The options of a UDP socket: of a listener's socket and of the sockets of its connections.
public struct SocketOptions: Codable, Hashable, Sendable {
    /// SO_RCVBUF in bytes, 1,024 to 16,777,216. `nil`: the system's default.
    public var receiveBuffer: Int?
    /// SO_SNDBUF in bytes, 1,024 to 16,777,216. `nil`: the system's default.
    public var sendBuffer: Int?
    /// IP_TTL or IPV6_UNICAST_HOPS, 0 to 255. `nil`: the system's default.
    public var timeToLive: Int?
    /// The differentiated services code point of all packets, 0 to 63 (RFC 2474): the upper six bits of IP_TOS and
    /// IPV6_TCLASS. `nil`: the system's default.
    public var dscp: Int?
    /// The name of the only interface that is used (SO_BINDTODEVICE). `nil`: every interface.
    public var interface: String?
    /// Whether an IPv6 listener accepts IPv6 only (IPV6_V6ONLY).
    public var ipv6Only: Bool
    /// Whether the kernel may fragment datagrams that are larger than the path MTU. If it may not, it sets the DF bit,
    /// and refuses larger datagrams with EMSGSIZE (ip(7), IP_MTU_DISCOVER). `nil`: the system's default.
    public var fragmentation: Bool?
    /// Whether the socket can be bound to an address that this machine does not have yet (IP_FREEBIND, IPV6_FREEBIND).
    public var freeBind = false

    public init(
        receiveBuffer: Int? = nil, sendBuffer: Int? = nil, timeToLive: Int? = nil, dscp: Int? = nil,
        interface: String? = nil,
        ipv6Only: Bool = true, fragmentation: Bool? = nil, freeBind: Bool = false
    ) {
        self.receiveBuffer = receiveBuffer
        self.sendBuffer = sendBuffer
        self.timeToLive = timeToLive
        self.dscp = dscp
        self.interface = interface
        self.ipv6Only = ipv6Only
        self.fragmentation = fragmentation
        self.freeBind = freeBind
    }

    public static let bufferSizes = 1_024...16_777_216
    public static let timesToLive = 0...255
    public static let codePoints = 0...63
}
