import LinuxSystem
import Primitives

/// The numbers that rendezvous hashing compares (Thaler and Ravishankar, "Using name-based mappings to increase hit
/// rates", 1998). They are the same on every machine and in every version: Swift's own hashes differ from process to
/// process.
enum RendezvousHash {
    /// A backend's part: the FNV-1a hash (64 bits) of its name.
    static func key(of name: String) -> UInt64 { FNV1a.hash(name.utf8) }

    /// A client's part: a hash of its address without the port, since its next connection has another port. An IPv4
    /// address inside an IPv6 address counts as the IPv4 address.
    static func client(_ address: SocketAddress) -> UInt64 {
        address.withAddressBytes { bytes in
            bytes.reduce(0) { mixed(($0 ^ UInt64($1)) &+ 0x9e37_79b9_7f4a_7c15) }
        }
    }

    /// The number that a backend and a client give together.
    static func rank(_ key: UInt64, _ client: UInt64) -> UInt64 { mixed(key ^ client) }

    /// The finalizer of MurmurHash3: every bit of the result depends on every bit of the value.
    private static func mixed(_ value: UInt64) -> UInt64 {
        var value = (value ^ (value >> 33)) &* 0xff51_afd7_ed55_8ccd
        value = (value ^ (value >> 33)) &* 0xc4ce_b9fe_1a85_ec53
        return value ^ (value >> 33)
    }
}

extension SocketAddress {
    /// The address without its port, 4 or 16 bytes; 4 for an IPv4 address inside an IPv6 address.
    func withAddressBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        withBytes { bytes in
            body(UnsafeRawBufferPointer(rebasing: bytes[(isIPv4Mapped ? 12 : 0)..<(bytes.count - 2)]))
        }
    }
}
