import LinuxSystem

/// The numbers that rendezvous hashing compares (Thaler and Ravishankar, "Using name-based mappings to increase hit
/// rates", 1998). They are the same on every machine and in every version: Swift's own hashes differ from process to
/// process.
enum RendezvousHash {
    /// A backend's part: FNV-1a, 64 bits, of its name.
    static func key(of name: String) -> UInt64 {
        var key: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in name.utf8 { key = (key ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
        return key
    }

    /// A client's part: of its address without the port, since the next connection has another. An IPv4 address inside
    /// an IPv6 one counts as itself.
    static func client(_ address: SocketAddress) -> UInt64 {
        address.withAddressBytes { bytes in
            bytes.reduce(0) { mixed(($0 ^ UInt64($1)) &+ 0x9e37_79b9_7f4a_7c15) }
        }
    }

    static func rank(_ key: UInt64, _ client: UInt64) -> UInt64 { mixed(key ^ client) }

    /// The finalizer of MurmurHash3: every bit of the result depends on every bit of the value.
    private static func mixed(_ value: UInt64) -> UInt64 {
        var value = (value ^ (value >> 33)) &* 0xff51_afd7_ed55_8ccd
        value = (value ^ (value >> 33)) &* 0xc4ce_b9fe_1a85_ec53
        return value ^ (value >> 33)
    }
}

extension SocketAddress {
    /// The address alone, 4 or 16 bytes; an IPv4 address inside an IPv6 one as 4.
    func withAddressBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        withBytes { bytes in
            body(UnsafeRawBufferPointer(rebasing: bytes[(isIPv4Mapped ? 12 : 0)..<(bytes.count - 2)]))
        }
    }
}
