import CLinux
import Glibc
import Primitives

/// An IPv4 or IPv6 address with a port, as a value of fixed size: comparing and hashing it costs a few integers.
public struct SocketAddress: Codable, Hashable, Sendable {
    public enum Family: UInt8, Codable, Sendable {
        case ipv4 = 2
        case ipv6 = 10

        /// The AF_ constant of the family.
        public var domain: Int32 { Int32(rawValue) }
    }

    public let family: Family
    /// The port, 0 to 65535, in host byte order.
    public var port: UInt16
    /// The interface index of a link-local IPv6 address; 0 for other addresses.
    public let scope: UInt32
    // The bytes of the address in network order; IPv4 uses the first four.
    @usableFromInline let first: UInt64
    @usableFromInline let second: UInt64

    private init(family: Family, port: UInt16, scope: UInt32, first: UInt64, second: UInt64) {
        self.family = family
        self.port = port
        self.scope = scope
        self.first = first
        self.second = second
    }

    /// The length of the longest address that `withBytes` yields, in bytes.
    public static let maximumByteCount = 18

    /// The 4 or 16 bytes of the address in network order.
    public init?(family: Family, addressBytes: UnsafeRawBufferPointer, port: UInt16, scope: UInt32 = 0) {
        guard addressBytes.count == (family == .ipv4 ? 4 : 16) else { return nil }
        var words: (UInt64, UInt64) = (0, 0)
        withUnsafeMutableBytes(of: &words) { $0.copyMemory(from: addressBytes) }
        self.init(family: family, port: port, scope: scope, first: words.0, second: words.1)
    }

    /// Reads an address that the kernel filled in; `nil` for another family, or if it is too short.
    public init?(_ pointer: UnsafeRawPointer, length: Int) {
        guard length >= MemoryLayout<sa_family_t>.size else { return nil }
        let family = pointer.loadUnaligned(as: sa_family_t.self)
        if Int32(family) == AF_INET, length >= MemoryLayout<sockaddr_in>.size {
            let address = pointer.loadUnaligned(as: sockaddr_in.self)
            let word = pointer.loadUnaligned(fromByteOffset: 4, as: UInt32.self)
            self.init(
                family: .ipv4, port: UInt16(bigEndian: address.sin_port), scope: 0,
                first: UInt64(littleEndian: UInt64(UInt32(littleEndian: word))), second: 0)
        } else if Int32(family) == AF_INET6, length >= MemoryLayout<sockaddr_in6>.size {
            let address = pointer.loadUnaligned(as: sockaddr_in6.self)
            self.init(
                family: .ipv6, port: UInt16(bigEndian: address.sin6_port), scope: address.sin6_scope_id,
                first: pointer.loadUnaligned(fromByteOffset: 8, as: UInt64.self),
                second: pointer.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        } else {
            return nil
        }
    }

    /// Parses a numeric address without a port: `"192.0.2.1"`, `"2001:db8::1"`, `"fe80::1%eth0"`.
    public init?(host: some StringProtocol, port: UInt16) {
        var four = in_addr()
        var six = in6_addr()
        let text = String(host)
        if inet_pton(AF_INET, text, &four) == 1 {
            guard let value = withUnsafeBytes(of: &four, { SocketAddress(family: .ipv4, addressBytes: $0, port: port) })
            else { return nil }
            self = value
            return
        }
        let parts = text.split(separator: "%", maxSplits: 1, omittingEmptySubsequences: false)
        guard inet_pton(AF_INET6, String(parts[0]), &six) == 1 else { return nil }
        var scope: UInt32 = 0
        if parts.count == 2 {
            scope = NetworkInterface.index(of: String(parts[1]))
            if scope == 0 { scope = UInt32(parts[1]) ?? 0 }
            if scope == 0 { return nil }
        }
        let value = withUnsafeBytes(of: &six) {
            SocketAddress(family: .ipv6, addressBytes: $0, port: port, scope: scope)
        }
        guard let value else { return nil }
        self = value
    }

    /// Parses a numeric address with a port: `"192.0.2.1:4433"`, `"[2001:db8::1]:4433"`.
    public init?(_ text: some StringProtocol) {
        guard let colon = text.lastIndex(of: ":"), let port = Self.port(text[text.index(after: colon)...]) else {
            return nil
        }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
            guard host.contains(":") else { return nil }
        } else if host.contains(":") {
            return nil
        }
        self.init(host: host, port: port)
    }

