/// The reference's options of a socket, for a listener and the connections that come from it.
public struct SocketOptions: Codable, Hashable, Sendable {
    /// SO_RCVBUF in bytes, 1,024 to 16,777,216 (reference: setRecvBufferSize). `nil`: the system's.
    public var receiveBuffer: Int?
    /// SO_SNDBUF in bytes, 1,024 to 16,777,216 (reference: setSendBufferSize). `nil`: the system's.
    public var sendBuffer: Int?
    /// IP_TTL or IPV6_UNICAST_HOPS, 0 to 255 (reference: setTTL). `nil`: the system's.
    public var timeToLive: Int?
    /// The differentiated services code point of all packets, 0 to 63 (RFC 2474): the upper six bits of IP_TOS and
    /// IPV6_TCLASS. `nil`: the system's.
    public var dscp: Int?
    /// SO_BINDTODEVICE (reference: bindToDevice). `nil`: every interface.
    public var interface: String?
    /// IPV6_V6ONLY of an IPv6 listener (reference: setIPv6Only).
    public var ipv6Only: Bool
    /// Whether the kernel may cut datagrams up that are larger than the path's MTU. If it may not, they have the DF
    /// bit, and what is too large is refused with EMSGSIZE (ip(7), IP_MTU_DISCOVER). `nil`: as the system has it.
    public var fragmentation: Bool?

    public init(
        receiveBuffer: Int? = nil, sendBuffer: Int? = nil, timeToLive: Int? = nil, dscp: Int? = nil,
        interface: String? = nil,
        ipv6Only: Bool = true, fragmentation: Bool? = nil
    ) {
        self.receiveBuffer = receiveBuffer
        self.sendBuffer = sendBuffer
        self.timeToLive = timeToLive
        self.dscp = dscp
        self.interface = interface
        self.ipv6Only = ipv6Only
        self.fragmentation = fragmentation
    }

    public static let bufferSizes = 1_024...16_777_216
    public static let timesToLive = 0...255
    public static let codePoints = 0...63
}
