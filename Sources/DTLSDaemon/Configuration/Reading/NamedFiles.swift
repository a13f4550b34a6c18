import Glibc
import LinuxSystem

/// A file that could not be read, and why.
struct UnreadableFile: Error {
    /// What is wrong, without the name of the key.
    var message: String
    /// The errno of the system call that failed, if one did.
    var errno: Int32?
}

/// The bytes of a file, and its permissions.
struct FileContents {
    /// The default size limit, which exceeds any configuration, key or certificate chain. No more is read into memory.
    static let maximumSize = 1_048_576

    var bytes: [UInt8]
    /// The permission bits of the mode.
    var permissions: mode_t

    init(of path: String, maximumSize: Int = maximumSize) throws(UnreadableFile) {
        // O_NONBLOCK keeps a FIFO in place of a file from blocking the reader.
        let raw = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard raw >= 0 else { throw Self.failure(path, errno) }
        let descriptor = FileDescriptor(owning: raw)
        var status = stat()
        guard fstat(descriptor.rawValue, &status) == 0 else { throw Self.failure(path, errno) }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw UnreadableFile(message: "\(ReadContext.quoted(path)) is not a regular file")
        }
        permissions = status.st_mode & 0o777
        bytes = try Self.read(descriptor, path, maximumSize)
    }

    private static func read(
        _ descriptor: borrowing FileDescriptor, _ path: String, _ maximumSize: Int
    ) throws(UnreadableFile) -> [UInt8] {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = Glibc.read(descriptor.rawValue, &buffer, buffer.count)
            if count == 0 { return bytes }
            if count < 0 {
                if errno == EINTR { continue }
                throw failure(path, errno)
            }
            bytes.append(contentsOf: buffer[..<count])
            if bytes.count > maximumSize {
                throw UnreadableFile(
                    message: "\(ReadContext.quoted(path)) is too large; expected at most \(maximumSize) bytes")
            }
        }
    }

    private static func failure(_ path: String, _ code: Int32) -> UnreadableFile {
        let reason = String(cString: strerror(code))
        return UnreadableFile(message: "cannot read \(ReadContext.quoted(path)): \(reason)", errno: code)
    }
}

/// Finds the files that a configuration names.
struct NamedFiles {
    private static let credentialPrefix = "credential:"

    private let folder: String
    private let environment: [String: String]

    /// - Parameter file: the configuration file, to whose folder relative paths are relative.
    init(beside file: String, environment: [String: String]) {
        folder = file.lastIndex(of: "/").map { String(file[...$0]) } ?? ""
        self.environment = environment
    }

    static func isCredential(_ name: String) -> Bool { name.hasPrefix(credentialPrefix) }

    /// Reads an absolute path, a path relative to the configuration's folder, or `credential:NAME`.
    func read(_ name: String, maximumSize: Int) throws(UnreadableFile) -> FileContents {
        if Self.isCredential(name) {
            return try credential(String(name.dropFirst(Self.credentialPrefix.count)), maximumSize)
        }
        return try FileContents(of: path(of: name), maximumSize: maximumSize)
    }

    /// The path of a file that is not a credential.
    func path(of name: String) -> String { name.hasPrefix("/") ? name : folder + name }

    /// Reads a credential. systemd copies credentials only when the unit starts. ExecReload puts fresh copies into the
    /// runtime directory, which is therefore searched first.
    private func credential(_ name: String, _ maximumSize: Int) throws(UnreadableFile) -> FileContents {
        guard !name.isEmpty, !name.contains("/"), name != ".", name != ".." else {
            throw UnreadableFile(message: "\(ReadContext.quoted(name)) is not the name of a credential")
        }
        let folders = credentialFolders
        guard !folders.isEmpty else {
            throw UnreadableFile(
                message: "credential \(ReadContext.quoted(name)) cannot be looked up: neither "
                    + "RUNTIME_DIRECTORY nor CREDENTIALS_DIRECTORY is set; expected to be started by systemd, "
                    + "with LoadCredential=\(name):PATH in the unit")
        }
        for folder in folders {
            do throws(UnreadableFile) {
                return try FileContents(of: "\(folder)/\(name)", maximumSize: maximumSize)
            } catch {
                if error.errno != ENOENT { throw error }
            }
        }
        throw UnreadableFile(
            message: "credential \(ReadContext.quoted(name)) is not in \(folders.joined(separator: " or "))"
                + "; expected LoadCredential=\(name):PATH in the unit")
    }

    private var credentialFolders: [String] {
        // RuntimeDirectory= with several names yields several paths, separated by colons.
        let runtime = (environment["RUNTIME_DIRECTORY"] ?? "").split(separator: ":").map { "\($0)/credentials" }
        let credentials = environment["CREDENTIALS_DIRECTORY"] ?? ""
        return credentials.isEmpty ? runtime : runtime + [credentials]
    }
}
