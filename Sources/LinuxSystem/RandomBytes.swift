import Glibc

/// Secrets from the kernel.
public enum RandomBytes {
    public static func make(_ count: Int) throws(SystemError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var filled = 0
        while filled < count {
            // getentropy(3) gives 256 bytes at most.
            let part = min(256, count - filled)
            _ = try system("getentropy") {
                bytes.withUnsafeMutableBytes { buffer in
                    buffer.baseAddress.map { getentropy($0 + filled, part) } ?? 0
                }
            }
            filled += part
        }
        return bytes
    }
}
