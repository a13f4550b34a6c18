import CLinux
import Glibc
import Primitives

/// Reports when files are changed or replaced (inotify), including files that do not exist yet.
///
/// It watches folders, since a file is usually replaced by renaming a new one over it. If the path of a file contains
/// symbolic links, it also watches the folders of the links. If a folder is missing, it watches for its creation. After
/// every change, the files have to be added again.
public final class FileWatcher {
    /// Readable when something has changed. Another process can take it over, since the watches belong to the open
    /// file.
    public private(set) var descriptor: FileDescriptor
    /// The last components of the watched paths. Changes of other files in the same folders are ignored.
    public private(set) var names: Set<String>

    public init() throws(SystemError) {
        descriptor = FileDescriptor(
            owning: try system("inotify_init1") { inotify_init1(Int32(IN_NONBLOCK) | Int32(IN_CLOEXEC)) })
        names = []
    }

    /// Takes over the watches of another process.
    public init(owning descriptor: consuming FileDescriptor, names: Set<String>) {
        self.descriptor = descriptor
        self.names = names
    }

    /// The number of symbolic links that the kernel follows in one path (path_resolution(7)).
    private static let maximumLinks = 40

    private static let changes =
        UInt32(IN_CLOSE_WRITE) | UInt32(IN_MOVED_TO) | UInt32(IN_CREATE) | UInt32(IN_ATTRIB) | UInt32(IN_DELETE_SELF)
        | UInt32(IN_MOVE_SELF) | UInt32(IN_ONLYDIR)

    /// Watches a file and the symbolic links in its path. It uses the file system, so it may block.
    public func add(_ path: String) throws(SystemError) {
        var rest = path.split(separator: "/").map(String.init)
        var folder = path.hasPrefix("/") ? "/" : "./"
        var links = 0
        while !rest.isEmpty {
            let name = rest.removeFirst()
            let whole = folder + name
            let target = links < Self.maximumLinks ? Self.target(of: whole) : nil
            let isMissing = target == nil && !Self.exists(whole)
            if target != nil || isMissing || rest.isEmpty { try watch(name, in: folder) }
            // A component that was created before the watch is processed like the others.
            if isMissing, !Self.exists(whole) { return }
            if let target {
                links += 1
                rest = target.split(separator: "/").map(String.init) + rest
                if target.hasPrefix("/") { folder = "/" }
            } else {
                // ".." is kept, since the links before it are resolved.
                folder = whole + "/"
            }
        }
    }

    private func watch(_ name: String, in folder: String) throws(SystemError) {
        let raw = descriptor.rawValue
        _ = try system("inotify_add_watch", folder) { inotify_add_watch(raw, folder, Self.changes) }
        names.insert(name)
    }

    /// Whether a file of any kind exists at a path, or this cannot be determined.
    private static func exists(_ path: String) -> Bool {
        var status = stat()
        return lstat(path, &status) == 0 || errno != ENOENT
    }

    /// The target of a symbolic link; `nil` when the path is not a symbolic link.
    private static func target(of path: String) -> String? {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink(path, &buffer, buffer.count)
        guard count > 0 else { return nil }
        return String(decoding: buffer[..<count].lazy.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Reads all events since the last call.
    /// - Returns: whether a watched file may have changed.
    public func takeChanges() throws(SystemError) -> Bool {
        var isChanged = false
        let raw = descriptor.rawValue
        try withTemporaryBytes(16_384, alignment: 8) { buffer throws(SystemError) in
            while true {
                let count = try systemUnlessBlocked("read", "inotify") { read(raw, buffer.baseAddress, buffer.count) }
                guard let count, count > 0 else { return }
                if concernsFile(UnsafeRawBufferPointer(rebasing: buffer[..<count])) { isChanged = true }
            }
        }
        return isChanged
    }

    /// Parses whole events (inotify(7)): watch, mask, cookie, length of the name, and the name padded with NULs.
    private func concernsFile(_ events: UnsafeRawBufferPointer) -> Bool {
        var position = 0
        while position + 16 <= events.count {
            let mask = events.loadUnaligned(fromByteOffset: position + 4, as: UInt32.self)
            let length = Int(events.loadUnaligned(fromByteOffset: position + 12, as: UInt32.self))
            guard length <= events.count - position - 16 else { return true }
            let name = events[(position + 16)..<(position + 16 + length)].prefix { $0 != 0 }
            // An event without a name is about the folder itself, or says that events were lost.
            let isOfFolder = mask & (UInt32(IN_DELETE_SELF) | UInt32(IN_MOVE_SELF) | UInt32(IN_Q_OVERFLOW)) != 0
            if isOfFolder || names.contains(String(decoding: name, as: UTF8.self)) { return true }
            position += 16 + length
        }
        return false
    }
}
