/// The hash FNV-1a with 64 bits (draft-eastlake-fnv, section 2). It is the same on every machine and in every version,
/// unlike Swift's own hashes, which differ from process to process. It is not for input that an attacker chooses.
public enum FNV1a {
    /// It is inlinable, since the way through a witness table for each byte makes a hash ten times as dear.
    @inlinable
    public static func hash(_ bytes: some Sequence<UInt8>) -> UInt64 {
        bytes.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x0000_0100_0000_01b3 }
    }
}
