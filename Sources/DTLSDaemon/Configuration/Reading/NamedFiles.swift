import Glibc
import LinuxSystem

/// A file that could not be read, and why.
struct UnreadableFile: Error {
    /// A sentence without the key's name, which says what is expected.
    var message: String
    /// The errno of the call that failed, where it was one.
    var errno: Int32?
}

/// A file's bytes and who may read them.
struct FileContents {
    /// More than any configuration, key or chain has; a reader never takes more into memory.
    static let maximumSize = 1_048_576

    var bytes: [UInt8]
    /// The mode's permission bits.
    var permissions: mode_t

    init(of path: String, maximumSize: Int = maximumSize) throws(UnreadableFile) {
        // O_NONBLOCK: a FIFO in the place of a file must not hold the reader up.
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

/// How the files that a configuration names are found.
struct NamedFiles {
    private static let credentialPrefix = "credential:"

    private let folder: String
    private let environment: [String: String]

    /// - Parameter file: the configuration file; relative names are relative to its folder.
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

    /// Where a file is that is no credential.
    func path(of name: String) -> String { name.hasPrefix("/") ? name : folder + name }

    /// systemd copies credentials once, when the unit starts; ExecReload puts fresh copies into the runtime folder,
    /// so that is looked at first.
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
        // RuntimeDirectory= with several names yields several paths.
        let runtime = (environment["RUNTIME_DIRECTORY"] ?? "").split(separator: ":").map { "\($0)/credentials" }
        let credentials = environment["CREDENTIALS_DIRECTORY"] ?? ""
        return credentials.isEmpty ? runtime : runtime + [credentials]
    }
}
