import Glibc
import LinuxSystem

/// The file of `key_log_file`, to which workers append the secrets of connections.
enum KeyLogFile {
    static let expected = "the path of a file for the secrets of all connections, in a folder that can be written to"

    fileprivate static func fault(of path: String) -> String? {
        let quoted = ReadContext.quoted(path)
        var status = stat()
        if lstat(path, &status) == 0 {
            guard status.st_mode & S_IFMT == S_IFREG else { return "\(quoted) is not a regular file" }
            if status.st_mode & 0o077 != 0 { return "users other than its owner may use \(quoted) (chmod 600)" }
            guard access(path, W_OK) == 0 else { return "cannot write to \(quoted): \(reason(errno))" }
            return isKeyLog(path) ? nil : "\(quoted) contains other data, to which secrets would be appended"
        }
        guard errno == ENOENT else { return "cannot write to \(quoted): \(reason(errno))" }
        let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
        return access(folder, W_OK | X_OK) == 0 ? nil : "cannot create \(quoted): \(reason(errno))"
    }

    /// Whether a file is empty, or begins with a comment or with a line LABEL RANDOM SECRET.
    private static func isKeyLog(_ path: String) -> Bool {
        let raw = Glibc.open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
        guard raw >= 0 else { return false }
        let descriptor = FileDescriptor(owning: raw)
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = Glibc.read(descriptor.rawValue, &bytes, bytes.count)
        guard count > 0 else { return count == 0 }
        if bytes.first == UInt8(ascii: "#") { return true }
        let words = bytes[..<count].prefix { $0 != UInt8(ascii: "\n") }.split(separator: UInt8(ascii: " "))
        return words.count == 3 && words[0].allSatisfy { $0.isLetterOrDigit || $0 == UInt8(ascii: "_") }
            && words[1...].joined().allSatisfy { $0.isLetterOrDigit }
    }

    private static func reason(_ code: Int32) -> String { String(cString: strerror(code)) }

    /// Opens the file for appending, and creates it if it is missing. One write(2) for each line then keeps lines whole
    /// when several processes write (open(2), O_APPEND).
    static func open(_ path: String) throws(UnreadableFile) -> FileDescriptor {
        let flags = O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC
        let raw = Glibc.open(path, flags, 0o600)
        let quoted = ReadContext.quoted(path)
        guard raw >= 0 else {
            let code = errno
            throw UnreadableFile(message: "cannot write to \(quoted): \(reason(code))", errno: code)
        }
        let descriptor = FileDescriptor(owning: raw)
        var status = stat()
        guard fstat(raw, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_mode & 0o077 == 0 else {
            throw UnreadableFile(message: "\(quoted) is not a regular file that its owner alone may use")
        }
        return descriptor
    }
}

extension ValueType where Value == String {
    /// The path of the file, absolute or relative to the working directory. The file is checked and not changed, since
    /// another user may run `dtlsd --check`.
    static var keyLogFile: Self {
        let name = string(KeyLogFile.expected)
        return Self(name.expected) { field in
            guard let name = name.read(field) else { return nil }
            guard !NamedFiles.isCredential(name) else {
                field.report("a credential cannot be written to; expected \(field.expected)")
                return nil
            }
            let path = field.context.files.path(of: name)
            if let reason = KeyLogFile.fault(of: path) { field.report("\(reason); expected \(field.expected)") }
            return path
        }
    }
}
