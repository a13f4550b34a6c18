/// IPv4-mapped IPv6 addresses, ::ffff:0:0/96 (RFC 4291, section 2.5.5.2), by which a dual-stack socket reports its IPv4
/// peers.
public enum IPv4Mapped {
    /// The 4 bytes of the IPv4 address in the 16 bytes of a mapped one; any other address as it is.
    @inline(__always)
    public static func unmapped(_ address: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        guard address.count == 16, address.loadUnaligned(as: UInt64.self) == 0,
            address.loadUnaligned(fromByteOffset: 8, as: UInt32.self) == UInt32(bigEndian: 0x0000_ffff)
        else { return address }
        return UnsafeRawBufferPointer(rebasing: address[12...])
    }
}