    /// Parses digits only, since `UInt16("+1")` is 1 too.
    private static func port(_ text: some StringProtocol) -> UInt16? {
        text.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) } ? UInt16(text) : nil
    }

    public static func anyAddress(_ family: Family, port: UInt16) -> SocketAddress {
        SocketAddress(family: family, port: port, scope: 0, first: 0, second: 0)
    }

    /// Whether the address is 0.0.0.0 or ::.
    public var isWildcard: Bool { first == 0 && second == 0 }

    /// Whether the address is in 127.0.0.0/8, or is ::1.
    public var isLoopback: Bool {
        withBytes { bytes in
            family == .ipv4 ? bytes[0] == 127 : bytes[15] == 1 && bytes[..<15].allSatisfy { $0 == 0 }
        }
    }

    /// Whether this is an IPv4-mapped IPv6 address (::ffff:0:0/96), by which a dual-stack socket reports IPv4 peers.
    public var isIPv4Mapped: Bool {
        family == .ipv6 && withUnsafeBytes(of: (first, second)) { IPv4Mapped.unmapped($0).count == 4 }
    }

    /// The IPv4 address of an IPv4-mapped IPv6 address; otherwise the address itself.
    public var unmapped: SocketAddress {
        guard family == .ipv6 else { return self }
        return withUnsafeBytes(of: (first, second)) {
            SocketAddress(family: .ipv4, addressBytes: IPv4Mapped.unmapped($0), port: port)
        } ?? self
    }

    /// Whether this is a link-local IPv6 address (fe80::/10), which means something on one interface only.
    public var isLinkLocal: Bool {
        family == .ipv6 && withUnsafeBytes(of: first) { $0[0] == 0xfe && $0[1] & 0xc0 == 0x80 }
    }

    /// The address as a number, with its first byte as the most significant one. It has 32 bits for IPv4 and
    /// IPv4-mapped IPv6 addresses (::ffff:0:0/96), and 128 bits for other IPv6 addresses.
    public var number: (family: Family, bits: UInt128) {
        if family == .ipv4 {
            return (.ipv4, UInt128(UInt32(bigEndian: withUnsafeBytes(of: first) { $0.loadUnaligned(as: UInt32.self) })))
        }
        let low = UInt64(bigEndian: second)
        if isIPv4Mapped { return (.ipv4, UInt128(low & 0xffff_ffff)) }
        return (.ipv6, UInt128(UInt64(bigEndian: first)) << 64 | UInt128(low))
    }

    /// The same address with the interface that it was seen on, which only a link-local address takes.
    func seen(on interface: UInt32) -> SocketAddress {
        guard isLinkLocal else { return self }
        return SocketAddress(family: family, port: port, scope: interface, first: first, second: second)
    }

    /// The same address with another port.
    public func with(port: UInt16) -> SocketAddress {
        SocketAddress(family: family, port: port, scope: scope, first: first, second: second)
    }

    /// The address (4 or 16 bytes) and the port (2 bytes) in network order, which a cookie is bound to.
    @inlinable
    public func withBytes<Result: ~Copyable, Failure>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let length = family == .ipv4 ? 4 : 16
        return try withTemporaryBytes(Self.maximumByteCount, alignment: 8) {
            buffer throws(Failure) in
            buffer.storeBytes(of: first, toByteOffset: 0, as: UInt64.self)
            buffer.storeBytes(of: second, toByteOffset: 8, as: UInt64.self)
            buffer[length] = UInt8(port >> 8)
            buffer[length + 1] = UInt8(truncatingIfNeeded: port)
            return try body(UnsafeRawBufferPointer(rebasing: buffer[..<(length + 2)]))
        }
    }

    /// Writes the sockaddr into `storage`, and returns its length.
    @discardableResult
    public func write(to storage: UnsafeMutablePointer<sockaddr_storage>) -> socklen_t {
        storage.pointee = sockaddr_storage()
        let raw = UnsafeMutableRawPointer(storage)
        switch family {
        case .ipv4:
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = port.bigEndian
            raw.storeBytes(of: address, as: sockaddr_in.self)
            raw.storeBytes(of: UInt32(truncatingIfNeeded: first), toByteOffset: 4, as: UInt32.self)
            return socklen_t(MemoryLayout<sockaddr_in>.size)
        case .ipv6:
            var address = sockaddr_in6()
            address.sin6_family = sa_family_t(AF_INET6)
            address.sin6_port = port.bigEndian
            address.sin6_scope_id = scope
            raw.storeBytes(of: address, as: sockaddr_in6.self)
            raw.storeBytes(of: first, toByteOffset: 8, as: UInt64.self)
            raw.storeBytes(of: second, toByteOffset: 16, as: UInt64.self)
            return socklen_t(MemoryLayout<sockaddr_in6>.size)
        }
    }

    /// Calls `body` with the sockaddr, which is valid during the call.
    public func withSockaddr<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        var storage = sockaddr_storage()
        let length = write(to: &storage)
        return withUnsafePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, length) }
        }
    }
}

extension SocketAddress: CustomStringConvertible {
    /// The address without its port and brackets.
    public var host: String {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(INET6_ADDRSTRLEN) + 1) { text in
            guard let base = text.baseAddress else { return "" }
            base.initialize(repeating: 0, count: text.count)
            withBytes { bytes in
                _ = inet_ntop(family.domain, bytes.baseAddress, base, socklen_t(text.count))
            }
            let numeric = String(cString: base)
            return scope == 0 ? numeric : "\(numeric)%\(scope)"
        }
    }

    public var description: String {
        family == .ipv4 ? "\(host):\(port)" : "[\(host)]:\(port)"
    }
}
