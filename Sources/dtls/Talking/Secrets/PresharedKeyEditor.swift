import CLinux
import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// The lines of a file of pre-shared keys, for changes by which comments, order and all other lines stay as they are.
struct PresharedKeyEditor {
    /// More than 300,000 identities have.
    static let maximumSize = 64 << 20

    /// `nil`: removed.
    private var lines: [[UInt8]?]
    /// The line of each identity. Comments, empty lines and lines with an error have none.
    private var places: [[UInt8]: Int] = [:]

    init(_ bytes: [UInt8]) {
        var text = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        // What follows the last newline is no line where it is empty.
        if text.last?.isEmpty == true { text.removeLast() }
        lines = text.map(Array.init)
        for (index, line) in text.enumerated() {
            // The byte order mark that may begin the file is no part of an identity, which the parser knows.
            guard let key = PresharedKeyFile.parse(Array(line)).keys.first else { continue }
            places[key.identity] = places[key.identity] ?? index
        }
    }

    var bytes: [UInt8] { lines.compactMap { $0 }.flatMap { $0 + [UInt8(ascii: "\n")] } }

    /// The line of an identity in the file.
    static func line(_ identity: [UInt8], _ key: [UInt8]) -> [UInt8] {
        // A colon ends an identity, a hash at its beginning makes a comment, and a line's end or a space at either end
        // cannot be seen: such ones are written in hexadecimal, as psktool does.
        let isPlain =
            String(validating: identity, as: UTF8.self)?.unicodeScalars.allSatisfy { Printable.isPrintable($0) } == true
            && !identity.contains(UInt8(ascii: ":")) && identity.first != UInt8(ascii: "#")
            && identity.first != UInt8(ascii: " ") && identity.last != UInt8(ascii: " ")
        let text = isPlain ? identity : Array("#\(Hexadecimal.text(identity))".utf8)
        return text + Array(":\(Hexadecimal.text(key))".utf8)
    }

    func contains(_ identity: [UInt8]) -> Bool { places[identity] != nil }

    /// Adds an identity at the end, or gives it another key in its line.
    mutating func set(_ identity: [UInt8], _ key: [UInt8]) {
        let line = Self.line(identity, key)
        if let place = places[identity] {
            lines[place] = line
        } else {
            places[identity] = lines.count
            lines.append(line)
        }
    }

    /// - Returns: whether it was there.
    mutating func remove(_ identity: [UInt8]) -> Bool {
        guard let place = places.removeValue(forKey: identity) else { return false }
        lines[place] = nil
        return true
    }

    /// An identity as the command line has it: text, or `#` and hexadecimal digits.
    static func identity(_ text: String) throws(TalkingFailure) -> [UInt8] {
        var identity = Array(text.utf8)
        if text.hasPrefix("#") {
            guard let decoded = Hexadecimal.bytes(identity.dropFirst()) else {
                throw .local("the identity \(Printable.quoted(text)) begins with # and is not hexadecimal")
            }
            identity = decoded
        }
        guard (1...PresharedKeys.maximumIdentityLength).contains(identity.count), !identity.contains(0) else {
            throw .local(
                "an identity has 1 to \(PresharedKeys.maximumIdentityLength) bytes other than NUL, and"
                    + " \(Printable.quoted(text)) has \(identity.count)")
        }
        return identity
    }
}

extension PresharedKeyEditor {
    /// Reads a file, has it changed, and puts the new one in its place, while nobody else who uses this does the same.
    /// - Parameter mayCreate: whether there may be no file yet.
    static func edit(
        _ path: String, mayCreate: Bool, _ change: (inout PresharedKeyEditor) throws(TalkingFailure) -> Void
    ) throws(TalkingFailure) {
        // A link's target is replaced, not the link.
        let target = realpath(path, nil)
        defer { free(target) }
        let path = target.map { String(cString: $0) } ?? path
        let before: [UInt8]
        var status = stat()
        let locked = try lock(path, mayCreate: mayCreate)
        do throws(SystemError) {
            guard fstat(locked.rawValue, &status) == 0 else { throw SystemError("fstat", path, errno: errno) }
            before = try TextFile.read(path, limit: maximumSize)
        } catch {
            throw .local("\(error)")
        }
        var editor = PresharedKeyEditor(before)
        try change(&editor)
        guard editor.bytes != before else { return }
        do throws(SystemError) {
            // A group, the daemon's for instance, keeps what it may do; others never get in.
            try PrivateFile.replace(
                path, with: editor.bytes, mode: (status.st_mode & 0o770) | 0o600,
                owner: (status.st_uid, status.st_gid))
        } catch {
            throw .local("\(error)")
        }
    }

    /// Opens a file and waits until nobody else changes it. The lock ends with the descriptor.
    private static func lock(_ path: String, mayCreate: Bool) throws(TalkingFailure) -> FileDescriptor {
        while true {
            let descriptor = open(path, O_RDWR | O_CLOEXEC | (mayCreate ? O_CREAT : 0), 0o600)
            guard descriptor >= 0 else { throw .local("\(SystemError("open", path, errno: errno))") }
            let file = FileDescriptor(owning: descriptor)
            while flock(file.rawValue, LOCK_EX) != 0 {
                guard errno == EINTR else { throw .local("\(SystemError("flock", path, errno: errno))") }
            }
            var (here, there) = (stat(), stat())
            // Somebody may have replaced the file meanwhile: then the lock is on one that nobody finds any more.
            guard fstat(file.rawValue, &here) == 0, stat(path, &there) == 0, here.st_ino == there.st_ino,
                here.st_dev == there.st_dev
            else { continue }
            return file
        }
    }
}
