import Glibc

/// Small files, read whole.
public enum TextFile {
    /// - Parameter limit: bytes; a longer file is an error (EFBIG).
    public static func read(_ path: String, limit: Int) throws(SystemError) -> [UInt8] {
        let file = FileDescriptor(owning: try system("open", path) { open(path, O_RDONLY | O_CLOEXEC) })
        let raw = file.rawValue
        var bytes: [UInt8] = []
        var part = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = try system("read", path) {
                part.withUnsafeMutableBytes { Glibc.read(raw, $0.baseAddress, $0.count) }
            }
            if count == 0 { return bytes }
            bytes.append(contentsOf: part[..<count])
            if bytes.count > limit { throw SystemError("read", path, errno: EFBIG) }
        }
    }
}
